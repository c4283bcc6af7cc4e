"""`ctxext finetune` on two processes: equal to one, one voice, and it survives what may happen."""

import json
import os
import random
import re
import signal

import pytest

from support.bad_inputs import errors_in
from support.command import run_ctxext, run_launched
from support.runs import log_of, numbers, wait_for_step
from support.torchrun import run_torchrun, start_torchrun, workers_of

STEPS = 10
OPTIONS = [
    "--seq-length", "256", "--steps", str(STEPS), "--batch-size", "1", "--lr", "1e-3",
    "--save-every", "3", "--train-norms", "--dtype", "float32", "--device", "cpu",
]  # fmt: skip
PASSES = "--gradient-accumulation"


def close(out, other):
    assert len(log_of(out)) == len(log_of(other)) == STEPS
    for mine, theirs in zip(numbers(out), numbers(other), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5)


@pytest.fixture(scope="module")
def base(tmp_path_factory, tiny_llama, book):
    """An extended checkpoint, and the arguments that all runs of it share."""
    out = tmp_path_factory.mktemp("runs") / "yarn"
    assert run_ctxext("extend", tiny_llama, "--target", 512, "-o", out).returncode == 0
    return ["finetune", out, "--data", book, *OPTIONS]


@pytest.fixture(scope="module")
def one(tmp_path_factory, base):
    """Four rows a step in one process."""
    out = tmp_path_factory.mktemp("runs") / "one"
    done = run_ctxext(*base, PASSES, 4, "-o", out, timeout=600)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def two(tmp_path_factory, base):
    """Four rows a step in two processes, with dropout: what a resumed run is compared with."""
    out = tmp_path_factory.mktemp("runs") / "two"
    done = run_launched(*base, PASSES, 2, "--set", "lora.dropout=0.1", "-o", out)
    assert done.returncode == 0, done.stderr
    return out


def test_data_ranks_equal_one_process_and_one_speaks(tmp_path, base, one):
    out = tmp_path / "data"
    done = run_launched(*base, PASSES, 2, "-o", out, "--json")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["steps"] == STEPS
    assert done.stderr.count("self-check") == 1
    close(out, one)
    assert {p.name for p in out.iterdir()} == {p.name for p in one.iterdir()}
    assert [p.name for p in tmp_path.iterdir()] == ["data"]  # no lock, no leftover


def test_context_ranks_equal_one_process(tmp_path, base, one):
    out = tmp_path / "context"
    done = run_launched(*base, PASSES, 4, "--context-parallel", 2, "-o", out)
    assert done.returncode == 0, done.stderr
    close(out, one)
    assert "context: 2" in (out / "recipe.yaml").read_text()


def test_a_mistake_is_said_once(tmp_path, base):
    old = tmp_path / "x" / "ctxext.json"
    old.parent.mkdir()
    old.write_text("of a run that a mistake must not remove")
    for launch, more, words in (
        (run_launched, ["--context-parallel", 3], "parallel.context is 3 and 2 processes"),
        (run_launched, ["--context-parallel", 2, "--seq-length", 250], "no multiple of 4"),
        (run_torchrun, ["--seq-length", 1024], "beyond the window"),
        (run_launched, ["--lr", "no"], "Invalid value for '--lr'"),
    ):
        done = launch(*base, *more, "-o", tmp_path / "x", "--overwrite")
        assert done.returncode != 0
        said = errors_in(done.stderr)
        assert len(said) == 1, done.stderr
        assert words in said[0]
        if launch is run_torchrun:
            assert re.search(r"exitcode\s*: 2 ", done.stderr), done.stderr
        else:
            assert done.returncode == 2
        assert "terminate called" not in done.stderr
        assert "Traceback" not in done.stderr.split("/elastic/")[0]
        assert old.exists()


@pytest.mark.slow
def test_sigkill_of_all_resumed_bit_for_bit(tmp_path, base, two):
    at = random.randint(1, STEPS - 2)
    out = tmp_path / "killed"
    command = [*base, PASSES, 2, "--set", "lora.dropout=0.1", "-o", out]
    process = start_torchrun(*command)
    wait_for_step(process, out, at)
    for pid in workers_of(process):
        os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=600)
    assert not (out / "merged").exists()
    done = run_torchrun(*command, "--resume")
    assert done.returncode == 0, done.stderr
    assert numbers(out) == numbers(two), f"killed after step {at}"
    for name in ("adapter/adapter_model.safetensors", "merged/model.safetensors"):
        assert (out / name).read_bytes() == (two / name).read_bytes()


@pytest.mark.slow
def test_one_rank_killed_ends_all_and_one_process_goes_on(tmp_path, base, one):
    """The same rows in the same order on another number of processes, so the same losses."""
    out = tmp_path / "killed"
    process = start_torchrun(*base, PASSES, 2, "-o", out)
    wait_for_step(process, out, 4)
    os.kill(workers_of(process)[1], signal.SIGKILL)
    _, stderr = process.communicate(timeout=600)
    assert process.returncode != 0
    assert "Traceback" not in stderr.split("/elastic/")[0], stderr
    done = run_ctxext(*base, PASSES, 2, "-o", out, "--resume")
    assert done.returncode == 0, done.stderr
    assert "the run had 2 processes and goes on with 1" in done.stderr
    close(out, one)


@pytest.mark.slow
def test_rows_that_more_ranks_cannot_share(tmp_path, base):
    out = tmp_path / "run"
    assert run_ctxext(*base, "--steps", 1, PASSES, 1, "-o", out).returncode == 0
    done = run_torchrun(*base, "--steps", 1, PASSES, 1, "-o", out, "--resume")
    assert "a step of this run reads 1 rows, which 2 ranks" in done.stderr
    done = run_torchrun(
        *base, "--steps", 1, PASSES, 1, "-o", out, "--resume", "--context-parallel", 2
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["one rank", "torchrun"])
def test_sigterm_saves_on_every_rank(tmp_path, base, two, whom):
    out = tmp_path / "stopped"
    command = [*base, PASSES, 2, "--set", "lora.dropout=0.1", "-o", out]
    process = start_torchrun(*command)
    wait_for_step(process, out, 2)
    seen = len(log_of(out))
    if whom == "torchrun":
        process.send_signal(signal.SIGTERM)
    else:
        os.kill(workers_of(process)[1], signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=600)
    if whom == "one rank":  # torchrun itself ends as the signal that it got
        assert process.returncode == 0, stderr
    assert stdout.count("stopped after step") == 1, stderr
    stopped = len(log_of(out))
    assert seen <= stopped <= seen + 3  # steps take milliseconds here, the signal may take two
    assert (out / "checkpoints" / f"step-{stopped}").is_dir()
    done = run_torchrun(*command, "--resume")
    assert done.returncode == 0, done.stderr
    assert numbers(out) == numbers(two)
