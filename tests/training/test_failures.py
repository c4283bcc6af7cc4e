"""What the machine does to a run becomes one sentence with a way out."""

import pytest
import torch

from ctxext.errors import CtxextError
from ctxext.machine.launch import Launch
from ctxext.runs.recipe.config import FinetuneConfig, TrainConfig
from ctxext.training.estimate.ways_out import ways_out
from ctxext.training.run.failures import explained


def config(**train):
    return FinetuneConfig(train=TrainConfig(seq_length=4096, **train))


def ways_of(recipe, processes, **more):
    return ways_out(recipe, processes, half=True, **({"on_gpu": False} | more)).values()


def test_only_what_the_run_does_not_do_already():
    def changes(**train):
        return [way.change for way in ways_of(config(**train), 1)]

    wasteful = {"batch_size": 4, "gradient_checkpointing": False, "loss_chunk": 1024}
    assert changes(gradient_accumulation=2, **wasteful) == [
        "--set train.loss_chunk=256",
        "--set memory.mlp_tile=2k",
        "--batch-size 1 --gradient-accumulation 8",
        "--recompute all",
        "--context-parallel 2",
        "--seq-length 2048",
    ]
    least = ["--set memory.mlp_tile=2k", "--context-parallel 2", "--seq-length 2048"]
    assert changes() == changes(loss_chunk=256) == least
    beside = [way.change for way in ways_of(config(), 4)]
    assert beside == [least[0], "--shard 4", "--context-parallel 4", "--seq-length 2048"]


def test_every_way_out_is_taken_by_the_command_line():
    """The flags and keys that the sentence names exist."""
    from typer.main import get_command

    from ctxext.cli.main import command_line

    known = {n for p in get_command(command_line()).commands["finetune"].params for n in p.opts}
    wasteful = config(batch_size=4, gradient_checkpointing=False, loss_chunk=1024)
    for way in ways_of(wasteful, 2, on_gpu=True):
        words = way.change.split()
        assert {word for word in words if word.startswith("--")} <= known
        for word in words:
            if "=" in word:
                section, key = word.partition("=")[0].split(".")
                assert hasattr(getattr(FinetuneConfig(), section), key)


def test_the_allocators_words():
    """The real error of the CPU's allocator, and the type that a GPU's has."""

    def cpu():
        torch.empty(2**60)

    def gpu():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    for fail in (cpu, gpu):
        with (
            pytest.raises(CtxextError, match="out of memory at 1 x 4096 tokens") as caught,
            explained(config(), Launch(), half=True),
        ):
            fail()
        assert caught.value.alone
        assert caught.value.hint.startswith("cheapest first: --set memory.mlp_tile=2k")
        assert caught.value.hint.count("; ") == 2


def test_what_is_a_bug_stays_one():
    with (
        pytest.raises(RuntimeError, match="mat1 and mat2"),
        explained(config(), Launch(), half=True),
    ):
        torch.ones(2, 3) @ torch.ones(2, 3)
