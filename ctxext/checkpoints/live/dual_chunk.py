"""Dual chunk attention by its formula, for measuring: transformers has none.

An et al., arXiv:2402.17463. With n = chunk_size - local_size, a key at position k counts as k mod
n, and a query at position p as

    p mod n                       for keys of its own chunk of n tokens,
    min(p mod n + n, chunk_size)  for keys of the chunk before,
    min(2 n - 1, chunk_size)      for all that are farther,

so no distance is larger than chunk_size. Queries and keys come here turned by their positions; they
are turned on by the difference.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ctxext.checkpoints.config.decoder_part import PART
from ctxext.checkpoints.config.detect import Position
from ctxext.checkpoints.live.attention import register_attention
from ctxext.checkpoints.live.rotary import one_live_rope
from ctxext.checkpoints.live.turned import Turning, turning_of
from ctxext.encodings.kinds import ROTARY
from ctxext.errors import CtxextError
from ctxext.methods.dual_chunk import CONFIG_KEY

DUAL_CHUNK = "ctxext_dual_chunk"
_FOLDING = "ctxext_folding"  # where an attention module keeps its own
_LOGITS, _LOGITS_ON_GPU = 2**22, 2**26  # of them exist at the same time


@dataclass(frozen=True)
class Folding:
    """How positions are folded back into chunks.

    Attributes:
        chunk_size: tokens; no distance is larger.
        local_size: tokens across a chunk's border to which distances are exact.
    """

    chunk_size: int
    local_size: int
    turning: Turning

    @property
    def length(self) -> int:
        """Tokens of one chunk, n."""
        return self.chunk_size - self.local_size

    @property
    def exact(self) -> int:
        """Tokens of a row that is read as without chunks."""
        return min(self.chunk_size, 2 * self.length)


@dataclass(frozen=True)
class Padded:
    """Stands where a mask would: how many tokens of padding each row begins with."""

    tokens: tuple[int, ...]


def use_dual_chunks(model: Any, config: Mapping[str, Any], position: Position) -> str | None:
    """Let a model attend by dual chunks, where its config.json asks for that and it can be done.

    Args:
        model: a causal language model in eval mode; changed in place.
        config: the parsed config.json.
        position: what `detect` read in it.

    Returns:
        A sentence that says how it attends now; None where the config does not ask.
    """
    part = config.get(PART)
    block = config.get(CONFIG_KEY) or (part.get(CONFIG_KEY) if isinstance(part, dict) else None)
    if not block:
        return None
    without = f"measured without dual chunk attention, although its config has {CONFIG_KEY}: "
    sizes = _sizes(block)
    if sizes is None:
        return f"{without}its chunk_size and local_size are not 0 < local_size < chunk_size"
    why_not = _obstacle(model, position)
    if why_not is not None:
        return without + why_not
    try:
        rope = one_live_rope(model, position.model_type)
    except CtxextError as error:
        return without + str(error)
    turning, modules = turning_of(model, rope.inv_freq)
    if turning is None:
        return f"{without}{type(model).__name__} does not turn its queries as one plain rope does"
    for module in modules:
        setattr(module, _FOLDING, Folding(*sizes, turning))
    register_attention(DUAL_CHUNK, dual_chunk_attention, dual_chunk_mask)
    model.config.get_text_config()._attn_implementation = DUAL_CHUNK
    return (
        f"measured with dual chunk attention by its formula (chunk_size {sizes[0]}, local_size "
        f"{sizes[1]}); transformers by itself ignores {CONFIG_KEY}"
    )


def _sizes(block: object) -> tuple[int, int] | None:
    """Read (chunk_size, local_size), tokens; None where they are no such numbers."""
    if not isinstance(block, dict):
        return None
    chunk, local = block.get("chunk_size"), block.get("local_size")
    if type(chunk) is not int or type(local) is not int or not 0 < local < chunk:
        return None
    return chunk, local


def _obstacle(model: Any, position: Position) -> str | None:
    """Say what of a checkpoint this attention cannot do; None: nothing that its config shows."""
    if position.encoding == "mixed":
        return "some of its layers have no position"
    if position.encoding not in ROTARY:
        return f"its positions are {position.encoding or 'unknown'}"
    if position.rope is None:
        return "its rope is not read from the config"
    if position.rope.block.follows_length:
        return f"{position.rope.block.rope_type} scaling follows the length of the text"
    if any(layer.attention != "full" or layer.window is not None for layer in position.layers):
        return "not all of its layers attend to everything"
    implementation = model.config.get_text_config()._attn_implementation
    if implementation != "sdpa":
        return f"its attention is {implementation}, not SDPA"
    return None


def dual_chunk_mask(*, kv_length: int, **rest: Any) -> Padded | None:
    """Return what stands for a mask, as transformers' `AttentionMaskInterface` calls it.

    Raises:
        CtxextError: something else is asked for than causal rows, padded on the left or right.
    """
    if not rest.get("allow_is_causal_skip", True):
        raise CtxextError("dual chunk attention reads plain causal rows only")
    padded = rest.get("attention_mask")
    if padded is None or bool(padded.all()):
        return None
    read = padded[:, :kv_length].bool()
    first, last = read.int().argmax(dim=1), kv_length - 1 - read.flip(1).int().argmax(dim=1)
    if not bool(((last - first + 1) == read.sum(dim=1)).all()):
        raise CtxextError("dual chunk attention reads no rows with holes in their mask")
    return Padded(tuple(first.tolist()))


def dual_chunk_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attend in one layer, as transformers' `AttentionInterface` calls it.

    Args:
        query: (batch, heads, queries, d), turned by its positions; the last of the row.
        key, value: (batch, key heads, keys, d), turned by theirs.
        attention_mask: what `dual_chunk_mask` gave; anything else but a tensor is causal.

    Returns:
        (batch, queries, heads, d of value), and no weights.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    folding: Folding = getattr(module, _FOLDING)
    if isinstance(attention_mask, torch.Tensor):
        raise CtxextError("dual chunk attention makes its own masks")
    padding = attention_mask.tokens if isinstance(attention_mask, Padded) else ()
    queries, keys = query.shape[2], key.shape[2]
    if not padding and keys <= folding.exact and queries in (1, keys):
        whole: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, None, scaling=scaling, **others
        )
        return whole
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if not padding:
        return folded(query, key, value, folding, scale).transpose(1, 2).contiguous(), None
    out = query.new_zeros(*query.shape[:3], value.shape[-1])
    for row, pads in enumerate(padding):
        of_row, at = slice(row, row + 1), max(0, pads - (keys - queries))
        out[of_row, :, at:] = folded(
            query[of_row, :, at:], key[of_row, :, pads:], value[of_row, :, pads:], folding, scale
        )
    return out.transpose(1, 2).contiguous(), None


def folded(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, folding: Folding, scaling: float
) -> torch.Tensor:
    """Compute dual chunk attention of the last queries of a row; shapes as in the caller.

    Logits and their softmax are float32 at least, a few queries at a time.

    Returns:
        (batch, heads, queries, d of value).
    """
    batch, heads, queries, _ = query.shape
    keys, n, turn = key.shape[2], folding.length, folding.turning.turn
    work = torch.promote_types(query.dtype, torch.float32)
    out = query.new_empty(batch, heads, queries, value.shape[-1])
    query, key, value = query.to(work), key.to(work), value.to(work)
    places = torch.arange(keys, device=query.device)
    key = turn(key, places, places % n)
    size = (_LOGITS_ON_GPU if query.is_cuda else _LOGITS) // (batch * heads * keys)
    begin = keys - queries
    while begin < keys:
        chunk = begin // n * n  # where the queries' own begins
        before, end = max(0, chunk - n), min(begin + max(1, size), chunk + n, keys)
        at, of_block = places[begin:end], slice(begin - (keys - queries), end - (keys - queries))
        block, hidden = query[:, :, of_block], places[None, chunk:end] > at[:, None]
        near = (at % n + n).clamp(max=folding.chunk_size)
        far = torch.full_like(at, min(2 * n - 1, folding.chunk_size))
        pieces = (
            _products(turn(block, at, far), key[:, :, :before]),
            _products(turn(block, at, near), key[:, :, before:chunk]),
            _products(turn(block, at, at % n), key[:, :, chunk:end]).masked_fill(hidden, -math.inf),
        )
        logits = torch.cat(pieces, dim=-1)
        weights = (logits * scaling).softmax(-1)
        out[:, :, of_block] = _weighted(weights, value[:, :, :end])
        begin = end
    return out


def _products(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Multiply queries (batch, heads, queries, d) by grouped keys (batch, key heads, keys, d).

    Returns:
        (batch, key heads, heads of a key, queries, keys).
    """
    batch, heads, queries, size = query.shape
    of_key = heads // key.shape[1]
    grouped = query.reshape(batch, key.shape[1], of_key * queries, size)
    products = grouped @ key.transpose(2, 3)
    return products.reshape(batch, key.shape[1], of_key, queries, key.shape[2])


def _weighted(weights: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Sum values (batch, key heads, keys, d) by weights, shaped as `_products` returns them.

    Returns:
        (batch, heads, queries, d).
    """
    batch, _, _, queries, _ = weights.shape
    return (weights.flatten(2, 3) @ value).reshape(batch, -1, queries, value.shape[-1])
