"""Arithmetic counted by hand, and against what torch counts while it runs."""

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from ctxext.runs.recipe.config import LoraConfig
from ctxext.training.estimate.flops import mean_context, pass_flops
from ctxext.training.estimate.memory import Pass, Shape, layer_parameters
from ctxext.training.memory.recompute import recompute_first
from ctxext.training.model.batch import plain_batch
from ctxext.training.model.lora import LossModel, add_adapters

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
LLAMA_8B = Shape(4096, 14336, 32, 32, 8, 128, 128_256)


def test_by_hand():
    """Llama-3-8B: 4 N P, because weights are frozen; 6 N P for all of them."""
    step = Pass(1, 1024, 2, (), 16)
    work = pass_flops(LLAMA_8B, step, 0)
    assert work.matrices == pytest.approx(4 * 1024 * 32 * layer_parameters(LLAMA_8B))
    assert work.head == 4 * 1024 * 128_256 * 4096
    down = 2 * 1024 * 32 * 14336 * 4096
    assert pass_flops(LLAMA_8B, step, 32).matrices == 1.5 * work.matrices - down
    assert pass_flops(LLAMA_8B, step, 0, full=True).matrices == pytest.approx(1.5 * work.matrices)
    # 3.5 forward passes of 4 N Q (N + 1) / 2 in each of 32 layers
    assert work.attention == pytest.approx(3.5 * 32 * 4 * 1024 * 4096 * 1025 / 2)


def test_mean_context():
    for length, window in ((10, None), (10, 3), (10, 10), (10, 30)):
        seen = [min(i + 1, window or length) for i in range(length)]
        assert mean_context(length, window) == pytest.approx(sum(seen) / length)


@pytest.mark.parametrize("recomputed", [0, 2])
@pytest.mark.parametrize("targets", [ATTENTION, (*ATTENTION, "gate_proj", "up_proj", "down_proj")])
def test_matrices_and_head_against_torch(targets, recomputed):
    """What torch's own counter sees of a step; attention is counted there without its mask."""
    config = transformers.LlamaConfig(
        vocab_size=300, hidden_size=64, intermediate_size=160, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, pad_token_id=0,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    wrapped = add_adapters(model, LoraConfig(rank=8, targets=targets), "t").train()
    recompute_first(wrapped, recomputed)
    loss = LossModel(wrapped, 64).train()
    ids = torch.randint(3, 300, (2, 64))
    with FlopCounterMode(display=False) as counter:
        loss(plain_batch(ids)).backward()
    counts = counter.get_flop_counts()["Global"]
    measured = sum(n for op, n in counts.items() if "attention" not in str(op))
    work = pass_flops(Shape.of(config.to_dict()), Pass(2, 64, 4, targets, 8), recomputed)
    assert work.matrices + work.head == pytest.approx(measured, rel=0.05)
