"""A text cut into blocks, in which models and window lengths are compared with each other.

A block is as many windows as a block bootstrap draws together, so that blocks may be drawn one by
one. Where its cuts lie depends on the text alone: whatever read the same tokens can be paired.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ctxext.data.tokens import Tokens
from ctxext.evaluation.reading.windows import Plan
from ctxext.evaluation.statistics.bootstrap import block_length
from ctxext.runs.rows.blocks import Blocks

MOST_BLOCKS = 256  # they are written down, and more say no more
_DECIMALS = 4  # of a sum, nats


@dataclass(frozen=True)
class Grid:
    """Blocks of `size` tokens over documents, one after the other.

    Attributes:
        text: which tokens, by a hash.
        size: tokens in a block.
        starts: of each document, the tokens before it; one more for the end.
    """

    text: str
    size: int
    starts: tuple[int, ...]

    @classmethod
    def of(cls, documents: Sequence[Tokens], step: int, text: str) -> "Grid":
        """Cut documents into blocks.

        Args:
            step: tokens between windows, at all lengths that are to be compared.
            text: what names the text; it is hashed.
        """
        ends = np.cumsum([0, *(len(document) for document in documents)])
        windows = max(1, int(ends[-1]) // step)
        together = max(block_length(windows), -(-windows // MOST_BLOCKS))
        named = hashlib.sha256(text.encode()).hexdigest()
        return cls(named, step * together, tuple(ends.tolist()))

    def blocks(
        self, plan: Plan, sums: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]
    ) -> Blocks:
        """Add up windows block by block; a window counts where its last token stands.

        Args:
            sums, weights: (windows,), in the order of the plan.
        """
        count = -(-self.starts[-1] // self.size)
        places = [
            (self.starts[document] + window.end - 1) // self.size for document, window in plan
        ]
        of_sums = np.bincount(places, sums, count).round(_DECIMALS)
        of_weights = np.bincount(places, weights, count)
        return Blocks(
            text=self.text,
            size=self.size,
            sums=tuple(of_sums.tolist()),
            weights=tuple(int(weight) for weight in of_weights),
        )
