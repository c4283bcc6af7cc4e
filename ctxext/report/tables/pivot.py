"""Rows of measurements as a table: one line for each of these, one column for each of those."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from ctxext.lengths import show_length

Table = tuple[list[str], list[list[str]]]
"""The columns' heads, and lines of cells."""
Row = TypeVar("Row")


def pivot(
    rows: Iterable[Row],
    *,
    down: Callable[[Row], Any],
    across: Callable[[Row], Any],
    cell: Callable[[Row], str],
    corner: Sequence[str] = ("model",),
    lines: Sequence[Any] | None = None,
    columns: Sequence[Any] | None = None,
    head: Callable[[Any], str] = show_length,
    name: Callable[[Any], Sequence[str]] | None = None,
    missing: str = "–",
) -> Table:
    """Lay rows out as a table.

    Args:
        down: the line of a row: a text, or one for each column of the corner.
        across: the column of a row; columns are sorted.
        cell: the text of a row.
        corner: heads of the columns that name the lines.
        lines: all lines in their order; None = as they appear.
        columns: all columns in their order; None = sorted.
        head: writes the head of a column.
        name: writes the beginning of a line that is no text.
        missing: what stands where there is no row.

    >>> rows = [("a", 1024, "x"), ("b", 512, "y")]
    >>> columns, lines = pivot(
    ...     rows, down=lambda r: r[0], across=lambda r: r[1], cell=lambda r: r[2]
    ... )
    >>> columns, lines
    (['model', '512', '1k'], [['a', '–', 'x'], ['b', 'y', '–']])
    """
    cells = {(down(row), across(row)): cell(row) for row in rows}
    if lines is None:
        lines = list(dict.fromkeys(line for line, _ in cells))
    if columns is None:
        columns = sorted({column for _, column in cells})
    named = name or (lambda line: [line] if isinstance(line, str) else line)
    return (
        [*corner, *(head(column) for column in columns)],
        [
            [*named(line), *(cells.get((line, column), missing) for column in columns)]
            for line in lines
        ],
    )
