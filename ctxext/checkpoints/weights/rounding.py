"""What storing a merged tensor in a narrow dtype costs, measured while it is written."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctxext.runs.rows.row import Row

if TYPE_CHECKING:
    import torch

_PART = 1 << 20  # numbers compared at a time, so that no whole float64 copy exists


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
    """Takes the merged tensors one by one; `worst` is the result so far."""

    def __init__(self) -> None:
        self.worst = Rounding()

    def add(
        self, name: str, exact: "torch.Tensor", stored: "torch.Tensor", base: "torch.Tensor | None"
    ) -> None:
        """Measure one tensor.

        Args:
            exact: before it is rounded, float32.
            stored: as written.
            base: the tensor it came from, the same shape; None = it had none.
        """
        if exact.dtype == stored.dtype:
            return
        lost = size = update = 0.0
        flat = exact.reshape(-1), stored.reshape(-1), None if base is None else base.reshape(-1)
        for at in range(0, exact.numel(), _PART):
            part = flat[0][at : at + _PART].double()
            lost += float((flat[1][at : at + _PART].double() - part).square().sum())
            size += float(part.square().sum())
            if flat[2] is not None:
                update += float((part - flat[2][at : at + _PART].double()).square().sum())
        relative = (lost / size) ** 0.5 if size else 0.0
        of_update = (lost / update) ** 0.5 if update else 0.0
        worst = self.worst
        leads = of_update > worst.of_update
        self.worst = Rounding(
            max(relative, worst.relative),
            of_update if leads else worst.of_update,
            name if leads or worst.tensor is None else worst.tensor,
        )
