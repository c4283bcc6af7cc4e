"""Read the tensors of a full fine-tuning as an adapter to be merged: replacements only."""

from pathlib import Path

from ctxext.checkpoints.weights.adapter import Adapter
from ctxext.checkpoints.weights.safetensors_file import printable, read_header
from ctxext.errors import CtxextError


def read_trained(file: Path, prefix: str) -> Adapter:
    """Read a run's saved weights as an `Adapter` that replaces every tensor of the base.

    A tied embedding stays tied: it was one parameter in training, so it is saved once.

    Args:
        file: safetensors; its names are the base's behind `prefix`.

    Raises:
        CtxextError: corrupt, or a name without the prefix.
    """
    header = read_header(file)
    for name in header.tensors:
        if not name.startswith(prefix):
            raise CtxextError(f"{file.name} holds {printable(name)!r}, which is no trained weight")
    replaced = {name.removeprefix(prefix): name for name in header.tensors}
    return Adapter(file, {"ensure_weight_tying": True}, header, {}, replaced)
