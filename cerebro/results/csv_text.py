"""A table as CSV that a spreadsheet takes for values, and never for formulas."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from cerebro.formatting import printable

if TYPE_CHECKING:
    import pandas

FORMULA = re.compile(r"'*\s*[=+\-@\uff1d\uff0b\uff0d\uff20]")
"""How a text starts that a spreadsheet may compute; and one that would look escaped."""

SEPARATORS = re.compile(r"([;\t\n])")
"""Where a spreadsheet may begin another cell. Where the comma is in numbers, as in German or
Portuguese, the semicolon separates cells, and quotes within a line are none."""

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def csv_text(frame: pandas.DataFrame) -> bytes:
    """Return a table as CSV in UTF-8.

    In texts, control characters but newline and tab are escaped, as `\\x1b`; a carriage return
    would end its row for some readers. What a spreadsheet could take for a formula (`=1+1`), at the
    start of a text or behind a semicolon, tab or newline in it, has an apostrophe before it, and
    where apostrophes are before that one more: taking one away gives the text. A text that starts
    with a tab or newline has one, too. Numbers, and texts that are numbers, stay.
    """
    import pandas

    cells = frame.copy(deep=False)
    for place, dtype in enumerate(frame.dtypes):
        if pandas.api.types.is_object_dtype(dtype) or pandas.api.types.is_string_dtype(dtype):
            column = [_cell(value) for value in frame.iloc[:, place]]
            cells.isetitem(place, pandas.Series(column, index=frame.index, dtype=object))
    cells.columns = pandas.Index([_cell(str(name)) for name in frame.columns])
    return str(cells.to_csv(index=False)).encode("utf-8")


def _cell(value: Any) -> Any:
    if isinstance(value, (list, tuple, dict)):
        value = str(value)  # as pandas does
    if not isinstance(value, str):
        return value
    text = "".join(map(_part, SEPARATORS.split(printable(value))))
    return f"'{text}" if text.startswith(("\t", "\n")) else text


def _part(text: str) -> str:
    return f"'{text}" if FORMULA.match(text) and not NUMBER.fullmatch(text) else text
