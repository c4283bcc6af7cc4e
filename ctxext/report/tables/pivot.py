"""Rows of measurements as a table: one line for each of these, one column for each of those."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ctxext.lengths import show_length

Table = tuple[list[str], list[list[str]]]
"""The columns' heads, and lines of cells."""
Row = TypeVar("Row")


@dataclass(frozen=True)
class Down:
    """The lines of a table.

    Attributes:
        key: the line of a row.
        heads: of the columns that name the lines.
        lines: all of them in their order; None = as they appear.
        name: writes the beginning of a line; None = its key is a text, or one text for each head.
    """

    key: Callable[[Any], Any]
    heads: Sequence[str]
    lines: Sequence[Any] | None = None
    name: Callable[[Any], Sequence[str]] | None = None


@dataclass(frozen=True)
class Across:
    """The columns of a table.

    Attributes:
        key: the column of a row.
        columns: all of them in their order; None = sorted.
        head: writes the head of a column.
    """

    key: Callable[[Any], Any]
    columns: Sequence[Any] | None = None
    head: Callable[[Any], str] = show_length


MODELS = Down(lambda row: row.model, ["model"])
LENGTHS = Across(lambda row: row.length)


def pivot(
    rows: Iterable[Row],
    *,
    down: Down,
    across: Across,
    cell: Callable[[Row], str],
    missing: str = "–",
) -> Table:
    """Lay rows out as a table, with `missing` where there is none.

    >>> rows = [("a", 1024, "x"), ("b", 512, "y")]
    >>> down, across = Down(lambda row: row[0], ["model"]), Across(lambda row: row[1])
    >>> pivot(rows, down=down, across=across, cell=lambda row: row[2])
    (['model', '512', '1k'], [['a', '–', 'x'], ['b', 'y', '–']])
    """
    cells = {(down.key(row), across.key(row)): cell(row) for row in rows}
    lines = dict.fromkeys(line for line, _ in cells) if down.lines is None else down.lines
    columns = sorted({column for _, column in cells}) if across.columns is None else across.columns
    name = down.name or (lambda line: [line] if isinstance(line, str) else line)
    return (
        [*down.heads, *(across.head(column) for column in columns)],
        [
            [*name(line), *(cells.get((line, column), missing) for column in columns)]
            for line in lines
        ],
    )
