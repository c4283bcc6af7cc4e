"""Cut full rows of `seq_length` tokens, in an order that a step number alone decides."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ctxext.data.documents import DocumentStream
from ctxext.data.tokens import TokenIds
from ctxext.errors import BadInput


@dataclass(frozen=True)
class PackedRows:
    """A token stream cut into whole rows; every epoch reads them in a new order.

    Attributes:
        stream: all tokens, (tokens,); what does not fill a last row is left out.
        seq_length: tokens in a row.
        seed: of the order.
        text_number: of this text among several, from 1, so that each has an order of its own.
        name: what the text is called in an error.
        held_out: rows at the end that no epoch reads, for `held`.
    """

    stream: TokenIds | DocumentStream
    seq_length: int
    seed: int
    text_number: int = 0
    name: str = "--data"
    held_out: int = 0

    def __post_init__(self) -> None:
        if self.rows < 1:
            held = self.held_out
            if held and len(self.stream) >= self.seq_length:
                raise BadInput(
                    f"{self.name} has {len(self.stream) // self.seq_length} rows of --seq-length "
                    f"{self.seq_length}, and {held} are held out for validation, so none is left",
                    "give more text, a shorter --seq-length, --eval-data, or fewer validation.rows",
                )
            raise BadInput(
                f"{self.name} has {len(self.stream)} tokens, and one row needs --seq-length "
                f"{self.seq_length}",
                "give more text, or a shorter --seq-length",
            )

    @property
    def rows(self) -> int:
        """Rows in one epoch."""
        return len(self.stream) // self.seq_length - self.held_out

    def held(self) -> npt.NDArray[np.int64]:
        """Read the rows that are held out, (held_out, seq_length)."""
        starts = range(self.rows, self.rows + self.held_out)
        rows = [
            self.stream[row * self.seq_length : (row + 1) * self.seq_length].astype(np.int64)
            for row in starts
        ]
        return np.stack(rows) if rows else np.empty((0, self.seq_length), np.int64)

    def batch(self, first: int, count: int) -> npt.NDArray[np.int64]:
        """Read rows `first` .. `first + count - 1` of the endless order, (count, seq_length).

        A function of (seed, number) only, so a resumed run goes on where it stopped.
        """
        return np.stack([self.row(number) for number in range(first, first + count)])

    def row(self, number: int) -> npt.NDArray[np.int64]:
        """Read row `number` of the endless order, (seq_length,)."""
        start = self._start(number)
        return self.stream[start : start + self.seq_length].astype(np.int64)

    def begins(self, number: int) -> npt.NDArray[np.bool_]:
        """Mark where in row `number` a document begins, (seq_length,); the row's start counts."""
        if not isinstance(self.stream, DocumentStream):
            raise TypeError("a plain array has no documents")
        start = self._start(number)
        marks = self.stream.begins(start, start + self.seq_length)
        marks[0] = True
        return marks

    def _start(self, number: int) -> int:
        epoch, place = divmod(number, self.rows)
        # One text keeps the order that it had before there could be several.
        key = (self.seed, self.text_number, epoch) if self.text_number else (self.seed, epoch)
        return int(_order(key, self.rows)[place]) * self.seq_length


@lru_cache(maxsize=32)
def _order(key: tuple[int, ...], rows: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(key).permutation(rows)
