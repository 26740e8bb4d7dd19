"""How values, durations, sizes and other people's texts stand in messages.

A text from a record, an exception, a worker or a configuration may hold anything: sequences that a
terminal obeys, characters that turn the rest of a line around. It is kept as it is, and passes
`printable` or `one_line` where it is shown.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from typing import Any, TextIO

UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f"  # control characters: C0, DEL, C1
    r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # what turns the direction of text around
    r"\u2028\u2029"  # separators of lines and paragraphs
    r"\u200b\u2060\ufeff\ufff9-\ufffb"  # without a width, and no part of a word or an emoji
    r"\ud800-\udfff]"  # lone surrogates, which cannot be encoded
)
NAMED = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
"""The sequences that set colours and weight, and do nothing else."""


def count(number: int, noun: str) -> str:
    """`1 worker`, `2 workers`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def first_line(text: str, limit: int = 400) -> str:
    """The start of a message that may have many lines."""
    return text.split("\n", 1)[0][:limit]


def duration(seconds: float) -> str:
    """`8 s`, `3 min`, `1 h 05 min`, `2 d 3 h`: as exact as an estimate deserves."""
    whole = max(0, round(seconds))
    if whole < 100:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes:02d} min"
    return f"{hours // 24} d {hours % 24} h"


def size(count: float) -> str:
    """`980 B`, `5.9 MB`, `1.2 TB`; a MB is a million bytes."""
    units = ("B", "kB", "MB", "GB", "TB")
    for unit in units:
        if count < 999.5 or unit == units[-1]:
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"


def readable(text: str) -> str:
    """A text that can be encoded: lone surrogates, as in names that are no UTF-8, are escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def printable(text: str, keep: str = "\n\t") -> str:
    """A text that a terminal only shows: what it would obey, or not show, is escaped, as `\\x1b`.

    The characters in `keep` stay. Escaping a text again changes nothing.
    """
    return UNPRINTABLE.sub(lambda found: _escaped(found[0], keep), text)


def one_line(text: str) -> str:
    """A printable text that stays in its line, such as a name or an address in a table."""
    return printable(text, "")


def printable_log(text: str) -> str:
    """A printable text for a file; colours that user code prints stay."""
    parts = COLOURS.split(text)
    colours = [*COLOURS.findall(text), ""]
    return "".join(printable(part) + c for part, c in zip(parts, colours, strict=True))


def without_colours(text: str) -> str:
    """A text without the sequences that set colours, as Keras and many loggers print them."""
    return COLOURS.sub("", text)


def for_stream(text: str, stream: TextIO | None) -> str:
    """A printable text that this stream can encode: on an ASCII terminal `ü` is `\\xfc`."""
    return encodable(printable(text), stream)


def encodable(text: str, stream: object) -> str:
    """A text without what this stream cannot encode, which is escaped."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _escaped(character: str, keep: str) -> str:
    if character in keep:
        return character
    code = ord(character)
    return NAMED.get(character) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def message_of(error: BaseException) -> str:
    """What an error says, also where its own `__str__` raises."""
    try:
        return readable(str(error))
    except Exception as another:
        return f"(its message cannot be had: __str__ raised {type(another).__name__})"


def shorten(value: Any, limit: int = 200) -> str:
    """A value's `repr`, cut to `limit` characters; also for values whose `repr` raises."""
    try:
        text = repr(value)
    except Exception as error:
        text = f"<{type(value).__name__} whose repr raised {type(error).__name__}>"
    return text if len(text) <= limit else text[: limit - 1] + "…"


def metric_name(metric: str) -> str:
    """A metric's name in a sentence: `valid error` for the column `valid_error`."""
    return metric.replace("_", " ", 1) if metric.startswith(("train_", "valid_")) else metric


def shown(value: Any) -> str:
    """A hyperparameter's value for people: strings as they are, all else as JSON.

    Six digits of a number that was drawn from a range tell it from the others.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.6g}"
    return json.dumps(value, ensure_ascii=False)


def some(names: Iterable[str], most: int) -> str:
    """Join names by commas: the first `most` of them, and how many more there are."""
    names = list(names)
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
