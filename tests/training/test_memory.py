"""The section `memory`: what it accepts, and what it does to a model."""

import pytest
import torch
import transformers

from ctxext.checkpoints.live.layers import decoder_layers
from ctxext.errors import BadInput
from ctxext.machine import memory
from ctxext.machine.memory import available_bytes
from ctxext.runs.build import build
from ctxext.runs.recipe.config import FinetuneConfig, LoraConfig, TrainConfig
from ctxext.runs.recipe.memory_config import MemoryConfig
from ctxext.training.estimate.memory import step_bytes
from ctxext.training.memory.offload import Offloader
from ctxext.training.memory.switches import (
    apply_memory,
    loss_chunk_of,
    pass_of,
    shape_of,
    step_memory,
)
from ctxext.training.model.lora import add_adapters

SHAPE = {
    "vocab_size": 256, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
    "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16,
}  # fmt: skip


def model_of(name="Llama", **settings):
    config = getattr(transformers, f"{name}Config")(**SHAPE | settings)
    return add_adapters(transformers.AutoModelForCausalLM.from_config(config), LoraConfig(), "t")


def config_of(**memory):
    return FinetuneConfig(train=TrainConfig(seq_length=4096), memory=MemoryConfig(**memory))


def recomputing(model):
    return [bool(layer.gradient_checkpointing) for layer in decoder_layers(model)]


@pytest.mark.parametrize(
    ("memory", "checkpointing", "expected"),
    [
        ({}, True, [True] * 4),
        ({}, False, [False] * 4),
        ({"recompute": "none"}, True, [False] * 4),
        ({"recompute": "all"}, False, [True] * 4),
        ({"recompute": 3}, True, [True, True, True, False]),
        ({"recompute": "1"}, True, [True, False, False, False]),
        ({"recompute": 9}, True, [True] * 4),
        ({"offload": "activations"}, False, [True] * 4),
    ],
)
def test_which_layers_recompute(memory, checkpointing, expected):
    model = model_of()
    config = FinetuneConfig(
        train=TrainConfig(seq_length=64, gradient_checkpointing=checkpointing),
        memory=build(MemoryConfig, memory, where="memory"),
    )
    plan = apply_memory(model, config, None)
    assert recomputing(model) == expected
    assert (plan.recomputed, plan.layers) == (sum(expected), 4)
    first = decoder_layers(model)[0]
    if plan.offload:
        assert isinstance(first._gradient_checkpointing_func, Offloader)
    assert plan.offload == ("offload" in memory)


def test_auto_recomputes_only_what_the_limit_requires():
    seen = []
    for recomputed in (0, 2, 4):
        model = model_of()
        config = config_of(recompute="auto")
        needed = step_bytes(shape_of(model), pass_of(model, config), recomputed)
        needed = 0 if recomputed == 4 else needed  # nothing fits: recompute all
        plan = apply_memory(model, config, needed)
        assert f"recomputing {recomputed} of 4 layers" in plan.notes[0]
        seen.append(plan.recomputed)
        assert recomputing(model) == [True] * recomputed + [False] * (4 - recomputed)
    assert seen == [0, 2, 4]


def test_the_limit_is_the_one_given_or_what_is_free():
    model = model_of()
    assert step_memory(model, config_of(limit_gib=1.5)) == int(1.5 * 2**30)
    free = available_bytes(torch.device("cpu"))
    assert step_memory(model, config_of()) == pytest.approx(0.9 * free, rel=0.2)


def test_a_machine_that_says_nothing_of_its_memory_is_said(monkeypatch):
    def no_proc():
        raise FileNotFoundError("/proc/meminfo")

    monkeypatch.setattr(memory.psutil, "virtual_memory", no_proc)
    monkeypatch.setattr(memory, "_CGROUPS", ())
    assert available_bytes(torch.device("cpu")) is None
    with pytest.raises(BadInput, match="how much memory is free"):
        apply_memory(model_of(), config_of(recompute="auto"), None)


def test_what_cannot_be_tiled_is_said():
    plan = apply_memory(model_of("Mixtral", num_local_experts=2), config_of(mlp_tile=8), None)
    assert plan.tiled == 0
    assert "MixtralSparseMoeBlock" in plan.notes[0]
    assert apply_memory(model_of(), config_of(mlp_tile=8), None).tiled == 4


@pytest.mark.parametrize(
    ("memory", "words"),
    [
        ({"recompute": "some"}, "recompute is 'some'"),
        ({"recompute": -1}, "recompute is -1"),
        ({"recompute": True}, "recompute has to be"),
        ({"offload": "disk"}, "offload is 'disk'"),
        ({"offload": "activations", "recompute": "none"}, "parks inputs of recomputed layers"),
        ({"offload": "activations", "recompute": 0}, "parks inputs of recomputed layers"),
        ({"mlp_tile": -4}, "mlp_tile is -4"),
        ({"limit_gib": -1}, "limit_gib is -1"),
        ({"recomput": "all"}, "no key 'recomput'"),
    ],
)
def test_bad_settings(memory, words):
    with pytest.raises(BadInput, match=words):
        build(MemoryConfig, memory, where="memory")


def test_the_chunk_of_the_loss_follows_the_vocabulary():
    assert loss_chunk_of(model_of(), config_of()) == 1024
    assert loss_chunk_of(model_of(vocab_size=128_256), config_of()) == 256
    fixed = FinetuneConfig(train=TrainConfig(loss_chunk=7))
    assert loss_chunk_of(model_of(), fixed) == 7
