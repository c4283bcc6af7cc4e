"""Learn by trying how a model's attention gets its queries turned, so that they can be turned on.

Families lay the two dims of a pair half a head apart, or side by side; some turn the first dims of
a head alone. Two runs on the same tokens, at two positions, tell which: rotations add, so the later
queries are the earlier ones turned by the distance.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ctxext.checkpoints.live.attention import register_attention

_LOOK = "ctxext_look"
_TOKENS, _AWAY = 8, 500  # so far apart that slow pairs turn too
_ADDED = ("softcap", "s_aux", "position_bias")  # what a model may add to plain attention


@dataclass(frozen=True)
class Turning:
    """How the first `2 len(inv_freq)` dims of queries and keys were turned by their position.

    Attributes:
        inv_freq: (pairs,) radians per token, float32, as transformers multiplies positions by.
        apart: a pair's dims are `pairs` apart; False: side by side.
    """

    inv_freq: torch.Tensor
    apart: bool

    def turn(self, states: torch.Tensor, old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """Turn states (..., tokens, d) from their positions `old` to `new`, (tokens,) each.

        The angle that is taken back is the one that transformers' float32 product gave, so no
        error grows with the position.
        """
        f = self.inv_freq.to(states.device)
        before = (old[:, None].to(f.dtype) * f).double()
        angle = new[:, None].double() * f.double() - before
        cos, sin = angle.cos().to(states.dtype), angle.sin().to(states.dtype)
        size = 2 * len(f)
        turned, rest = states[..., :size], states[..., size:]
        x, y = turned.chunk(2, dim=-1) if self.apart else (turned[..., ::2], turned[..., 1::2])
        pair = x * cos - y * sin, y * cos + x * sin
        both = torch.cat(pair, dim=-1) if self.apart else torch.stack(pair, dim=-1).flatten(-2)
        return torch.cat([both, rest], dim=-1)


def turning_of(model: Any, inv_freq: torch.Tensor) -> tuple[Turning | None, list[Any]]:
    """Find how all layers turn their queries alike, and the modules that attend.

    Args:
        model: a causal language model in eval mode; as it was, afterwards.
        inv_freq: of its rotary module.

    Returns:
        None where it is not the plain turn of whole heads or their first dims, by every layer.
    """
    vocabulary = model.get_input_embeddings().weight.shape[0]
    device = next(model.parameters()).device
    ids = (torch.arange(1, _TOKENS + 1, device=device) % vocabulary)[None]
    places = torch.arange(_TOKENS, device=device)
    with torch.inference_mode():
        try:
            (near, modules), (far, _) = (_queries(model, ids, places + away) for away in (0, _AWAY))
        except (TypeError, ValueError, NotImplementedError):
            return None, []
    if not near or len(near) != len(far):
        return None, []
    for apart in (True, False):
        turning = Turning(inv_freq.detach().float(), apart)
        if all(_same(turning, a, b, places) for a, b in zip(near, far, strict=True)):
            return turning, modules
    return None, []


def _same(turning: Turning, near: torch.Tensor, far: torch.Tensor, places: torch.Tensor) -> bool:
    if near.shape[-1] < 2 * len(turning.inv_freq):
        return False
    wanted = turning.turn(near.float(), places, places + _AWAY)
    allowed = max(1e-3, 16 * torch.finfo(near.dtype).eps)
    return float((wanted - far.float()).norm()) <= allowed * float(far.float().norm())


def _queries(
    model: Any, ids: torch.Tensor, places: torch.Tensor
) -> tuple[list[torch.Tensor], list[Any]]:
    """Read tokens at some positions, and return what came to attention, layer by layer.

    Raises:
        NotImplementedError: a layer adds something to plain causal attention.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    queries: list[torch.Tensor] = []
    modules: list[Any] = []

    def look(module: Any, query: torch.Tensor, *given: Any, **others: Any) -> Any:
        if any(others.get(name) is not None for name in _ADDED):
            raise NotImplementedError
        queries.append(query)
        modules.append(module)
        return sdpa_attention_forward(module, query, *given, **others)

    with attending(model, _LOOK, look):
        model(input_ids=ids, position_ids=places[None], use_cache=False)
    return queries, modules


@contextmanager
def attending(model: Any, name: str, attention: Any) -> Iterator[None]:
    """Let a model's decoder attend by a function of ours, without a mask, for a while."""
    config = model.config.get_text_config()
    before = config._attn_implementation
    register_attention(name, attention, lambda **_: None)
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before
