"""What code does, without where it stands: for fingerprints.

Positions, file names and docstrings are left out, and so is where a constant lies among the others.
"""

from __future__ import annotations

import dis
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType
from typing import Any

_KINDS_OF_FUNCTION = 0x04 | 0x08 | 0x20 | 0x80 | 0x100 | 0x200
"""Flags of code: variable arguments, generators, coroutines."""

_POSITIONS = {"__doc__", "__firstlineno__"}
"""Names that the body of a class or module stores a constant under that does nothing."""

_PASSED_OVER = {"CACHE", "EXTENDED_ARG"}


@dataclass(frozen=True)
class Instructions:
    """One code object: `steps` are its instructions, `constants` what they load, in order.

    `loaded` are the names that it reads, and the texts it has, by which it may read others.
    """

    name: str
    steps: bytes
    constants: tuple[Any, ...]
    loaded: frozenset[str]
    inner: tuple[CodeType, ...]


def read(part: CodeType) -> Instructions:
    """The instructions of one code object; `inner` are the code objects nested in it."""
    steps: list[tuple[str, int | None]] = []
    constants: list[Any] = []
    inner: list[CodeType] = []
    loaded: set[str] = set()
    for instruction, after in _with_next(part):
        name = instruction.opname
        if instruction.opcode not in dis.hasconst:
            steps.append((name, instruction.arg))
            if instruction.opcode in dis.hasname and not name.startswith(("STORE", "DELETE")):
                loaded.add(str(instruction.argval))
            continue
        steps.append((name, None))
        assert instruction.arg is not None
        # Not `argval`, which is not known for the names of keyword arguments.
        constant = part.co_consts[instruction.arg]
        if after is not None and after.opname == "STORE_NAME" and after.argval in _POSITIONS:
            continue
        if isinstance(constant, CodeType):
            inner.append(constant)
            steps[-1] = (name, len(inner))
        else:
            constants.append(constant)
            if isinstance(constant, str):
                loaded.add(constant)
    counts = (part.co_argcount, part.co_posonlyargcount, part.co_kwonlyargcount)
    names = (part.co_names, part.co_varnames, part.co_freevars, part.co_cellvars)
    head = (part.co_name, counts, part.co_flags & _KINDS_OF_FUNCTION, names)
    text = repr((head, steps)).encode() + getattr(part, "co_exceptiontable", b"")
    return Instructions(part.co_name, text, tuple(constants), frozenset(loaded), tuple(inner))


def _with_next(part: CodeType) -> Iterator[tuple[dis.Instruction, dis.Instruction | None]]:
    found = [i for i in dis.get_instructions(part) if i.opname not in _PASSED_OVER]
    yield from zip(found, [*found[1:], None], strict=True)
