"""Make a tensor of the bytes of a safetensors file, and bytes of a tensor."""

from typing import TYPE_CHECKING

from ctxext.checkpoints.weights.safetensors_file import TensorInfo
from ctxext.errors import CtxextError

if TYPE_CHECKING:
    import torch

FLOATS = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
"""The dtypes that are computed with: the file's name -> torch's."""
CODES = {name: code for code, name in FLOATS.items()}
"""The same the other way."""


def as_tensor(raw: bytearray, info: TensorInfo) -> "torch.Tensor":
    """View the bytes of a stored tensor as numbers.

    Raises:
        CtxextError: it holds no floating numbers of a dtype that is computed with.
    """
    import torch

    if info.dtype not in FLOATS:
        raise CtxextError(f"a tensor of dtype {info.dtype} cannot be merged into")
    return torch.frombuffer(raw, dtype=getattr(torch, FLOATS[info.dtype])).reshape(info.shape)


def as_bytes(stored: "torch.Tensor") -> memoryview:
    """View a tensor as the bytes that a file holds of it."""
    import torch

    return stored.flatten().view(torch.uint8).numpy().data
