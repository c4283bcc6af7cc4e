"""Losses that are not finite, memory and disks that run out: the run says so and is not lost."""

import json
import resource
import shutil
import signal
import subprocess
import sys

import pytest

from ctxext.data.packing import PackedRows
from support.checkpoints import build_tiny
from support.command import run_ctxext, start_ctxext
from support.runs import log_of, wait_for, wait_for_step
from support.torchrun import start_torchrun

LENGTH, STEPS = 64, 12
POISON = "Z"
OPTIONS = [
    "--seq-length", str(LENGTH), "--steps", str(STEPS), "--batch-size", "1", "--lr", "1e-3",
    "--gradient-accumulation", "1", "--dtype", "float32", "--device", "cpu",
]  # fmt: skip


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory):
    """A checkpoint whose embedding of one byte is not a number."""
    from safetensors.torch import load_file, save_file

    folder = build_tiny(tmp_path_factory.mktemp("poisoned") / "base", window=512)
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][ord(POISON)] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def text_with_poison(path, steps):
    """Text of 40 rows; the rows that these steps (from 1) read hold the poisoned byte."""
    import numpy as np

    text = list("the quick brown fox jumps over it. " * 100)[: 40 * LENGTH]
    rows = PackedRows(np.arange(len(text)), LENGTH, seed=0)
    for step in steps:
        text[int(rows.batch(step - 1, 1)[0, 30])] = POISON
    path.write_text("".join(text))
    return path


def finite(out):
    """The newest checkpoint's tensors are all finite and not all zero."""
    from safetensors.torch import load_file

    newest = max((out / "checkpoints").iterdir(), key=lambda p: int(p.name.partition("-")[2]))
    tensors = load_file(newest / "trained.safetensors")
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    assert any(tensor.any() for name, tensor in tensors.items() if "lora_B" in name)
    return int(newest.name.partition("-")[2])


def test_a_step_that_is_not_finite_is_left_out(tmp_path, poisoned):
    data = text_with_poison(tmp_path / "text.txt", [4, 9])
    out = tmp_path / "run"
    done = run_ctxext("finetune", poisoned, "--data", data, *OPTIONS, "-o", out, "--json")
    assert done.returncode == 0, done.stderr
    assert "step 4 is left out: its loss is nan" in done.stderr
    assert "step 9 is left out" in done.stderr
    lines = log_of(out)
    assert [line["step"] for line in lines if "skipped" in line] == [4, 9]
    assert [line["step"] for line in lines if line["loss"] is None] == [4, 9]
    assert len(lines) == STEPS
    assert "NaN" not in (out / "log.jsonl").read_text()
    assert finite(out) == STEPS


@pytest.mark.slow
def test_two_processes_leave_out_the_same_step(tmp_path, poisoned):
    """One of them reads the poison; both leave the step out, and one says so."""
    data = text_with_poison(tmp_path / "text.txt", [8])  # row 7 of two a step: rank 1, step 4
    out = tmp_path / "run"
    process = start_torchrun("finetune", poisoned, "--data", data, *OPTIONS, "-o", out)
    _, stderr = process.communicate(timeout=600)
    assert process.returncode == 0, stderr
    assert stderr.count("is left out") == 1
    assert [line["step"] for line in log_of(out) if "skipped" in line] == [4]
    assert finite(out) == STEPS


def test_after_some_in_a_row_it_stops_with_the_last_good_state(tmp_path, poisoned):
    data = text_with_poison(tmp_path / "text.txt", range(5, 13))
    out = tmp_path / "run"
    command = ["finetune", poisoned, "--data", data, *OPTIONS, "-o", out]
    done = run_ctxext(*command, "--set", "train.max_skipped=3", "--save-every", 100)
    assert done.returncode == 1
    assert "3 steps in a row had to be left out, the last because its loss is nan" in done.stderr
    assert "Traceback" not in done.stderr
    assert finite(out) == 7
    assert not (out / "merged").exists()


