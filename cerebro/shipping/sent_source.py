"""The source of code that travels: what AutoGraph and `inspect` read where the code runs.

Code goes under a file name of its own: `<sent DIGEST>` and the file that it is from, with a digest
of the text, so that no name ever stands for two texts. On a worker it leads to the text that was
sent, whatever lies there under the file's name. A text is sent only if compiling it gives exactly
the code: the file may have been edited since it was read. Code that no text gives goes as
`<sent without source>`.
"""

from __future__ import annotations
import __future__

import ast
import functools
import hashlib
import linecache
import os
import re
import tokenize
import warnings
from collections.abc import Mapping, Sequence
from types import CodeType
from typing import Any

from cerebro.shipping import code

SENT = "<sent "
"""What the name of every file that was sent starts with."""

WITHOUT = f"{SENT}without source>"

NO_FILE = "<string>"
"""The name of code from `exec`, in which AutoGraph does nothing, and says nothing."""

_MARK = re.compile(r"<sent (?:[0-9a-f]{8}|without source)>(?=.)")

FUTURES = 0
"""The flags of code that `__future__` imports set."""
for _name in __future__.all_feature_names:
    FUTURES |= getattr(__future__, _name).compiler_flag


def with_users_files(text: str) -> str:
    """A text, as of a traceback, in which files that were sent have the names that users know."""
    return _MARK.sub("", text) if SENT in text else text


def name_of(file: str, text: str) -> str:
    """The name under which a file with this text is sent."""
    return f"{SENT}{hashlib.sha256(text.encode(errors='replace')).hexdigest()[:8]}>{file}"


def show(files: Mapping[str, Sequence[str]]) -> None:
    """Let files that were sent be read by their names: from here on, in this process."""
    for name, lines in files.items():
        # Without a time of modification an entry is never compared with a file.
        linecache.cache[name] = (sum(map(len, lines)), None, list(lines), name)


class SentFiles:
    """Gives files that are sent their names, and keeps their lines by name."""

    def __init__(self) -> None:
        self.lines: dict[str, list[str]] = {}

    def renamed(self, part: CodeType, globals_: dict[str, Any] | None = None) -> CodeType:
        """Code under the name of the file that it is sent with.

        `globals_` are those of its function, which may lead to a loader that knows the text.
        """
        file = part.co_filename
        if file.startswith(SENT) or file == NO_FILE:
            if file in linecache.cache:
                self.lines[file] = linecache.getlines(file)
            return part
        for lines in readings(file, globals_):
            made = compiled(file, "".join(lines), part.co_flags & FUTURES)
            if any(is_same(part, other) for other in made):
                return _under(part, self.name(file, lines))
        name = WITHOUT + file
        self.lines[name] = []
        return _under(part, name)

    def name(self, file: str, lines: Sequence[str]) -> str:
        """The name under which these lines of a file are sent."""
        name = name_of(file, "".join(lines))
        self.lines[name] = list(lines)
        return name


def readings(file: str, globals_: dict[str, Any] | None = None) -> list[list[str]]:
    """The lines of a file as they were read before, and as they are there now."""
    found = [linecache.getlines(file, globals_)]
    if os.path.isfile(file):
        try:
            with tokenize.open(file) as stream:
                found.append(stream.readlines())
        except (OSError, SyntaxError, UnicodeDecodeError):
            pass
    return [lines for lines in found if lines]


@functools.lru_cache(maxsize=64)
def compiled(file: str, text: str, flags: int = 0) -> tuple[CodeType, ...]:
    """All code that a text gives, with that nested in it; none for what cannot be compiled.

    `flags` are those of `__future__` imports beyond the text's own.
    """
    # Cells of a notebook may await at their top.
    flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they were given when the text was run
        try:
            return (*code.nested(compile(text, file, "exec", flags=flags, dont_inherit=True)),)
        except (SyntaxError, ValueError):
            return ()


_COMPARED = (
    "co_name",
    "co_qualname",
    "co_firstlineno",
    "co_argcount",
    "co_posonlyargcount",
    "co_kwonlyargcount",
    "co_flags",
    "co_names",
    "co_varnames",
    "co_freevars",
    "co_cellvars",
    "co_code",
    "co_exceptiontable",
)


def is_same(one: CodeType, other: CodeType) -> bool:
    """Whether two pieces of code do the same, in the same lines; files and columns aside."""
    return (
        all(getattr(one, name, None) == getattr(other, name, None) for name in _COMPARED)
        and list(one.co_lines()) == list(other.co_lines())
        and _is_same_constant(one.co_consts, other.co_consts)
    )


def _is_same_constant(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, CodeType):
        return is_same(one, other)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(_is_same_constant, one, other))
    if isinstance(one, frozenset):
        return {(type(item), repr(item)) for item in one} == {
            (type(item), repr(item)) for item in other
        }
    # By the text, for 0.0 is equal to -0.0, and NaN to nothing.
    return repr(one) == repr(other)


def _under(part: CodeType, name: str) -> CodeType:
    """Code, and what is nested in it, under another file name."""
    constants = tuple(
        _under(constant, name) if isinstance(constant, CodeType) else constant
        for constant in part.co_consts
    )
    return part.replace(co_filename=name, co_consts=constants)
