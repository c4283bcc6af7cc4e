"""The auxiliary loss that keeps a mixture's experts evenly used, as the model's own class has it.

A checkpoint asks for it with `output_router_logits` in its config; transformers adds it to the loss
then, and only then, so ctxext does too.
"""

import sys
from inspect import signature
from typing import Any

import torch

from ctxext.errors import CtxextError

_ARGUMENTS = ["gate_logits", "num_experts", "top_k", "attention_mask"]


def wants_router_loss(model: Any) -> bool:
    """Tell whether the model's own forward adds an auxiliary loss to that of the next tokens."""
    return bool(getattr(model.config.get_text_config(), "output_router_logits", False))


def router_loss(model: Any, router_logits: Any) -> torch.Tensor:
    """Compute a pass's weighted auxiliary loss, scalar, to be added to the *mean* token loss.

    Args:
        model: a causal language model (not its peft wrapper).
        router_logits: what its decoder returned under `output_router_logits=True`: for each layer
            (batch * length, experts).

    Raises:
        CtxextError: the class has another auxiliary loss than transformers' mixtures have.
    """
    function = getattr(sys.modules[type(model).__module__], "load_balancing_loss_func", None)
    coefficient = getattr(model, "router_aux_loss_coef", None)
    experts, chosen = getattr(model, "num_experts", None), getattr(model, "num_experts_per_tok", 0)
    if (
        function is None
        or list(signature(function).parameters) != _ARGUMENTS
        or coefficient is None
        or experts is None
        or not router_logits
    ):
        raise CtxextError(
            f"the auxiliary loss of {type(model).__name__} is unknown",
            'set "output_router_logits": false in config.json to train without it',
        )
    auxiliary = function(router_logits, experts, chosen, None)
    return torch.as_tensor(auxiliary) * float(coefficient)