@pytest.mark.slow
def test_full_disk_leaves_the_last_good_checkpoint(tmp_path, small_disk, tiny_llama, book):
    disk = small_disk(2**21)
    out = disk / "run"
    shorter = ["--steps", "60", "--save-every", "2", "--gradient-accumulation", "8"]
    command = ["finetune", tiny_llama, "--data", book, *OPTIONS, *shorter]
    running = start_ctxext(*command, "-o", out)
    wait_for(running, (out / "checkpoints" / "step-4").exists)
    filler = disk / "filler"
    with pytest.raises(OSError, match="No space"):
        filler.write_bytes(b"x" * 2**21)
    _, stderr = running.communicate(timeout=600)
    assert running.returncode == 1, stderr
    assert "No space left on device" in stderr or "cannot be written" in stderr
    assert "Traceback" not in stderr
    kept = finite(out)
    assert kept >= 4
    assert not list((out / "checkpoints").glob(".tmp-*"))
    filler.unlink()
    done = run_ctxext(*command, "-o", out, "--resume")
    assert done.returncode == 0, done.stderr
    assert f"resumed at step {kept}" in done.stderr
    whole = tmp_path / "whole"
    assert run_ctxext(*command, "-o", whole).returncode == 0
    assert [x["loss"] for x in log_of(out)] == [x["loss"] for x in log_of(whole)]


@pytest.mark.slow
def test_a_damaged_checkpoint_is_said_and_passed_over(tmp_path, tiny_llama, book):
    out = tmp_path / "run"
    command = ["finetune", tiny_llama, "--data", book, *OPTIONS, "--save-every", 4, "-o", out]
    assert run_ctxext(*command).returncode == 0
    losses = [line["loss"] for line in log_of(out)]
    file = out / "checkpoints" / f"step-{STEPS}" / "trained.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    done = run_ctxext(*command, "--resume")
    assert done.returncode == 0, done.stderr
    assert f"a damaged checkpoint is passed over: step-{STEPS}" in done.stderr
    assert "resumed at step 8" in done.stderr
    assert [line["loss"] for line in log_of(out)] == losses


def test_a_hangup_is_passed_over_where_nohup_says_so(tmp_path, tiny_llama, book):
    out = tmp_path / "run"
    command = ["finetune", tiny_llama, "--data", book, *OPTIONS, "-o", out]
    process = subprocess.Popen(
        [sys.executable, "-m", "ctxext", *map(str, command)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    wait_for_step(process, out, 1)
    process.send_signal(signal.SIGHUP)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 0, said
    assert len(log_of(out)) == STEPS
    assert (out / "merged").exists()


def test_out_of_memory_names_the_way_out(tmp_path, tiny_llama, book):
    """The real allocator, under a limit that the kernel holds."""
    limit = 4 * 2**30
    command = ["finetune", tiny_llama, "--data", book, *OPTIONS, "-o", tmp_path / "run"]
    more = ["--seq-length", 128, "--batch-size", 20000, "--no-gradient-checkpointing"]
    done = subprocess.run(
        [sys.executable, "-m", "ctxext", *map(str, [*command, *more])],
        capture_output=True,
        text=True,
        timeout=600,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert done.returncode == 1, done.stderr[-2000:]
    assert "out of memory at 20000 x 128 tokens" in done.stderr
    assert "cheapest first: --batch-size 1 --gradient-accumulation 20000" in done.stderr
    assert "Traceback" not in done.stderr


def test_unknown_and_missing_trackers(tmp_path, tiny_llama, book):
    command = ["finetune", tiny_llama, "--data", book, *OPTIONS, "-o", tmp_path / "run"]
    done = run_ctxext(*command, "--report-to", "tensorbord", "--json")
    assert done.returncode == 2
    document = json.loads(done.stdout)
    assert "no tracker that accelerate knows" in document["error"]
    assert "tensorboard" in document["hint"]
    done = run_ctxext(*command, "--report-to", "clearml")
    assert done.returncode == 2
    assert "pip install clearml" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_tensorboard_gets_the_losses(tmp_path, tiny_llama, book):
    pytest.importorskip("tensorboard", reason="TENSORBOARD IS NOT INSTALLED AND NOT TESTED")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "run"
    command = ["finetune", tiny_llama, "--data", book, *OPTIONS, "-o", out]
    done = run_ctxext(*command, "--report-to", "tensorboard")
    assert done.returncode == 0, done.stderr
    (folder,) = {path.parent for path in (out / "report").glob("*/events*")}
    events = EventAccumulator(str(folder)).Reload()
    found = [(event.step, event.value) for event in events.Scalars("loss")]
    expected = [(line["step"], pytest.approx(line["loss"], rel=1e-6)) for line in log_of(out)]
    assert found == expected
    shutil.rmtree(out)
