"""The last decoder layer, asked for its last positions alone.

Only scored positions go on to the head, and nothing comes after the last layer: its attention, the
part that grows with the square of the length, is needed for them and for nobody else. All positions
still give their keys and values.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from ctxext.checkpoints.live.attention import register_attention
from ctxext.evaluation.reading.lower_right import Back, needs_no_mask
from ctxext.evaluation.reading.room import RoomyLayer, cache_as_argument

_NOTHING = "ctxext_no_attention"


@contextmanager
def last_positions(decoder: Any, kept: int) -> Iterator[None]:
    """Let a decoder return hidden states (batch, kept, hidden) of its last `kept` positions.

    For decoders whose `layers` take `position_embeddings` and a cache, as transformers' families
    do; whoever calls compares with the whole decoder once. Without `lower_right` around it, the
    last positions have a dense mask of kept x length: then keep few of them.
    """
    layer = decoder.layers[-1]
    original = layer.forward
    mlp = getattr(layer, "mlp", None)

    def forward(hidden_states: torch.Tensor, **given: Any) -> Any:
        from transformers import DynamicCache

        length = hidden_states.shape[1]
        cut = length - kept
        cache = DynamicCache()
        cache.layer_class_to_replicate = partial(RoomyLayer, length)
        held = cache_as_argument(original, cache)
        with _no_attention(decoder.config), _no_mlp(mlp):
            original(hidden_states[:, :cut], **(_arguments(given, slice(None, cut)) | held))
        tail = _arguments(given, slice(cut, None)) | held
        mask = given.get("attention_mask")
        if mask is None and needs_no_mask(decoder.config):
            mask = Back()
        elif mask is None:
            mask = _causal(kept, cut, hidden_states)
        elif not isinstance(mask, Back):
            mask = mask[..., cut:, :]
        tail["attention_mask"] = mask
        return original(hidden_states[:, cut:], **tail)

    layer.forward = forward
    try:
        yield
    finally:
        del layer.forward


def _arguments(given: dict[str, Any], positions: slice) -> dict[str, Any]:
    """Return a layer's arguments for some of the positions, but its cache."""
    cos, sin = given["position_embeddings"]
    return given | {
        "position_embeddings": (cos[:, positions], sin[:, positions]),
        "position_ids": given["position_ids"][:, positions],
        "use_cache": True,
        "attention_mask": None,
    }


@contextmanager
def _no_attention(config: Any) -> Iterator[None]:
    """Let layers put keys and values into the cache, and attend to nothing."""
    register_attention(_NOTHING, _nothing)
    before = config._attn_implementation
    config._attn_implementation = _NOTHING
    try:
        yield
    finally:
        config._attn_implementation = before


@contextmanager
def _no_mlp(mlp: Any) -> Iterator[None]:
    """Let a dense MLP give back what it gets; experts, which give more than that, work as ever."""
    if not hasattr(mlp, "down_proj"):
        yield
        return
    tiled = vars(mlp).get("forward")
    mlp.forward = lambda hidden: hidden
    try:
        yield
    finally:
        del mlp.forward
        if tiled is not None:
            mlp.forward = tiled


def _nothing(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any
) -> tuple[torch.Tensor, None]:
    """Attend to nothing: return (batch, positions, heads, head_dim) zeros."""
    batch, heads, positions, _size = query.shape
    return value.new_zeros(batch, positions, heads, value.shape[-1]), None


def _causal(kept: int, cut: int, hidden: torch.Tensor) -> torch.Tensor:
    """Make the (1, 1, kept, length) bool mask of the keys each of the last positions may see."""
    queries = torch.arange(cut, cut + kept, device=hidden.device)
    keys = torch.arange(cut + kept, device=hidden.device)
    return (keys[None] <= queries[:, None])[None, None]
