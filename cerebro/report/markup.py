"""HTML, made from elements: whatever is not HTML already is escaped.

All of the page is a `Markup`, and only this module and what is written down in `page` make one, so
that a value is text whatever its type: the id of a model as much as a message.
"""

from __future__ import annotations

import html
from collections.abc import Iterable

from cerebro.formatting import printable


class Markup(str):
    """A text that is HTML."""

    __slots__ = ()


def text(value: object) -> Markup:
    """A value as HTML that shows it; one that is HTML already stays."""
    return value if isinstance(value, Markup) else Markup(html.escape(printable(str(value))))


def joined(pieces: Iterable[object], between: str = "") -> Markup:
    """Pieces after each other, with this text between them."""
    return Markup(text(between).join(map(text, pieces)))


def element(name: str, *content: object, **attributes: object) -> Markup:
    """An element. `class_` is the attribute `class`, `data_model` is `data-model`; None is left
    out, and True has no value.
    """
    given = [
        f" {_attribute(key)}" if value is True else f" {_attribute(key)}='{text(str(value))}'"
        for key, value in attributes.items()
        if value is not None
    ]
    return Markup(f"<{name}{''.join(given)}>{joined(content)}</{name}>")


def _attribute(key: str) -> str:
    return key.rstrip("_").replace("_", "-")
