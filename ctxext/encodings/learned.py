"""A learned table: a row for each position, added to the embedding of its token.

There is no row past the last one, so a table is extended by making new rows of the trained ones.
What a method has to say is from where each new row comes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TableSpec:
    """A table of position vectors, as it was trained.

    Attributes:
        window: rows of positions, tokens.
        offset: rows before that of position 0, which are no positions (2 in OPT).
    """

    window: int
    offset: int = 0


def resampled(table: "Tensor", spec: TableSpec, source: Sequence[float]) -> "Tensor":
    """Make the table whose row for position p is that of source position `source[p]`.

    Between two rows lies their mean by distance, computed in float64: with x = source[p],
    (1 - x + floor(x)) E[floor(x)] + (x - floor(x)) E[floor(x) + 1].

    Args:
        table: (offset + window, width) as trained.
        source: (target,) positions of the trained table, 0 to window - 1.

    Returns:
        (offset + target, width) in the table's dtype; the rows before position 0 stay.

    Raises:
        ValueError: the table has not so many rows, or a source outside of it.
    """
    if table.shape[0] != spec.offset + spec.window:
        raise ValueError(f"{table.shape[0]} rows, not {spec.offset} + {spec.window}")
    if not all(0 <= x <= spec.window - 1 for x in source):
        raise ValueError("a source position outside of the table")
    rows = table[spec.offset :].double()
    at = rows.new_tensor(list(source))
    below = at.floor().long()
    above = (below + 1).clamp(max=spec.window - 1)
    share = (at - below)[:, None]
    new = rows[below] * (1 - share) + rows[above] * share
    out = table.new_empty(spec.offset + len(source), table.shape[1])
    out[: spec.offset], out[spec.offset :] = table[: spec.offset], new.to(table.dtype)
    return out
