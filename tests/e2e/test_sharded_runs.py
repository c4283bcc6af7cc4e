"""`ctxext finetune --shard 2`: the numbers and the files of one process, whoever began the run."""

import os
import random
import shutil
import signal

import pytest
from safetensors.torch import load_file

from support.checkpoints import build_tiny
from support.command import run_ctxext, run_launched
from support.runs import numbers, wait_for_step
from support.torchrun import run_torchrun, start_torchrun, workers_of

STEPS = 8
OPTIONS = [
    "--seq-length", "128", "--steps", str(STEPS), "--batch-size", "1", "--lr", "1e-3",
    "--save-every", "2", "--dtype", "float32", "--device", "cpu",
]  # fmt: skip
PASSES = "--gradient-accumulation"
# What is trained: every kind of tensor that an adapter holds, and every weight of a tied model.
TRAINED = {
    "lora": ["--train-norms", "--train-embeddings", "--set", "lora.dora=true"],
    "full": ["--set", "train.what=full", "--set", "train.weight_decay=0.1"],
}


def same_run(out, other):
    """The log to 1e-5, and what was written to 1e-5 of each tensor's largest number."""
    assert len(numbers(out)) == len(numbers(other)) == STEPS
    for mine, theirs in zip(numbers(out), numbers(other), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5)
    written = [f.relative_to(other) for f in other.glob("[am]*/*.safetensors")]
    assert written
    for file in written:
        mine, theirs = load_file(out / file), load_file(other / file)
        assert list(mine) == list(theirs)
        for name, tensor in theirs.items():
            apart = (mine[name] - tensor).abs().max()
            assert apart <= 1e-5 * tensor.abs().max(), name


def forget_after(out, step):
    """As a run that was killed soon after a checkpoint leaves its folder."""
    for folder in (out / "checkpoints").iterdir():
        if int(folder.name.removeprefix("step-")) > step:
            shutil.rmtree(folder)
    for name in ("adapter", "merged"):
        shutil.rmtree(out / name, ignore_errors=True)


@pytest.fixture(scope="module")
def bases(tmp_path_factory, book):
    """Arguments of a run, by what it trains."""
    folder = tmp_path_factory.mktemp("bases")
    models = {
        "lora": build_tiny(folder / "llama"),
        "full": build_tiny(folder / "qwen", "qwen3", tied=True, shard="60KB"),
    }
    return {
        what: ["finetune", model, "--data", book, *OPTIONS, *TRAINED[what]]
        for what, model in models.items()
    }


@pytest.fixture(scope="module")
def one(tmp_path_factory, bases):
    """A function that gives the run of one process, four rows a step; each is done once."""
    folder, done = tmp_path_factory.mktemp("one"), {}

    def run(what):
        if what not in done:
            ended = run_ctxext(*bases[what], PASSES, 4, "-o", folder / what, timeout=600)
            assert ended.returncode == 0, ended.stderr
            done[what] = folder / what
        return done[what]

    return run


def test_shares_equal_one_process(tmp_path, bases, one):
    out = tmp_path / "shared"
    ended = run_launched(*bases["lora"], PASSES, 2, "--shard", 2, "-o", out)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("self-check") == 1
    same_run(out, one("lora"))
    assert "shard: 2" in (out / "recipe.yaml").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("what", TRAINED)
def test_killed_with_shares_and_resumed_alone(tmp_path, bases, one, what):
    at, out = random.randint(3, STEPS - 2), tmp_path / "killed"
    process = start_torchrun(*bases[what], PASSES, 2, "--shard", 2, "-o", out)
    wait_for_step(process, out, at)
    for pid in workers_of(process):
        os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=600)
    assert not (out / "merged").exists()
    refused = run_ctxext(*bases[what], PASSES, 2, "-o", out, "--resume", timeout=600)
    assert refused.returncode == 2
    assert "or give --shard 1" in refused.stderr
    alone = ["--shard", 1, "--resume"]
    ended = run_ctxext(*bases[what], PASSES, 2, "-o", out, *alone, timeout=600)
    assert ended.returncode == 0, ended.stderr
    assert "the run had 2 processes and goes on with 1" in ended.stderr
    same_run(out, one(what))


@pytest.mark.slow
@pytest.mark.parametrize("what", TRAINED)
def test_begun_alone_and_resumed_with_shares_of_shared_rows(tmp_path, bases, one, what):
    out = tmp_path / "begun"
    ended = run_ctxext(*bases[what], PASSES, 4, "-o", out, timeout=600)
    assert ended.returncode == 0, ended.stderr
    forget_after(out, STEPS - 2)
    ended = run_torchrun(
        *bases[what], PASSES, 4, "--shard", 2, "--context-parallel", 2, "-o", out, "--resume"
    )
    assert ended.returncode == 0, ended.stderr
    assert f"resumed at step {STEPS - 2}" in ended.stderr
    same_run(out, one(what))
