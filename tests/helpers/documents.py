"""The project's documents, taken apart: code blocks, tables, options, links."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]

_BLOCK = re.compile(
    r"(?:^[ ]*<!--(?P<mark>[^\n]*?)-->\n)?"
    r"^(?P<indent>[ ]*)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


def name_of(document: Path) -> str:
    """A document's path inside the project, such as `docs/search.md`."""
    return document.relative_to(ROOT).as_posix()


@dataclass(frozen=True)
class Block:
    """A fenced block. `mark` is the HTML comment in the line above it, empty if there is none."""

    document: Path
    line: int
    language: str
    mark: str
    text: str

    @property
    def name(self) -> str:
        """`docs/search.md:40`."""
        return f"{name_of(self.document)}:{self.line}"


def blocks(document: Path, language: str) -> list[Block]:
    """The blocks of one language in a document, in order."""
    content = document.read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(content):
        if match["language"] == language:
            lines = match["text"].splitlines()
            text = "\n".join(line.removeprefix(match["indent"]) for line in lines)
            number = content.count("\n", 0, match.start("indent")) + 1
            mark = (match["mark"] or "").strip()
            found.append(Block(document, number, language, mark, text + "\n"))
    return found


def prose(document: Path) -> str:
    """A document without its fenced blocks."""
    return _BLOCK.sub("", document.read_text(encoding="utf-8"))


def table(document: Path, heading: str) -> list[list[str]]:
    """The rows of the first table under a heading, without head and rule."""
    content = document.read_text(encoding="utf-8")
    section = re.split(rf"^#+ {re.escape(heading)}$", content, flags=re.MULTILINE)
    assert len(section) == 2, f"{document.name} has no heading {heading!r}"
    body = re.split(r"^#", section[1], flags=re.MULTILINE)[0]
    rows = [line for line in body.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def codes(text: str) -> list[str]:
    """What stands in backquotes."""
    return re.findall(r"`([^`]+)`", text)
