"""Shifted sparse attention (S2-Attn) of LongLoRA, arXiv:2309.12307, section 3.2: training only.

A row of T tokens is cut into four groups of G = T / 4, and each token attends causally within its
group. In the second half of the heads the groups are shifted by G / 2, so that neighbours meet.
The paper rolls the row, which lets its first tokens read its last ones unless the mask is mended
(its appendix B.3); here the two ends are groups of G / 2 of their own, and nothing leaks.

    head < H/2:   [0, G) [G, 2G) [2G, 3G) [3G, 4G)
    head >= H/2:  [0, G/2) [G/2, 3G/2) [3G/2, 5G/2) [5G/2, 7G/2) [7G/2, 4G)

It is one more entry in transformers' `AttentionInterface`; no model code is copied. A model that is
not training attends fully, and nothing of it is written to a config.
"""

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from ctxext.checkpoints.live.attention import register_attention
from ctxext.errors import BadInput

NAME = "ctxext_s2"
WARNING = (
    "train.attention: s2 trains with attention in groups; published comparisons show that models "
    "trained so lose retrieval (arXiv:2409.12181), which perplexity does not show: evaluate it"
)
_GROUPS = 4


def use_shifted_attention(model: Any) -> None:
    """Switch a live model to shifted sparse attention while it trains.

    Raises:
        BadInput: the model does not take its attention from `AttentionInterface`, or has fewer
            than two heads.
    """
    from transformers.masking_utils import sdpa_mask

    heads = getattr(model.config, "num_attention_heads", 0)
    if not getattr(model, "_supports_attention_backend", False) or heads < 2:
        raise BadInput(
            f"train.attention: s2 is not to be had with {type(model).__name__}",
            "leave train.attention out",
        )
    register_attention(NAME, shifted_attention_forward, sdpa_mask)
    model.set_attn_implementation(NAME)


def shifted_attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **rest: Any,  # transformers passes what some models need; it is handed on or refused
) -> tuple[torch.Tensor, None]:
    """Attend as transformers asks each layer to: in groups while the module trains, else fully.

    Args:
        query: (batch, heads, T, head_dim), rotated already.
        key, value: (batch, key-value heads, T, head_dim).
        attention_mask: None where every token reads all before it.

    Returns:
        (batch, T, heads, head_dim), and no attention weights.

    Raises:
        BadInput: a mask (sliding windows, padding, documents), soft-capped logits, or a row that
            is no multiple of 8.
    """
    if not module.training:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        full: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **rest
        )
        return full
    length = query.shape[2]
    window = rest.get("sliding_window")
    if attention_mask is not None or rest.get("softcap") or (window and window < length):
        raise BadInput(
            "train.attention: s2 needs rows in which every token reads all before it; this model "
            "or data brings a mask or soft-capped logits",
            "leave train.attention out",
        )
    out = shifted_attention(query, key, value, dropout=dropout, scaling=scaling)
    return out.transpose(1, 2).contiguous(), None


def shifted_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
) -> torch.Tensor:
    """Compute S2-Attn of one layer without a mask: each group is a row of its own to the kernel.

    Args:
        query: (batch, heads, T, head_dim), heads >= 2, T a multiple of 8.
        key, value: (batch, key-value heads, T, head_dim).
        dropout: of attention weights.
        scaling: of the logits; None = head_dim ** -0.5.

    Returns:
        (batch, heads, T, head_dim).

    Raises:
        BadInput: T is no multiple of 8.
    """
    heads, length = query.shape[1], query.shape[2]
    if length % (2 * _GROUPS):
        raise BadInput(
            f"train.attention: s2 cuts rows into halves of quarters, and {length} is no multiple "
            f"of {2 * _GROUPS}",
            f"e.g. --seq-length {max(length // 8, 1) * 8}",
        )
    half, group = heads // 2, length // _GROUPS
    if key.shape[1] != heads:  # the halves of the heads must find their own keys
        key = key.repeat_interleave(heads // key.shape[1], dim=1)
        value = value.repeat_interleave(heads // value.shape[1], dim=1)

    def grouped(begin: int, end: int, size: int, chosen: slice) -> torch.Tensor:
        """Attend among the tokens [begin, end) of the `chosen` heads, within groups of `size`."""
        q, k, v = (_as_rows(t[:, chosen, begin:end], size) for t in (query, key, value))
        mixed = scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, scale=scaling, is_causal=True
        )
        groups = (end - begin) // size
        mixed = mixed.reshape(-1, groups, *mixed.shape[1:]).transpose(1, 2)
        return mixed.flatten(2, 3)

    plain, shifted, edge = slice(0, half), slice(half, heads), group // 2
    straight = grouped(0, length, group, plain)
    turned = [
        grouped(0, edge, edge, shifted),
        grouped(edge, length - edge, group, shifted),
        grouped(length - edge, length, edge, shifted),
    ]
    return torch.cat([straight, torch.cat(turned, dim=2)], dim=1)


def _as_rows(tensor: torch.Tensor, size: int) -> torch.Tensor:
    """Turn (batch, heads, T, dim) into (batch * groups, heads, size, dim): a row for each group."""
    batch, heads, length, dim = tensor.shape
    parts = tensor.reshape(batch, heads, length // size, size, dim)
    return parts.transpose(1, 2).flatten(0, 1)
