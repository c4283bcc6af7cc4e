"""Data of GPUs by name, for a plan made before one is rented."""

import re
from dataclasses import dataclass

from ctxext.choices import suggestion
from ctxext.errors import BadInput


@dataclass(frozen=True)
class Gpu:
    """What a vendor states for one card.

    Attributes:
        memory_gib: that torch can use of it (`total_memory`), GiB: less than its name says.
        teraflops: dense bfloat16 with float32 accumulation, 1e12 operations a second.
        host_gib: of host memory that machines rented with it have for each card, GiB; what the
            large clouds offered in 2025, the least of them.
    """

    memory_gib: float
    teraflops: float
    host_gib: int


GPUS = {
    "a10g-24gb": Gpu(22.0, 70, 48),
    "a100-40gb": Gpu(39.4, 312, 85),
    "a100-80gb": Gpu(79.2, 312, 144),
    "b200-192gb": Gpu(178.4, 2250, 256),
    "h100-80gb": Gpu(79.1, 989, 200),
    "h200-141gb": Gpu(139.7, 989, 256),
    "l4-24gb": Gpu(22.0, 121, 48),
    "l40s-48gb": Gpu(44.4, 362, 96),
    "mi300x-192gb": Gpu(191.5, 1307, 230),
    "rtx-3090-24gb": Gpu(23.6, 71, 64),
    "rtx-4090-24gb": Gpu(23.5, 165, 64),
    "rtx-5090-32gb": Gpu(31.3, 210, 64),
}
"""Arithmetic from data sheets, memory as torch reports it; those of a desktop are given 64 GiB."""
_WITHOUT_BFLOAT16 = ("k80", "p4", "p40", "p100", "t4", "v100", "rtx-2080", "titan-v")


def get_gpu(name: str) -> Gpu:
    """Look up a card by its name.

    Raises:
        BadInput: it has no bfloat16, or is not in the table; the nearest is offered.
    """
    if re.match(rf"({'|'.join(_WITHOUT_BFLOAT16)})(-|$)", name.lower()):
        raise BadInput(
            f"--gpu {name}: this card has no bfloat16, in which a GPU is trained",
            f"take one of {', '.join(GPUS)}",
        )
    if name not in GPUS:
        raise BadInput(f"--gpu {name} is not known", suggestion(name, GPUS))
    return GPUS[name]
