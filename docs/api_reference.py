"""Writes docs/api.md from the docstrings: `python docs/api_reference.py`."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cerebro
import cerebro.data
import cerebro.search
from cerebro import errors

PAGE = Path(__file__).with_name("api.md")
LONGEST = 96

HEAD = """# API reference

Made from the docstrings by `python docs/api_reference.py`; edit those. Importing `cerebro` loads
neither TensorFlow nor pandas.
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD, "## cerebro\n"]
    for name in cerebro.__all__:
        if name not in ("__version__", "errors", "search", "CerebroError"):
            parts += described(f"cerebro.{name}", getattr(cerebro, name))
    parts.append("## cerebro.data\n")
    for name in cerebro.data.__all__:
        if name != "Catalog":  # stands above
            parts += described(f"cerebro.data.{name}", getattr(cerebro.data, name))
    parts.append("## cerebro.search\n")
    for name in cerebro.search.__all__:
        parts += described(f"cerebro.search.{name}", getattr(cerebro.search, name))
    parts += ["## cerebro.errors\n", text(errors)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts)).rstrip() + "\n"


def described(name: str, thing: Any) -> Iterator[str]:
    """A class with its public methods, or a function."""
    yield f"### {name}\n"
    yield f"```text\n{signature(thing)}\n```\n"
    yield text(thing)
    if not inspect.isclass(thing):
        return
    for own, member in vars(thing).items():
        if own.startswith("_"):
            continue
        if inspect.isfunction(member):
            yield f"#### {thing.__name__}.{own}\n"
            yield f"```text\n{signature(member)}\n```\n"
            yield text(member)
        elif isinstance(member, property) or hasattr(member, "attrname"):
            yield f"#### {thing.__name__}.{own}\n"
            yield text(member)


class Annotation:
    """An annotation as its source has it, where it would be shown as a string."""

    def __init__(self, source: str) -> None:
        self.source = source

    def __repr__(self) -> str:
        return self.source


def signature(thing: Any) -> str:
    """How it is called, a line a parameter where one line is too long."""
    found = inspect.signature(thing)
    parameters = [
        parameter.replace(annotation=Annotation(parameter.annotation))
        if isinstance(parameter.annotation, str)
        else parameter
        for parameter in found.parameters.values()
        if parameter.name != "self"
    ]
    answer = "" if inspect.isclass(thing) else f" -> {found.return_annotation}"
    line = f"{thing.__name__}{inspect.Signature(parameters)}{answer}"
    if len(line) <= LONGEST:
        return line
    lines = []
    for before, parameter in zip([None, *parameters], parameters, strict=False):
        keyword_only = parameter.kind is parameter.KEYWORD_ONLY
        if keyword_only and (before is None or before.kind is not parameter.kind):
            lines.append("    *,")
        lines.append(f"    {parameter},")
    return "\n".join([f"{thing.__name__}(", *lines, f"){answer}"])


def text(thing: Any) -> str:
    """Its docstring; what stands indented in it is code."""
    lines, is_code = [], False
    for line in inspect.cleandoc(thing.__doc__ or "").splitlines():
        indented = line.startswith("    ")
        if indented and not is_code and (not lines or not lines[-1]):
            lines.append("```text")
            is_code = True
        elif is_code and line and not indented:
            lines.insert(len(lines) - 1, "```")
            is_code = False
        lines.append(line.removeprefix("    ") if is_code else line)
    return "\n".join([*lines, *(["```"] if is_code else [])]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
