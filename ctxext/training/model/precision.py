"""How numbers are held in a run: what is loaded, what is computed in, where float32 stays out.

What is trained is held in float32, and autocast computes in bfloat16 around a bfloat16 base. A
float32 tensor that meets the residual stream would widen all that follows it, so the places where
that happens are closed here.
"""

from typing import Any

import torch
from torch import nn

from ctxext.checkpoints.config.detect import Position
from ctxext.checkpoints.config.dtype import DtypeName
from ctxext.checkpoints.folder import Source
from ctxext.checkpoints.live.load import dtype_on
from ctxext.runs.recipe.config import TrainConfig
from ctxext.training.model.run_dtype import RunDtype, run_dtype


def dtype_of_run(
    asked: DtypeName, source: Source, position: Position, device: torch.device, train: TrainConfig
) -> RunDtype:
    """Decide what `--dtype` comes to in a run on a live device.

    Raises:
        BadInput: float16, or a GPU without bfloat16.
    """
    chosen = dtype_on(asked, source, position, device, quantized=train.quantize != "none")
    return run_dtype(chosen, full=train.what == "full")


def under_autocast(dtype: RunDtype, loaded: torch.dtype) -> bool:
    """Tell whether a run computes under autocast, to bfloat16, given what was loaded."""
    if dtype.compute == "auto":
        return loaded in (torch.bfloat16, torch.float16)
    return dtype.compute == "bfloat16"


def share_adapter_inputs(model: nn.Module) -> int:
    """Let adapters read what their layer reads, and autocast cast it: no float32 copy for each.

    For runs under autocast only. Left alone are adapters whose float32 input changes the result:
    with dropout, and DoRA, which computes its norms in the input's dtype.

    Returns:
        How many adapters share their input.
    """
    from peft.tuners.lora import LoraLayer

    shared = 0
    for module in model.modules():
        if isinstance(module, LoraLayer) and not _needs_float32(module):
            module.cast_input_dtype_enabled = False
            shared += 1
    return shared


def _needs_float32(layer: Any) -> bool:
    dropped = any(isinstance(m, nn.Dropout) and m.p > 0 for m in layer.lora_dropout.values())
    return dropped or bool(layer.lora_variant)


def narrow_embeddings(model: Any) -> None:
    """Give the decoder its embeddings in bfloat16, autocast's dtype, also where they are float32.

    Args:
        model: a causal language model without its peft wrapper.
    """
    model.get_input_embeddings().register_forward_hook(
        lambda module, inputs, out: out.to(torch.bfloat16)
    )
