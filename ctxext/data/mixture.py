"""Mix rows from several texts at fixed shares, in an order that a row's number alone decides.

In every block of 1024 rows each text has the same number of them, spread evenly: the block is
divided into as many strips as the text has rows, and each row falls at a random place of its strip.
So the share holds to within a few rows in any stretch, short runs included, and no counter has to
be saved: which rows came before a number is known from the number.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ctxext.data.packing import PackedRows
from ctxext.errors import BadInput

BLOCK = 1024
_SALT = 0x6D6978  # keeps these random numbers apart from those that order the rows of a text


@dataclass(frozen=True)
class Mixture:
    """An endless order of rows out of several texts.

    Attributes:
        parts: the texts, cut into rows of one length.
        weights: of each; its share of the rows, and so of the tokens, is weight / sum, rounded to
            1/1024, and at least that.
        seed: of the order.

    Raises:
        BadInput: no text, a weight that is not positive, more texts than rows in a block.
    """

    parts: tuple[PackedRows, ...]
    weights: tuple[float, ...]
    seed: int

    def __post_init__(self) -> None:
        if not self.parts or len(self.parts) != len(self.weights):
            raise BadInput("data.sources needs at least one text, and a weight for each")
        if len(self.parts) > BLOCK:
            raise BadInput(f"data.sources names {len(self.parts)} texts; {BLOCK} are the most")
        for text, weight in zip(self.parts, self.weights, strict=True):
            if not 0 < weight < float("inf"):
                raise BadInput(f"{text.name}: weight is {weight}, and has to be positive")
        if len({text.seq_length for text in self.parts}) > 1:
            raise ValueError("all texts need rows of one length")

    @property
    def seq_length(self) -> int:
        """Tokens in a row."""
        return self.parts[0].seq_length

    @property
    def rows(self) -> int:
        """Rows that exist, over all texts."""
        return sum(text.rows for text in self.parts)

    def pick(self, number: int) -> tuple[int, int]:
        """Find row `number` as (index of its text, row number within the order of that text)."""
        if len(self.parts) == 1:
            return 0, number
        counts = rows_in_block(self.weights)
        block, place = divmod(number, BLOCK)
        text, rank = _block_order(counts, self.seed, block)
        chosen = int(text[place])
        return chosen, block * counts[chosen] + int(rank[place])

    def batch(self, first: int, count: int) -> npt.NDArray[np.int64]:
        """Read rows number `first` .. `first + count - 1`, (count, seq_length)."""
        picked = [self.pick(number) for number in range(first, first + count)]
        return np.stack([self.parts[text].row(row) for text, row in picked])

    def begins(self, first: int, count: int) -> npt.NDArray[np.bool_]:
        """Mark where documents begin in rows, (count, seq_length); column 0 is always True."""
        picked = [self.pick(number) for number in range(first, first + count)]
        return np.stack([self.parts[text].begins(row) for text, row in picked])


@lru_cache(maxsize=8)
def rows_in_block(weights: tuple[float, ...]) -> tuple[int, ...]:
    """Share 1024 rows among texts by their weights: largest remainders, at least one each.

    >>> rows_in_block((0.5, 0.25, 0.25))
    (512, 256, 256)
    >>> sum(rows_in_block((1.0, 1.0, 1.0)))
    1024
    """
    exact = np.asarray(weights, dtype=np.float64) / sum(weights) * BLOCK
    counts = np.maximum(np.floor(exact).astype(np.int64), 1)
    left = BLOCK - int(counts.sum())
    if left > 0:
        counts[np.argsort(counts - exact, kind="stable")[:left]] += 1
    for _ in range(-left):  # what the smallest got beyond their share, the others give
        over = np.where(counts > 1, counts - exact, -np.inf)
        counts[int(np.argmax(over))] -= 1
    return tuple(int(count) for count in counts)


@lru_cache(maxsize=8)
def _block_order(
    counts: tuple[int, ...], seed: int, block: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Draw for each place in a block the text, and how many of its rows came before there."""
    text = np.repeat(np.arange(len(counts)), counts)
    rank = np.concatenate([np.arange(count) for count in counts])
    jitter = np.random.default_rng((seed, _SALT, block)).random(BLOCK)
    order = np.argsort((rank + jitter) / np.asarray(counts)[text], kind="stable")
    return text[order], rank[order]
