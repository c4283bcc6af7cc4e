"""Attention that stays inside documents, for rows that hold several.

Where a document begins is where its position is 0. On a CPU each document is one call of PyTorch's
causal kernel, so no (length x length) mask is ever made; a sliding window is done in blocks. On a
GPU transformers' flex attention does the same with one compiled kernel and a block mask, which it
derives from restarting positions by itself.
"""

from typing import Any

import torch
from torch.nn import functional as F

from ctxext.checkpoints.live.attention import KNOWN_LAYERS, adds_to_scores, register_attention
from ctxext.errors import BadInput
from ctxext.training.attention.blocks import Rows, block_attention
from ctxext.training.attention.flex import FLEX
from ctxext.training.attention.windows import BLOCK, Window, only_the_window

DOCUMENTS = "ctxext_documents"


def separate_documents(model: Any, device: torch.device) -> None:
    """Make a transformers model attend within documents when it is given restarting `position_ids`.

    Raises:
        BadInput: a kind of attention that is not known here.
    """
    config = model.config.get_text_config()
    layer_types = getattr(config, "layer_types", None) or ["full_attention"]
    odd = sorted({str(layer_type) for layer_type in layer_types if layer_type not in KNOWN_LAYERS})
    if getattr(config, "attn_logit_softcapping", None) and device.type != "cuda":
        odd.append("soft-capped attention")
    if getattr(config, "attention_dropout", 0) and getattr(config, "sliding_window", None):
        odd.append("attention_dropout in sliding windows")
    if adds_to_scores(config):
        odd.append("bias of the scores (ALiBi)")
    if odd:
        raise BadInput(
            f"data.documents: separate does not know the {', '.join(odd)} of this model",
            "use data.documents: stream",
        )
    if device.type == "cuda":
        model.set_attn_implementation(FLEX)
        return
    register_attention(DOCUMENTS, document_attention, only_the_window)
    model.set_attn_implementation(DOCUMENTS)


def document_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Window | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    position_ids: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attend causally within each document, as transformers' `AttentionInterface` calls it.

    Args:
        query: (batch, heads, length, head_dim), rotated.
        key, value: (batch, key_value_heads, length, head_dim).
        attention_mask: the layer's window, from `only_the_window`; None = all of the document.
        position_ids: (batch or 1, length); a 0 begins a document. None = one document a row.

    Returns:
        (batch, length, heads, head_dim), and no weights.

    Raises:
        BadInput: the model wants its logits capped or attention sinks, which is not done here.
    """
    for name in ("softcap", "s_aux", "position_bias"):
        if others.get(name) is not None:
            raise BadInput(
                f"data.documents: separate does not know this model's attention ({name})",
                "use data.documents: stream",
            )
    window = attention_mask.size if attention_mask is not None else None
    rows = []
    for row in range(query.shape[0]):
        parts = []
        for start, end in _documents(position_ids, row, query.shape[2]):
            q, k, v = (t[row : row + 1, :, start:end] for t in (query, key, value))
            parts.append(_causal(q, k, v, scaling, dropout, window))
        rows.append(torch.cat(parts, dim=2))
    out = torch.cat(rows)
    return out.transpose(1, 2).contiguous(), None


def _causal(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scaling: float | None,
    dropout: float,
    window: int | None,
) -> torch.Tensor:
    """Attend causally within one document, (1, heads, tokens, head_dim) each."""
    tokens = q.shape[2]
    if window is not None and tokens > window:
        rows = Rows((range(tokens),), window)
        return block_attention(q, k, v, rows, scaling=scaling, block=BLOCK)
    groups = q.shape[1] // k.shape[1]
    # The fast kernels want as many key heads as query heads.
    k, v = (t.repeat_interleave(groups, dim=1) for t in (k, v))
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling, is_causal=True)


def _documents(position_ids: torch.Tensor | None, row: int, length: int) -> list[tuple[int, int]]:
    if position_ids is None:
        return [(0, length)]
    places = position_ids[row if len(position_ids) > 1 else 0]
    begins = sorted({0, *torch.nonzero(places == 0).flatten().tolist()})
    return list(zip(begins, [*begins[1:], length], strict=True))
