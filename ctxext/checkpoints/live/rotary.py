"""Find the rotary modules of a live decoder, and what they turn by."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctxext.checkpoints.config.rope_forms import form_of
from ctxext.errors import CtxextError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class LiveRope:
    """A module that turns queries and keys, and the layers of which it does so.

    `layer_type`: where one module holds the frequencies of several kinds of layers, in buffers
    named after them.
    """

    module: Any
    layer_type: str | None

    @property
    def inv_freq(self) -> "torch.Tensor":
        """(rotary_dim / 2,) radians per token, as they are now; not of pairs that stand still."""
        frequencies: torch.Tensor = getattr(self.module, self._named("inv_freq"))
        return frequencies[frequencies != 0] if not frequencies.all() else frequencies

    @property
    def attention_factor(self) -> float:
        """What it multiplies cos and sin by."""
        return float(getattr(self.module, self._named("attention_scaling"), 1.0))

    def at(self, length: int) -> tuple[list[float], float]:
        """Ask for (angle of every pair at position 1, attention factor) in `length` tokens."""
        import torch

        place = self.inv_freq.device
        ids = torch.tensor([[1, max(1, length - 1)]], device=place)
        named = {} if self.layer_type is None else {"layer_type": self.layer_type}
        with torch.no_grad():
            turned = self.module(torch.zeros(1, 2, 1, device=place), ids, **named)
        if isinstance(turned, torch.Tensor):  # cos + i sin of every pair (DeepSeek-V2, Llama 4)
            turned = tuple(torch.cat([part, part], -1) for part in (turned.real, turned.imag))
        cos, sin = turned
        x, y = cos[0, 0].double().cpu(), sin[0, 0].double().cpu()
        pairs = len(x) // 2
        # The two dims of a pair stand half a head apart, or side by side.
        apart = torch.equal(x[:pairs], x[pairs:])
        x, y = (x[:pairs], y[:pairs]) if apart else (x[::2], y[::2])
        return torch.atan2(y, x).tolist(), float(torch.hypot(x, y).mean())

    def reset(self) -> None:
        """Forget the longest sequence: dynamic scaling would keep its base for shorter ones."""
        first, longest = self._named("original_inv_freq"), self._named("max_seq_len_cached")
        if hasattr(self.module, first) and hasattr(self.module, longest):
            buffer = getattr(self.module, first).clone()
            self.module.register_buffer(self._named("inv_freq"), buffer, persistent=False)
            setattr(self.module, longest, self.module.original_max_seq_len)

    def _named(self, name: str) -> str:
        return name if self.layer_type is None else f"{self.layer_type}_{name}"


def live_ropes(model: Any, model_type: str) -> list[LiveRope]:
    """List what turns the far-reaching layers of a decoder; rotary modules of a vision part, that
    stands beside it in one model, are not among them.

    Args:
        model: of transformers, or wrapped for training.
        model_type: of the decoder.
    """
    decoder = text_decoder(model)
    layer_type = form_of(model_type).layer_type
    if layer_type is not None:
        name = f"{layer_type}_inv_freq"
        return [LiveRope(m, layer_type) for m in decoder.modules() if hasattr(m, name)]
    return [LiveRope(m, None) for m in decoder.modules() if hasattr(m, "inv_freq")]


def text_decoder(model: Any) -> Any:
    """Return the part of a multimodal model that reads tokens, or the model where it is all."""
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in ("language_model", "text_model") and name.count(".") <= 5:
            return module
    return model


def all_live_ropes(model: Any) -> Iterator[LiveRope]:
    """Go through every rotary module, one for each kind of layer where a module holds several."""
    for module in model.modules():
        for name in [name for name, _ in module.named_buffers(recurse=False)]:
            if name == "inv_freq":
                yield LiveRope(module, None)
            elif name.endswith("_inv_freq") and not name.endswith("original_inv_freq"):
                yield LiveRope(module, name.removesuffix("_inv_freq"))


def one_live_rope(model: Any, model_type: str) -> LiveRope:
    """Find the one module that turns the far-reaching layers.

    Raises:
        CtxextError: there is none, or there are several that differ.
    """
    ropes = live_ropes(model, model_type)
    if not ropes or any(not _alike(ropes[0], each) for each in ropes):
        raise CtxextError(f"{type(model).__name__} has {len(ropes)} rotary modules, expected one")
    return ropes[0]


def _alike(a: LiveRope, b: LiveRope) -> bool:
    import torch

    return torch.equal(a.inv_freq, b.inv_freq) and math.isclose(
        a.attention_factor, b.attention_factor
    )
