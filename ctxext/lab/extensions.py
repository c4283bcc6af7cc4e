"""Every RoPE method on the laboratory's decoder: as extended, and after a few LoRA steps."""

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ctxext.encodings.rope import RopeSpec
from ctxext.lab.measures import Measured, loss_by_position, recall, unseen_rows
from ctxext.lab.setting import LabSetting
from ctxext.lab.short_training import stream, weighted_loss
from ctxext.lab.strings import planted_strings
from ctxext.methods import METHODS, Method, rope_methods
from ctxext.runs.recipe.config import LoraConfig
from ctxext.runs.rows.lab import AS_TRAINED
from ctxext.training.model.lora import add_adapters

COMPARED = ("linear", "yarn")
"""The two methods whose steps to the same loss are compared."""
LORA_LR, LORA_ROWS, RANK = 2e-3, 2, 8
MEASURED_EVERY = 5
"""LoRA steps between two looks at the far loss, in the comparison of steps."""


def measured_methods() -> list[Method]:
    """List the methods that change nothing but frequencies and attention factor by themselves."""
    return [
        method
        for method in rope_methods()
        if "rope" in method.applies_to
        and not (method.takes_back or method.required or method.top_key)
    ]


def spec_of(setting: LabSetting) -> RopeSpec:
    """Describe the decoder's rope."""
    return RopeSpec(setting.hidden_size // setting.heads, setting.rope_theta, setting.train_length)


def extended(model: Any, setting: LabSetting, method: str) -> Any:
    """Copy a RoPE decoder and let it turn as a method says at the longest test length."""
    model = copy.deepcopy(model)
    if method != AS_TRAINED:
        extension = METHODS[method].rope(spec_of(setting), setting.longest)
        turn(model, extension.inv_freq, extension.attention_factor)
    return model


def turn(model: Any, inv_freq: list[float], attention_factor: float = 1.0) -> None:
    """Let a RoPE decoder turn by other frequencies, radians per token, from now on."""
    rope = model.model.rotary_emb
    rope.inv_freq = rope.inv_freq.new_tensor(inv_freq)
    rope.attention_scaling = attention_factor


def train_long(
    model: Any, setting: LabSetting, seed: int, steps: int, *, target: float | None = None
) -> int | None:
    """Train LoRA adapters at the longest length, on text with strings.

    Args:
        target: nats a token; stop once the far loss is there.

    Returns:
        The steps after which the far loss was first at the target; None = never, or no target.
    """
    torch.manual_seed(seed)
    adapted = add_adapters(model, LoraConfig(rank=RANK, alpha=2 * RANK), "lab").train()
    trained = [p for p in adapted.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LORA_LR, weight_decay=0.0)
    rng = np.random.default_rng([seed, 5])
    reached = None
    for step in range(steps):
        if target is not None and step % MEASURED_EVERY == 0:
            if far_loss(model.eval(), setting, seed) <= target:
                reached = step
                break
            adapted.train()
        rows = planted_strings(rng, stream(held_out=False), LORA_ROWS, setting.longest)
        loss = weighted_loss(model, *rows)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    model.eval()
    return reached


def far_loss(model: Any, setting: LabSetting, seed: int) -> float:
    """Average the loss beyond the trained window over text that nothing is chosen by, nats."""
    rows = unseen_rows(setting, seed, calibration=True)[: max(8, setting.windows // 2)]
    measured = Measured(loss_by_position(model, setting, rows))
    values = measured.bucket(*beyond(setting))
    return sum(values) / len(values)


def within(setting: LabSetting) -> tuple[int, ...]:
    """List the buckets in the trained window."""
    return tuple(i for i, (_, end) in enumerate(setting.buckets) if end <= setting.train_length)


def beyond(setting: LabSetting) -> tuple[int, ...]:
    """List the buckets beyond the trained window."""
    return tuple(i for i, (start, _) in enumerate(setting.buckets) if start >= setting.train_length)


def measure_extended(model: Any, setting: LabSetting, seed: int) -> Mapping[str, list[float]]:
    """Measure loss near and far, and recall from beyond the window, row by row."""
    measured = Measured(loss_by_position(model, setting, unseen_rows(setting, seed)))
    far = max(d for d in setting.distances(setting.longest) if d <= setting.longest // 2)
    gains, _ = recall(model, setting, seed, length=setting.longest, distance=far)
    return {
        "near": measured.bucket(*within(setting)),
        "far": measured.bucket(*beyond(setting)),
        "recall": gains,
    }


def extend_and_train(model: Any, setting: LabSetting, seed: int, method: str) -> dict[str, Any]:
    """Measure a method before and after `lora_steps`; `as trained` has nothing to train for."""
    reached = extended(model, setting, method)
    out: dict[str, Any] = {"before": measure_extended(reached, setting, seed)}
    if method != AS_TRAINED:
        train_long(reached, setting, seed, setting.lora_steps)
        out["after"] = measure_extended(reached, setting, seed)
    return out


def steps_to_target(model: Any, setting: LabSetting, seed: int) -> dict[str, Any]:
    """Count the steps that each of two methods needs to linear scaling's loss after its steps.

    The target is what linear scaling reaches in half of `most_lora_steps`.
    """
    first = COMPARED[0]
    trained = extended(model, setting, first)
    train_long(trained, setting, seed, setting.most_lora_steps // 2)
    target = far_loss(trained, setting, seed)
    counts = {
        method: train_long(
            extended(model, setting, method), setting, seed, setting.most_lora_steps, target=target
        )
        for method in COMPARED
    }
    return {"target": target, "steps": counts}
