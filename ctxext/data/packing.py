"""Full rows of `seq_length` tokens, in an order that a step number alone decides."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ctxext.data.tokens import TokenIds
from ctxext.errors import BadInput


@dataclass(frozen=True)
class PackedRows:
    """A token stream cut into whole rows; every epoch reads them in a new order.

    Attributes:
        stream: all tokens, (tokens,); what does not fill a last row is left out.
        seq_length: tokens in a row.
        seed: of the order.
    """

    stream: TokenIds
    seq_length: int
    seed: int

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise BadInput(
                f"--data has {len(self.stream)} tokens, and one row needs --seq-length "
                f"{self.seq_length}",
                "give more text, or a shorter --seq-length",
            )

    @property
    def rows(self) -> int:
        """Rows in one epoch."""
        return len(self.stream) // self.seq_length

    def batch(self, first: int, count: int) -> npt.NDArray[np.int64]:
        """Rows number `first` .. `first + count - 1` of the endless order, (count, seq_length).

        A function of (seed, number) only, so a resumed run goes on where it stopped.
        """
        return np.stack([self._row(number) for number in range(first, first + count)])

    def _row(self, number: int) -> npt.NDArray[np.int64]:
        epoch, place = divmod(number, self.rows)
        order = np.random.default_rng([self.seed, epoch]).permutation(self.rows)
        start = int(order[place]) * self.seq_length
        return self.stream[start : start + self.seq_length].astype(np.int64)
