"""Multiply rows of a stored tensor, exactly."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class RowScales:
    """What the rows of one tensor are multiplied by.

    Attributes:
        factors: (rows,), 1 for rows that stay.
        one_plus: 1 is added to what is stored before it is used, as some norms do.
    """

    factors: Sequence[float]
    one_plus: bool = False

    def of(self, weight: "torch.Tensor") -> "torch.Tensor":
        """Compute s w, or s (1 + w) - 1 where 1 is added, in float32; the caller rounds."""
        import torch

        out = weight.float().clone()
        factors = torch.tensor(self.factors, dtype=torch.float32)
        chosen, added = factors != 1, 1.0 if self.one_plus else 0.0
        by_row = out.view(len(factors), -1)
        by_row[chosen] = (by_row[chosen] + added) * factors[chosen, None] - added
        return out
