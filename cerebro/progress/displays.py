"""Which display a run has."""

from __future__ import annotations

from typing import Any

from cerebro.errors import InputError
from cerebro.formatting import shorten
from cerebro.progress.notebook import Notebook, can_display
from cerebro.progress.plain import Display, Plain, Silent
from cerebro.progress.terminal import Terminal, can_live

CHOICES = ("auto", "live", "plain", "notebook", "off")


def check_progress(choice: Any) -> str:
    """Return the name of a choice; False is "off". Raises `InputError` for anything else."""
    if choice is False:
        return "off"
    if isinstance(choice, str) and choice in CHOICES:
        return choice
    raise InputError(
        f"progress={shorten(choice)}: choose one of {', '.join(map(repr, CHOICES))}, or False"
    )


def display_for(choice: str) -> Display:
    """Make the display of a choice; where it cannot be had, plain lines whose first says why."""
    if choice == "off":
        return Silent()
    if choice == "notebook" or (choice == "auto" and not can_display()):
        return _either(Notebook, choice, can_display())
    if choice == "live" or (choice == "auto" and not can_live()):
        return _either(Terminal, choice, can_live())
    return Plain()


def _either(kind: type[Notebook] | type[Terminal], choice: str, missing: str) -> Display:
    if not missing:
        return kind()
    plain = Plain()
    plain.line(f"progress={choice!r} shows plain lines here, because {missing}")
    return plain
