"""LoRA+: two learning rates, by hand; and nothing changes where it is not asked for."""

import math

import pytest
import torch
from torch import nn

from ctxext.checkpoints.live.load import load_model
from ctxext.checkpoints.opened import open_checkpoint
from ctxext.errors import BadInput
from ctxext.runs.recipe.config import FinetuneConfig, LoraConfig, TrainConfig
from ctxext.training.model.batch import plain_batch
from ctxext.training.model.lora import LossModel, add_adapters, trained_tensors
from ctxext.training.run.optimizer import RATE_FACTOR, make_optimizer
from ctxext.training.run.schedule import learning_rate

IDS = torch.arange(96)[None]


def live(folder, config):
    opened = open_checkpoint(str(folder))
    torch.manual_seed(3)
    model = load_model(opened.source, opened.position)
    return LossModel(add_adapters(model, config.lora, "tiny"), loss_chunk=40).train()


def adamw(value, grads, rates, decay):
    """AdamW (arXiv:1711.05101), one number at a time, betas 0.9 and 0.95, eps 1e-8."""
    m = v = 0.0
    for t, (grad, rate) in enumerate(zip(grads, rates, strict=True), start=1):
        m, v = 0.9 * m + 0.1 * grad, 0.95 * v + 0.05 * grad * grad
        value *= 1 - rate * decay
        value -= rate * (m / (1 - 0.9**t)) / (math.sqrt(v / (1 - 0.95**t)) + 1e-8)
    return value


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_three_steps_by_hand(tiny_llama, decay):
    train = TrainConfig(lr=0.01, warmup_steps=2, steps=8, weight_decay=decay)
    config = FinetuneConfig(
        lora=LoraConfig(rank=4, plus_ratio=16.0, train_norms=True, dora=True), train=train
    )
    model = live(tiny_llama, config)
    optimizer = make_optimizer(model, config)
    before = {n: p.detach().clone() for n, p in trained_tensors(model).items()}
    grads = {name: [] for name in before}
    for step in range(3):
        for group in optimizer.param_groups:  # as training/loop.py does
            group["lr"] = learning_rate(step, train) * group[RATE_FACTOR]
        model(plain_batch(IDS)).backward()
        for name, parameter in trained_tensors(model).items():
            grads[name].append(parameter.grad.view(-1)[1].item())
        optimizer.step()
        optimizer.zero_grad()
    kinds = set()
    for name, parameter in trained_tensors(model).items():
        ratio = 16.0 if ".lora_B." in name else 1.0
        rates = [learning_rate(step, train) * ratio for step in range(3)]
        want = adamw(before[name].view(-1)[1].item(), grads[name], rates, decay)
        assert parameter.view(-1)[1].item() == pytest.approx(want, rel=1e-4, abs=1e-6), name
        kinds.add(name.split(".")[-3])
    assert {"lora_A", "lora_B", "lora_magnitude_vector"} <= kinds
    assert any(g for own in grads.values() for g in own)


def test_one_group_as_before_without_a_ratio(tiny_llama):
    config = FinetuneConfig(lora=LoraConfig(rank=4, train_norms=True))
    (group,) = make_optimizer(live(tiny_llama, config), config).param_groups
    assert (group["lr"], group["betas"], group["weight_decay"]) == (2e-4, (0.9, 0.95), 0.0)
    assert len(group["params"]) == 16 + 5


def test_norms_do_not_decay_in_full_fine_tuning():
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    config = FinetuneConfig(train=TrainConfig(what="full", weight_decay=0.1))
    groups = make_optimizer(model, config).param_groups
    shapes = {g["weight_decay"]: [tuple(p.shape) for p in g["params"]] for g in groups}
    assert shapes == {0.1: [(4, 3)], 0.0: [(4,), (4,), (4,)]}


@pytest.mark.parametrize("ratio", [0.0, -1.0, math.inf, math.nan])
def test_ratios_that_are_none(ratio):
    with pytest.raises(BadInput, match="plus_ratio"):
        LoraConfig(plus_ratio=ratio)
