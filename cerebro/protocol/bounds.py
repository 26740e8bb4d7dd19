"""What numbers and names may be, beside their types, in messages and in the journal's records.

One table for both: what a worker may say, the driver may write, and every reader takes. A type
here is one of `typing.Annotated`, with the bound that `fits` and messages ask. A number that is not
bounded for its meaning is bounded so that arithmetic with it neither overflows nor takes forever.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from cerebro.protocol.types import depth, fits

LARGEST = 2**53 - 1
"""The largest integer that every JSON reader has exactly."""

LARGEST_INDEX = 2**31 - 1
LONGEST_SECONDS = 1e9
"""30 years."""

LATEST_TIME = 8e9
"""Unix time: in the year 2223. Tables hold nanoseconds since 1970 in 64 bits, until 2262."""

LARGEST_FLOAT = sys.float_info.max


@dataclass(frozen=True)
class Within:
    """A number between two others, or one of them; NaN is in no range."""

    low: float
    high: float

    def holds(self, value: Any) -> bool:
        """Tell whether a number is in the range."""
        return bool(self.low <= value <= self.high)

    def __str__(self) -> str:
        return f"between {self.low:g} and {self.high:g}"


@dataclass(frozen=True)
class Representable:
    """A number that is a float, NaN and infinities among them, or an integer that can be one."""

    def holds(self, value: Any) -> bool:
        """Tell whether a number can be a float."""
        return type(value) is float or -LARGEST_FLOAT <= value <= LARGEST_FLOAT

    def __str__(self) -> str:
        return f"between {-LARGEST_FLOAT:g} and {LARGEST_FLOAT:g}, infinite, or NaN"


@dataclass(frozen=True)
class Formed:
    """A text that has a form as a whole."""

    pattern: str
    words: str

    def holds(self, value: Any) -> bool:
        """Tell whether a text has the form."""
        return re.fullmatch(self.pattern, value, re.ASCII | re.DOTALL) is not None

    def __str__(self) -> str:
        return self.words


@dataclass(frozen=True)
class Text:
    """A text that is not empty, not longer than `longest` characters, and can be a path's: it has
    no NUL, and no surrogates but those that stand for bytes.
    """

    longest: int

    def holds(self, value: Any) -> bool:
        """Tell whether a text is one."""
        if not 0 < len(value) <= self.longest or "\0" in value:
            return False
        try:
            return bool(value.isascii() or value.encode(errors="surrogateescape"))
        except UnicodeEncodeError:
            return False

    def __str__(self) -> str:
        return f"a text of 1 to {self.longest} characters without NUL and lone surrogates"


@dataclass(frozen=True)
class Known:
    """An object some of whose keys have a type, where they are there, and which is not deep."""

    hints: tuple[tuple[str, Any], ...]
    deepest: int = 20

    def holds(self, value: Any) -> bool:
        """Tell whether an object is one."""
        shallow = depth(value) <= self.deepest
        return shallow and all(fits(value[n], hint) for n, hint in self.hints if n in value)

    def __str__(self) -> str:
        names = ", ".join(name for name, _ in self.hints)
        own = f"with {names} each of their type, " if names else ""
        return f"{own}nested at most {self.deepest} levels"


Count: TypeAlias = Annotated[int, Within(0, LARGEST)]
"""How many, or the number of something that is counted over a whole run."""

Index: TypeAlias = Annotated[int, Within(0, LARGEST_INDEX)]
"""The number of a worker, a model, an epoch, a partition."""

Seconds: TypeAlias = Annotated[float, Within(0.0, LONGEST_SECONDS)]
UnixTime: TypeAlias = Annotated[float, Within(0.0, LATEST_TIME)]

Examples: TypeAlias = Annotated[float, Within(0.0, LARGEST_FLOAT)]
"""How many examples: those with weights need not be whole."""

Number: TypeAlias = Annotated[float, Representable()]
"""What user code computes: a loss may be NaN, or infinite."""

Seed: TypeAlias = Annotated[int, Within(-LARGEST_FLOAT, LARGEST_FLOAT)]

Name: TypeAlias = Annotated[
    str, Formed(r"[\w.-]{1,64}", "1 to 64 letters, digits, and any of _.- in ASCII")
]
"""A word of this library, such as a backend's name."""

RunId: TypeAlias = Annotated[
    str,
    Formed(r"[A-Za-z0-9][\w.-]{0,63}", "1 to 64 letters, digits, and any of _.- behind the first"),
]
FolderName: TypeAlias = Annotated[
    str,
    Formed(r"(?!\.{1,2}\Z)[^/\0]{1,255}", "the name of one folder: 1 to 255 characters, and no /"),
]
Path: TypeAlias = Annotated[str, Text(32768)]
Url: TypeAlias = Annotated[str, Text(4096)]
Digest: TypeAlias = Annotated[
    str, Formed(r"[0-9a-f]{64}", "a SHA-256: 64 hexadecimal digits in lower case")
]

Process: TypeAlias = Annotated[dict[str, Any], Known((("host", str), ("pid", Count)))]
"""A process, for people."""

Versions: TypeAlias = Annotated[
    dict[str, Any],
    Known(
        (
            ("cerebro", str),
            ("protocol", Count),
            ("python", str),
            ("tensorflow", str | None),
            ("keras", str | None),
            ("numpy", str | None),
        )
    ),
]

Facts: TypeAlias = Annotated[
    dict[str, Any],
    Versions.__metadata__[0],
    Process.__metadata__[0],
    Known((("threads", Count), ("gpu", Index | None), ("devices", list[str]))),
]
"""What a worker says of itself: versions and machine."""

States: TypeAlias = Annotated[dict[str, dict[str, Any]], Known(())]
"""What adds up of metrics; what is in it is looked at where it is added up."""
