"""A table as CSV that a spreadsheet takes for values, and never for formulas."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from cerebro.formatting import printable

if TYPE_CHECKING:
    import pandas

FORMULA = re.compile(r"'*\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\n]")
"""How a text starts that a spreadsheet may compute; and one that would look escaped."""

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def csv_text(frame: pandas.DataFrame) -> bytes:
    """Return a table as CSV in UTF-8.

    In texts, control characters but newline and tab are escaped, as `\\x1b`; a carriage return
    would end its row for some readers. A text that a spreadsheet could take for a formula (`=1+1`)
    has an apostrophe before it, and one that starts with apostrophes before such a text has one
    more: taking one away gives the text. Numbers, and texts that are numbers, stay.
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
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if FORMULA.match(text) and not NUMBER.fullmatch(text) else text
