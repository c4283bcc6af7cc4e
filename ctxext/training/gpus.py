"""Cards by name, for a plan made before one is rented."""

import difflib
from dataclasses import dataclass

from ctxext.errors import BadInput


@dataclass(frozen=True)
class Gpu:
    """What a vendor states for one card.

    Attributes:
        memory_gib: of the card, GiB.
        teraflops: dense bfloat16 with float32 accumulation, 1e12 operations a second.
    """

    memory_gib: int
    teraflops: float


GPUS = {
    "a10g-24gb": Gpu(24, 70),
    "a100-40gb": Gpu(40, 312),
    "a100-80gb": Gpu(80, 312),
    "b200-192gb": Gpu(180, 2250),
    "h100-80gb": Gpu(80, 989),
    "h200-141gb": Gpu(141, 989),
    "l4-24gb": Gpu(24, 121),
    "l40s-48gb": Gpu(48, 362),
    "mi300x-192gb": Gpu(192, 1307),
    "rtx-3090-24gb": Gpu(24, 71),
    "rtx-4090-24gb": Gpu(24, 165),
    "rtx-5090-32gb": Gpu(32, 210),
    "t4-16gb": Gpu(16, 65),
    "v100-32gb": Gpu(32, 125),
}
"""Data sheets; the last two have no bfloat16, and are counted at float16."""


def get_gpu(name: str) -> Gpu:
    """The card of a name.

    Raises:
        BadInput: it is not in the table; the nearest is offered.
    """
    if name not in GPUS:
        near = difflib.get_close_matches(name.lower(), GPUS, n=1, cutoff=0.4)
        raise BadInput(
            f"--gpu {name} is not known",
            f"did you mean {near[0]}?" if near else f"known: {', '.join(GPUS)}",
        )
    return GPUS[name]
