"""Measure what storing a merged tensor in a narrow dtype costs, while it is written."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctxext.runs.rows.row import Row

if TYPE_CHECKING:
    import torch

_BLOCK = 1 << 20  # numbers compared at a time, so that no whole float64 copy exists


@dataclass(frozen=True)
class Rounding(Row):
    """The largest rounding of a merged tensor, in the Frobenius norm.

        relative  = ||stored - exact|| / ||exact||
        of_update = ||stored - exact|| / ||exact - base||

    Attributes:
        relative: 0 when nothing is rounded.
        of_update: the same beside what training changed: at 1 the update is lost in rounding.
        tensor: where `of_update` is largest.
    """

    relative: float = 0.0
    of_update: float = 0.0
    tensor: str | None = None


class RoundingMeter:
    """A meter that takes the merged tensors one by one; `worst` is the result so far."""

    def __init__(self) -> None:
        self.worst = Rounding()

    def add(
        self, name: str, exact: "torch.Tensor", stored: "torch.Tensor", base: "torch.Tensor | None"
    ) -> None:
        """Measure one tensor.

        Args:
            exact, stored: before it is rounded, float32, and as written.
            base: the tensor it came from, the same shape; None = it had none.
        """
        if exact.dtype == stored.dtype:
            return
        lost = size = update = 0.0
        flat = exact.reshape(-1), stored.reshape(-1), None if base is None else base.reshape(-1)
        for at in range(0, exact.numel(), _BLOCK):
            block = flat[0][at : at + _BLOCK].double()
            lost += float((flat[1][at : at + _BLOCK].double() - block).square().sum())
            size += float(block.square().sum())
            if flat[2] is not None:
                update += float((block - flat[2][at : at + _BLOCK].double()).square().sum())
        relative = (lost / size) ** 0.5 if size else 0.0
        of_update = (lost / update) ** 0.5 if update else 0.0
        worst = self.worst
        leads = of_update > worst.of_update
        self.worst = Rounding(
            max(relative, worst.relative),
            of_update if leads else worst.of_update,
            name if leads or worst.tensor is None else worst.tensor,
        )
