"""Read and check what stands between a decoder's last hidden states and its logits."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from ctxext.errors import CtxextError

# Config key -> whether logits are multiplied by its value (else divided).
_SCALES = {
    "logit_scale": True,  # Cohere
    "output_multiplier": True,
    "lm_head_multiplier": True,  # Falcon-H1
    "logits_scaling": False,  # Granite
}
_MULTIPLIES_BY_LOGITS_SCALING = ("hyperclovax",)  # the same word for the opposite
_PROBE = 16  # tokens
_ROUNDINGS = 64  # of the logits' dtype, that two ways to one logit may lie apart


@dataclass(frozen=True)
class Head:
    """logits = cap(scale * (hidden @ weight.T + bias)), with cap(x) = softcap * tanh(x / softcap).

    Attributes:
        weight: (vocabulary, hidden).
        bias: (vocabulary,), or None.
        scale: factor of the logits.
        softcap: bound of the logits (Gemma 2, arXiv:2408.00118, section 2); None = unbounded.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Compute (..., vocabulary) float32 logits of (..., hidden) hidden states."""
        out = torch.nn.functional.linear(hidden, self.weight, self.bias).float()
        if self.scale != 1.0:
            out = out * self.scale
        if self.softcap is not None:
            out = (out / self.softcap).tanh() * self.softcap
        return out


def without_peft(model: Any) -> Any:
    """Take a causal language model out of its peft wrapper; one that has none is given back."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def decoder_of(model: Any) -> Any:
    """Find the decoder below the head of a causal language model, whatever its name there."""
    return getattr(model, model.base_model_prefix)


def head_of(model: Any) -> Head:
    """Find the head of a causal language model, as its config describes it.

    `model` is no peft wrapper. `check_head` says whether that description is complete.
    """
    config = model.config.get_text_config()
    module = model.get_output_embeddings()
    scale = 1.0
    for key, multiplies in _SCALES.items():
        value = getattr(config, key, None)
        if value is not None:
            up = multiplies or config.model_type in _MULTIPLIES_BY_LOGITS_SCALING
            scale *= float(value) if up else 1.0 / float(value)
    softcap = getattr(config, "final_logit_softcapping", None)
    return Head(
        module.weight, getattr(module, "bias", None), scale, float(softcap) if softcap else None
    )


@torch.no_grad()
def check_head(model: Any, ids: torch.Tensor, *, name: str = "the model") -> None:
    """Compare our logits of a few tokens with those of the model's own forward.

    Args:
        model: a causal language model, or its peft wrapper.
        ids: (batch, length) token ids; the first 16 of the first row are used.
        name: the checkpoint's, for the message.

    Raises:
        CtxextError: they differ, so that this head does something that `head_of` does not know;
            or they are no numbers.
    """
    base = without_peft(model)
    probe = ids[:1, :_PROBE]
    training = model.training
    model.eval()
    hidden = decoder_of(base)(input_ids=probe, use_cache=False).last_hidden_state
    ours = head_of(base).logits(hidden)
    plain = base(input_ids=probe, use_cache=False).logits
    model.train(training)
    size = float(plain.float().abs().max())
    if not math.isfinite(size):
        raise CtxextError(
            f"the weights of {name} give {'NaN' if math.isnan(size) else 'infinity'}, so nothing "
            "can be learned from them",
            "fetch the checkpoint again, or try --dtype float32",
        )
    apart = float((ours - plain.float()).abs().max())
    if not apart <= _ROUNDINGS * torch.finfo(plain.dtype).eps * max(size, 1e-6):
        raise CtxextError(
            f"the head of {type(base).__name__} is unknown: logits differ by {apart:.2e} of "
            f"{size:.2e} from those of its own forward",
            "a loss that saves memory would be wrong for this model; please report it",
        )
