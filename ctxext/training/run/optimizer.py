"""AdamW over what is trained, in groups that differ in learning rate (LoRA+) or weight decay."""

import re

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from ctxext.runs.recipe.config import FinetuneConfig
from ctxext.training.model.lora import trained_tensors

RATE_FACTOR = "rate_factor"
"""In an optimizer's group: its learning rate over the schedule's."""
_BETAS = (0.9, 0.95)
_LORA_B = re.compile(r"\.lora_(embedding_)?B(\.|$)")


def make_optimizer(model: nn.Module, config: FinetuneConfig) -> torch.optim.AdamW:
    """Make AdamW for the trained tensors of a model.

    One group, but for LoRA+ (`lora.plus_ratio`, arXiv:2402.12354: every B learns that many times
    faster than A and the rest) and for full fine-tuning with weight decay, where what has one
    dimension (norms, biases) does not decay.

    Args:
        model: with `requires_grad` set on what is trained, sharded if it will be.
    """
    train, ratio = config.train, config.lora.plus_ratio
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in trained_tensors(model).items():
        factor = ratio if _LORA_B.search(name) else 1.0
        flat = train.what == "full" and parameter.ndim < 2
        key = (factor, 0.0 if flat else train.weight_decay)
        groups.setdefault(key, []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": tensors, "lr": train.lr * factor, "weight_decay": decay, RATE_FACTOR: factor}
            for (factor, decay), tensors in groups.items()
        ],
        lr=train.lr,
        betas=_BETAS,
        weight_decay=train.weight_decay,
        # By itself torch steps sharded tensors one by one, which took four times as long.
        foreach=True if any(isinstance(p, DTensor) for p in model.parameters()) else None,
    )
