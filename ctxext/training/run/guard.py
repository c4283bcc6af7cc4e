"""Find steps whose loss or gradient says that their update would harm: they are left out."""

import math
from collections.abc import Sequence
from statistics import median

REMEMBERED = 64  # losses whose median a new one is compared with
_ENOUGH = 8  # losses below which nothing is called a spike


def harm(loss: float, grad_norm: float, recent: Sequence[float], factor: float) -> str | None:
    """Tell why the update of a step has to be left out; None where it may be made.

    Args:
        loss: mean over the step's targets, nats.
        grad_norm: before clipping.
        recent: losses of the last steps that were not left out.
        factor: more than this many times their median is a spike; 0 = nothing is.

    >>> harm(9.0, 1.0, [2.0] * 8, 4.0)
    'its loss 9 is more than 4 times the median 2 of the steps before'
    """
    if not math.isfinite(loss):
        return f"its loss is {loss}"
    if not math.isfinite(grad_norm):
        return f"the norm of its gradient is {grad_norm}"
    if factor and len(recent) >= _ENOUGH and loss > factor * (usual := median(recent)):
        return (
            f"its loss {loss:.4g} is more than {factor:g} times the median {usual:.4g} of the "
            "steps before"
        )
    return None


def remembered(recent: Sequence[float], loss: float) -> tuple[float, ...]:
    """Return the losses to compare the next step with."""
    return (*recent, loss)[-REMEMBERED:]
