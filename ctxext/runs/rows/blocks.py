"""What two models that read the same text are compared by: sums over blocks of that text."""

from dataclasses import dataclass

from ctxext.runs.checked import Broken
from ctxext.runs.fields import MOST_TOKENS, bounded
from ctxext.runs.rows.row import SHA256, Row


@dataclass(frozen=True, kw_only=True)
class Blocks(Row):
    """A mean's numerator and denominator, block by block.

    Attributes:
        text: which tokens were read, by a hash.
        size: tokens of text in a block; the last block is shorter.
        sums: of each block, what the mean is taken over; nats.
        weights: of each block, what they are divided by: tokens, or windows; 0 where none is.
    """

    text: str = bounded(matches=SHA256)
    size: int = bounded(least=1, most=MOST_TOKENS)
    sums: tuple[float, ...]
    weights: tuple[float, ...]

    def check(self, key: str) -> None:
        """Hold the lists to each other.

        Raises:
            Broken: they differ in length, a weight is negative, or all are 0.
        """
        if len(self.sums) != len(self.weights) or not any(self.weights) or min(self.weights) < 0:
            raise Broken(f"in {key}, sums and weights do not fit each other")

    def same_place(self, other: "Blocks | None") -> bool:
        """Tell whether the other's blocks are of the same text, so that they can be paired."""
        return other is not None and (self.text, self.size, len(self.sums)) == (
            other.text, other.size, len(other.sums)
        )  # fmt: skip
