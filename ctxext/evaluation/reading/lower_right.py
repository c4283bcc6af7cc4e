"""Attention of the last tokens of a row over all of it, without a mask of tokens x row.

What is read in chunks through the KV cache, and the last layer when it is asked for its last
positions alone, have fewer queries than keys. transformers' SDPA is then given a dense mask; a GPU
leaves its flash kernel for it, and keys and values are repeated for grouped heads. Here the mask
function says only how far a token reads back. Blocks of queries go through SDPA one after the other
with a mask of at most 16 Mi elements, over no more keys than the block can see, one key head at a
time; a flash kernel, where a GPU has one, takes all of them at once and needs no mask.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from ctxext.checkpoints.live.attention import KNOWN_LAYERS, register_attention
from ctxext.checkpoints.live.dual_chunk import DUAL_CHUNK

LOWER_RIGHT = "ctxext_lower_right"
MASK = 2**24  # elements of a mask that exist at the same time
_BLOCK = 1024  # queries at most


@dataclass(frozen=True)
class Back:
    """Stands where a mask would: a token reads itself and what is before it, or so much of it.

    Attributes:
        window: tokens, itself included; None = all.
    """

    window: int | None = None


def uses_sdpa(model: Any) -> bool:
    """Tell whether a model's attention is one that this can stand in for."""
    return bool(model.config.get_text_config()._attn_implementation == "sdpa")


def ways(model: Any) -> tuple[bool, ...]:
    """List the ways to attend, as they are tried: without masks (True) first, where a model can."""
    can = uses_sdpa(model) or needs_no_mask(model.config.get_text_config())
    return (True, False) if can else (False,)


def needs_no_mask(config: Any) -> bool:
    """Tell whether a decoder attends just now by a function that knows the last queries itself."""
    return config._attn_implementation in (LOWER_RIGHT, DUAL_CHUNK)


@contextmanager
def lower_right(model: Any) -> Iterator[None]:
    """Let a model that uses SDPA attend this way; others, and other masks, stay as they are.

    On a GPU cuDNN is left out meanwhile: it makes a plan for every new shape, and here nearly each
    shape is new.
    """
    config = model.config.get_text_config()
    before = config._attn_implementation
    ours = uses_sdpa(model)
    cudnn = torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
    torch.backends.cuda.enable_cudnn_sdp(False)
    if ours:
        register_attention(LOWER_RIGHT, attention, mask)
        config._attn_implementation = LOWER_RIGHT
    try:
        yield
    finally:
        config._attn_implementation = before
        torch.backends.cuda.enable_cudnn_sdp(cudnn)


def mask(
    *, q_length: int, kv_length: int, local_size: int | None = None, config: Any = None, **rest: Any
) -> Any:
    """Return what stands for a layer's mask, as transformers' `AttentionMaskInterface` calls it.

    Returns:
        None where SDPA's own causal kernel does it, `Back` where a token reads what is before it,
        transformers' dense mask where something else is asked for (padding, chunked layers).
    """
    from transformers.masking_utils import sdpa_mask

    padded = rest.get("attention_mask")
    layer_types = set(getattr(config, "layer_types", None) or ("sliding_attention",))
    if (
        rest.get("allow_is_causal_skip", True)
        and (padded is None or bool(padded.all()))
        and (local_size is None or layer_types <= KNOWN_LAYERS)
    ):
        window = local_size if local_size is not None and local_size < kv_length else None
        return None if window is None and q_length in (1, kv_length) else Back(window)
    return sdpa_mask(
        q_length=q_length, kv_length=kv_length, local_size=local_size, config=config, **rest
    )


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: "torch.Tensor | Back | None",
    scaling: float | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attend in one layer, as transformers' `AttentionInterface` calls it.

    Args:
        query: (batch, heads, queries, d), rotated; the last positions of the row.
        key, value: (batch, key heads, keys, d); heads is a multiple of key heads.
        attention_mask: what `mask` gave.

    Returns:
        (batch, queries, heads, d), and no weights.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    added = [name for name in ("softcap", "s_aux", "position_bias") if others.get(name) is not None]
    if not isinstance(attention_mask, Back):
        whole: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **others
        )
        return whole
    if added:
        raise ValueError(f"attention with {', '.join(added)} is not known here")
    out = last_queries(query, key, value, attention_mask.window, scaling)
    return out.transpose(1, 2).contiguous(), None


def last_queries(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    window: int | None,
    scaling: float | None,
) -> torch.Tensor:
    """Compute causal attention of the last queries of a row; shapes as in `attention`.

    Returns:
        (batch, heads, queries, d of value).
    """
    queries, keys = query.shape[2], key.shape[2]
    if window is None and _has_flash(query, key, value):
        from torch.nn.attention.bias import causal_lower_right

        return scaled_dot_product_attention(
            query, key, value, attn_mask=causal_lower_right(queries, keys), scale=scaling,
            enable_gqa=True,
        )  # fmt: skip
    out = query.new_empty(*query.shape[:3], value.shape[-1])
    heads = query.shape[1] // key.shape[1]
    size = block_size(keys, window)
    for at in range(0, queries, size):
        stop = min(at + size, queries)
        begin, end = keys - queries + at, keys - queries + stop
        first = 0 if window is None else max(0, begin - window + 1)
        bias = _bias(range(begin, end), range(first, end), window, query)
        for h in range(key.shape[1]):
            group = slice(h * heads, (h + 1) * heads)
            # Expanded, not repeated: grouped heads read the same memory.
            k, v = (t[:, h : h + 1, first:end].expand(-1, heads, -1, -1) for t in (key, value))
            out[:, group, at:stop] = scaled_dot_product_attention(
                query[:, group, at:stop], k, v, attn_mask=bias, scale=scaling
            )
    return out


def block_size(keys: int, window: int | None = None) -> int:
    """Choose how many queries go at once, so that no mask has more than `MASK` elements.

    >>> [block_size(keys) for keys in (8192, 131072, 2**20)]
    [1024, 128, 16]
    """
    if window is not None:
        keys = min(keys, window + _BLOCK)
    return max(1, min(_BLOCK, MASK // keys))


def _bias(queries: range, keys: range, window: int | None, like: torch.Tensor) -> torch.Tensor:
    """Make the bias (1, 1, queries, keys): 0 for what a query reads, -inf for the rest."""
    at = torch.arange(queries.start, queries.stop, device=like.device)[:, None]
    read = torch.arange(keys.start, keys.stop, device=like.device)[None, :]
    hidden = read > at
    if window is not None:
        hidden |= read <= at - window
    bias = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device)
    return bias.masked_fill_(hidden, float("-inf"))[None, None]


def _has_flash(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> bool:
    """Tell whether a GPU's flash kernel does it: its causal mask is aligned to the lower right."""
    if not query.is_cuda:
        return False
    from torch.backends.cuda import SDPAParams, can_use_flash_attention

    return can_use_flash_attention(SDPAParams(query, key, value, None, 0.0, False, True))
