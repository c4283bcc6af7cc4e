"""Make a tensor of the bytes of a safetensors file, and bytes of a tensor."""

from typing import TYPE_CHECKING

from ctxext.checkpoints.weights.safetensors_file import TensorInfo
from ctxext.errors import CtxextError

if TYPE_CHECKING:
    import torch

FLOATS = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
"""The dtypes that are computed with: torch's name -> the file's."""


def as_tensor(raw: bytearray, info: TensorInfo) -> "torch.Tensor":
    """View the bytes of a stored tensor as numbers.

    Raises:
        CtxextError: it holds no floating numbers of a dtype that is computed with.
    """
    import torch

    dtypes = {code: getattr(torch, name) for name, code in FLOATS.items()}
    if info.dtype not in dtypes:
        raise CtxextError(f"a tensor of dtype {info.dtype} cannot be merged into")
    return torch.frombuffer(raw, dtype=dtypes[info.dtype]).reshape(info.shape)


def as_bytes(stored: "torch.Tensor") -> memoryview:
    """View a tensor as the bytes that a file holds of it."""
    import torch

    return stored.flatten().view(torch.uint8).numpy().data
