"""Attention of some queries of a row over all of its keys, without a mask of T x T.

Where a causal mask is all there is and a GPU computes, a chunk is one call of a flash kernel, whose
mask is aligned to the lower right. Else (windows, packed documents, CPU) blocks of queries go one
after the other through SDPA with a mask of block x keys, over no more keys than the block can see;
the backward pass computes each block again, so no mask outlives its block.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention

_BLOCK = 1024  # queries whose mask exists at the same time


@dataclass(frozen=True)
class Documents:
    """Where the documents of packed rows lie; attention stays inside them.

    Attributes:
        ids: (batch, T) int64, the number of the document of each token of the whole rows.
        starts: (T,) on the host: below this row index nothing has to be read for a token.
    """

    ids: torch.Tensor
    starts: npt.NDArray[np.int64]


def documents_of(position_ids: torch.Tensor) -> Documents | None:
    """Find the documents of whole rows by positions that start again; None when every row is one.

    A position that is not larger than the one before begins a document; a gap (skipped positions)
    does not.

    Args:
        position_ids: (batch, T), on the CPU (on a GPU it is waited for).
    """
    begins = torch.zeros_like(position_ids, dtype=torch.bool)
    begins[:, 1:] = position_ids[:, 1:] <= position_ids[:, :-1]
    if not begins.any():
        return None
    places = torch.arange(position_ids.shape[1], device=position_ids.device)
    start = (begins * places).cummax(dim=1).values
    return Documents(begins.cumsum(dim=1), start.amin(dim=0).cpu().numpy())


@dataclass(frozen=True)
class Rows:
    """Which tokens of the row the queries are, and what each may read.

    Attributes:
        chunks: row indices of the queries, in the order in which they stand.
        window: a token reads itself and the `window - 1` before it; None = all before it.
        documents: None = the row is one document.
    """

    chunks: tuple[range, ...]
    window: int | None = None
    documents: Documents | None = None

    def blocks(self, size: int) -> list[tuple[int, range, int]]:
        """List each block: (place of first query, its queries' row indices, first one it reads)."""
        out, place = [], 0
        for chunk in self.chunks:
            for start in range(chunk.start, chunk.stop, size):
                block = range(start, min(start + size, chunk.stop))
                first = 0 if self.window is None else max(0, start - self.window + 1)
                if self.documents is not None:
                    first = max(first, int(self.documents.starts[start]))
                out.append((place, block, first))
                place += len(block)
        return out

    def mask(self, block: range, first: int, device: torch.device) -> torch.Tensor:
        """Make the (1 or batch, 1, block, keys) bool mask for keys `first` .. the block's last."""
        query = torch.arange(block.start, block.stop, device=device)[:, None]
        key = torch.arange(first, block.stop, device=device)[None, :]
        mask = key <= query
        if self.window is not None:
            mask &= key > query - self.window
        mask = mask[None]
        if self.documents is not None:
            ids = self.documents.ids
            mask = mask & (
                ids[:, block.start : block.stop, None] == ids[:, None, first : block.stop]
            )
        return mask[:, None]


def block_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    rows: Rows,
    *,
    scaling: float | None = None,
    block: int = _BLOCK,
) -> torch.Tensor:
    """Compute causal attention of the queries `rows.chunks` over a whole row; differentiable.

    Args:
        query: (batch, heads, queries, d), rotated.
        key, value: (batch, kv heads, T, d) of the whole row; heads is a multiple of kv heads.
        scaling: of the logits; None = d ** -0.5.
        block: queries in one masked call.

    Returns:
        (batch, heads, queries, d of value).
    """
    if query.is_cuda and rows.window is None and rows.documents is None:
        return _lower_right(query, key, value, rows, scaling)
    out: torch.Tensor = _Blocks.apply(  # type: ignore[no-untyped-call]
        query, key, value, rows, scaling, block
    )
    return out


def _lower_right(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rows: Rows, scaling: float | None
) -> torch.Tensor:
    from torch.nn.attention.bias import causal_lower_right

    queries = torch.split(query, [len(chunk) for chunk in rows.chunks], dim=2)
    return torch.cat(
        [
            scaled_dot_product_attention(
                piece,
                key[:, :, : chunk.stop],
                value[:, :, : chunk.stop],
                attn_mask=causal_lower_right(len(chunk), chunk.stop),
                scale=scaling,
                enable_gqa=True,
            )
            for piece, chunk in zip(queries, rows.chunks, strict=True)
        ],
        dim=2,
    )


def _masked(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    scaling: float | None,
) -> torch.Tensor:
    # Repeated here, for one block: with a mask no fused GPU kernel takes grouped heads.
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)


class _Blocks(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        rows: Rows,
        scaling: float | None,
        block: int,
    ) -> torch.Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.rows, ctx.scaling, ctx.block = rows, scaling, block
        batch, heads, queries, _ = query.shape
        out = None
        for place, which, first in rows.blocks(block):
            at, read = slice(place, place + len(which)), slice(first, which.stop)
            mask = rows.mask(which, first, query.device)
            attended = _masked(query[:, :, at], key[:, :, read], value[:, :, read], mask, scaling)
            if out is None:  # laid out by tokens, as the projection that follows wants it
                out = attended.new_empty(batch, queries, heads, attended.shape[-1]).transpose(1, 2)
            out[:, :, at] = attended
        return out  # type: ignore[return-value]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> Any:
        (grad,) = grad_outputs
        query, key, value = ctx.saved_tensors
        grads = [torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)]
        for place, which, first in ctx.rows.blocks(ctx.block):
            at, read = slice(place, place + len(which)), slice(first, which.stop)
            mask = ctx.rows.mask(which, first, query.device)
            with torch.enable_grad():
                inputs = tuple(
                    tensor.detach().requires_grad_()
                    for tensor in (query[:, :, at], key[:, :, read], value[:, :, read])
                )
                out = _masked(inputs[0], inputs[1], inputs[2], mask, ctx.scaling)
            gradients = torch.autograd.grad(out, inputs, grad[:, :, at])
            grads[0][:, :, at] = gradients[0]
            grads[1][:, :, read] += gradients[1]
            grads[2][:, :, read] += gradients[2]
        return *grads, None, None, None
