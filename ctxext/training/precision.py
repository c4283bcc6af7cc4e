"""How numbers are held in a run: what is loaded, what is computed in, where float32 stays out.

What is trained is held in float32, and autocast computes in bfloat16 around a bfloat16 base. A
float32 tensor that meets the residual stream would widen all that follows it, so the places where
that happens are closed here.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ctxext.checkpoints.detect import Position
from ctxext.checkpoints.dtype import Dtype, DtypeName
from ctxext.checkpoints.folder import Source
from ctxext.checkpoints.load import dtype_on
from ctxext.errors import BadInput
from ctxext.training.config import TrainConfig

HALF = (torch.bfloat16, torch.float16)
"""Bases in one of these are trained under autocast, to bfloat16."""


@dataclass(frozen=True)
class Precision:
    """The dtypes of a run.

    Attributes:
        load: the base is loaded so. Full fine-tuning starts its float32 masters from what is
            stored, not from a rounding of it.
        compute: what autocast computes in; `auto` = what was loaded.
        notes: sentences for the user.
    """

    load: DtypeName
    compute: DtypeName
    notes: tuple[str, ...] = ()

    def dtype(self, loaded: torch.dtype) -> torch.dtype:
        """The dtype of the computation, given the loaded model's."""
        return loaded if self.compute == "auto" else getattr(torch, self.compute)


def training_precision(
    asked: DtypeName, source: Source, position: Position, device: torch.device, train: TrainConfig
) -> Precision:
    """What `--dtype` comes to in a run on a device.

    Raises:
        BadInput: float16, whose gradients vanish without loss scaling, or a GPU without bfloat16.
    """
    chosen = dtype_on(asked, source, position, device, quantized=train.quantize != "none")
    return precision_of(chosen, full=train.what == "full")


def precision_of(chosen: Dtype, *, full: bool) -> Precision:
    """`training_precision`, when `compute_dtype` has chosen.

    Raises:
        BadInput: float16.
    """
    if chosen.name == "float16":
        raise BadInput(
            "--dtype float16: small gradients vanish in it, and fine-tuning scales no loss",
            "leave --dtype out, or give --dtype bfloat16",
        )
    load: DtypeName = "float32" if full and chosen.name != "auto" else chosen.name
    return Precision(load, chosen.name, chosen.notes)


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


def fused_attention(model: Any, device_type: str, dtype: torch.dtype) -> bool:
    """Whether SDPA has a kernel for this model that holds no length x length weights.

    In float32 a GPU has none for grouped keys (torch 2.13).
    """
    config = model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", None)
    grouped = getattr(config, "num_key_value_heads", None) not in (None, heads)
    return not (device_type == "cuda" and dtype == torch.float32 and grouped)
