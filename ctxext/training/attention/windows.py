"""Sliding windows in blocks of queries: no mask of T x T, and no work outside the window.

transformers' SDPA is given a dense mask as soon as a window is shorter than the row, and keeps it,
and repeated keys and values, in every layer. Here its mask function says only how wide the window
is, and `block_attention` does the rest; layers that read everything stay on SDPA's causal path. On
a GPU transformers' flex attention does the same with one compiled kernel.
"""

from dataclasses import dataclass
from typing import Any

import torch

from ctxext.checkpoints.live.attention import KNOWN_LAYERS, register_attention
from ctxext.errors import CtxextError
from ctxext.training.attention.blocks import Rows, block_attention
from ctxext.training.attention.flex import FLEX

WINDOWS = "ctxext_windows"
BLOCK = 256  # queries at once: the fastest on a CPU for windows of 128 to 2048


@dataclass(frozen=True)
class Window:
    """Stands where a mask would: a token reads itself and the `size - 1` tokens before it."""

    size: int


def use_windows(model: Any, device: torch.device, length: int) -> bool:
    """Give a model's sliding layers attention without a dense mask, where that is exact.

    Left alone are models without a window shorter than `length`, those whose attention is not
    SDPA's (soft-capped, sinks) or dropped, and kinds of layers that are not known here.

    Args:
        model: a causal language model; changed in place.
        length: tokens in a row.

    Returns:
        Whether it was changed.
    """
    config = model.config.get_text_config()
    size = getattr(config, "sliding_window", None)
    layer_types = set(getattr(config, "layer_types", None) or ("sliding_attention",))
    if (
        not size
        or size > length
        or "sliding_attention" not in layer_types
        or not layer_types <= KNOWN_LAYERS
        or config._attn_implementation != "sdpa"
        or getattr(config, "attention_dropout", 0)
    ):
        return False
    if device.type == "cuda":
        if not getattr(model, "_supports_flex_attn", False):
            return False
        model.set_attn_implementation(FLEX)
        return True
    register_attention(WINDOWS, window_attention, window_mask)
    model.set_attn_implementation(WINDOWS)
    return True


def window_mask(*, kv_length: int, local_size: int | None = None, **rest: Any) -> Any:
    """Return what stands for a layer's mask, as transformers' `AttentionMaskInterface` calls it.

    Returns:
        None where a token reads all before it, a `Window` where it reads less, and transformers'
        dense mask where something else than these two is asked for (padding, packed rows).
    """
    from transformers.masking_utils import sdpa_mask

    padded = rest.get("attention_mask")
    plain = rest.get("allow_is_causal_skip", True) and (padded is None or bool(padded.all()))
    if plain and local_size is not None:
        if kv_length > local_size:
            return Window(local_size)
        local_size = None  # as long as the row: transformers would still make a mask
    return sdpa_mask(kv_length=kv_length, local_size=local_size, **rest)


def only_the_window(*, local_size: int | None = None, **_: Any) -> Window | None:
    """Return a sliding layer's window in place of a mask.

    Not every model hands its `sliding_window` to the attention itself (Qwen2-MoE does not).
    """
    return None if local_size is None else Window(local_size)


def window_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: "torch.Tensor | Window | None",
    scaling: float | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attend in one layer, as transformers' `AttentionInterface` calls it.

    Args:
        query: (batch, heads, T, head_dim), rotated.
        key, value: (batch, key-value heads, T, head_dim).
        attention_mask: what `window_mask` gave.

    Returns:
        (batch, T, heads, head_dim), and no weights.

    Raises:
        CtxextError: the model adds something to its logits that is not done here.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if not isinstance(attention_mask, Window):
        whole: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **others
        )
        return whole
    for name in ("softcap", "s_aux", "position_bias"):
        if others.get(name) is not None:
            raise CtxextError(
                f"attention in windows does not know this model's attention ({name})",
                "this is a bug of ctxext with this model; please report it",
            )
    rows = Rows((range(query.shape[2]),), attention_mask.size)
    out = block_attention(query, key, value, rows, scaling=scaling, block=BLOCK)
    return out.transpose(1, 2).contiguous(), None
