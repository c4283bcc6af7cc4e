"""Tables for a terminal that is narrower than they are: in parts, with no number cut."""

import textwrap
from collections.abc import Iterator, Sequence

Cells = tuple[list[str], list[list[str]]]
"""Heads and lines of a table, or of a part of it."""

_EDGE = 3  # characters between two cells: a space, a line, a space
_NAME, _CELL = 16, 26  # a longer name is broken anywhere, a longer cell between its words


def fitted(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Iterator[Cells]:
    """Divide a table into parts that fit; each begins with the columns that name its lines.

    >>> table = ["model", "1k", "2k"], [["a", "3.1 ± 0.1", "3.2 ± 0.1"]]
    >>> [heads for heads, _ in fitted(*table, 80)]
    [['model', '1k', '2k']]
    >>> [heads for heads, _ in fitted(*table, 24)]
    [['model', '1k'], ['model', '2k']]
    """
    lines = [list(columns), *(list(row) for row in rows)]
    whole = [max(len(line[at]) for line in lines) for at in range(len(columns))]
    if 1 + sum(_EDGE + wide for wide in whole) <= width:
        yield lines[0], lines[1:]
        return
    names = naming_columns(rows)
    needed = [
        min(_NAME, wide) if at < names else _least([line[at] for line in lines])
        for at, wide in enumerate(whole)
    ]
    for part, room in _parts(needed, names, width):
        wide = [needed[at] + (room if at == names - 1 else 0) for at in part]
        cut = [
            [_wrapped(line[at], n, name=at < names) for at, n in zip(part, wide, strict=True)]
            for line in lines
        ]
        yield cut[0], cut[1:]


def naming_columns(rows: Sequence[Sequence[str]]) -> int:
    """Count the first columns that tell all lines apart: the model, or task and model."""
    for count in range(1, len(rows[0]) if rows else 1):
        if len({tuple(row[:count]) for row in rows}) == len(rows):
            return count
    return 1


def _wrapped(cell: str, width: int, *, name: bool) -> str:
    """Break a cell between its words; only a name also at hyphens, or where it must."""
    lines = textwrap.wrap(cell, width, break_long_words=name, break_on_hyphens=name)
    return "\n".join(lines)


def _least(column: Sequence[str]) -> int:
    """Find the characters a column needs: its longest word, and short cells whole."""
    head, *cells = column
    words = max((len(word) for cell in column for word in cell.split()), default=1)
    return max(words, min(_CELL, max(map(len, [*cells, head.partition(" ")[0]]))))


def _parts(needed: Sequence[int], names: int, width: int) -> Iterator[tuple[list[int], int]]:
    """Give the columns of each part, by what each needs, and the characters left over."""
    first = list(range(names))
    left = width - 1 - sum(_EDGE + needed[at] for at in first)
    part, room = [*first], left
    for at in range(names, len(needed)):
        need = _EDGE + needed[at]
        if need > room and len(part) > names:
            yield part, max(0, room)
            part, room = [*first], left
        part.append(at)
        room -= need
    yield part, max(0, room)
