"""What an evaluation says before, after, and when it is stopped; all of it on stderr."""

import json
import re
import signal
import subprocess
import sys

import pytest

from support.command import run_ctxext, start_ctxext
from support.runs import has_lines, wait_for


@pytest.fixture
def data(tmp_path, book):
    path = tmp_path / "book.txt"
    path.write_text(book.read_text()[:20_000])
    return path


@pytest.fixture
def asked(tiny_llama, data):
    """A command of each kind that takes some seconds."""
    return {
        "eval-ppl": (
            "eval-ppl", tiny_llama, "--data", data, "--lengths", "128,512", "--stride", "32",
        ),
        "eval-retrieval": (
            "eval-retrieval", tiny_llama, "--lengths", "512", "--samples", "100", "--tasks", "copy",
        ),
    }  # fmt: skip


def stopped(command, number, *, at):
    process = start_ctxext(*command)
    wait_for(process, at)
    process.send_signal(number)
    stdout, stderr = process.communicate()
    assert "Traceback" not in stderr
    return process.returncode, stdout, stderr


@pytest.mark.parametrize("kind", ["eval-ppl", "eval-retrieval"])
def test_ctrl_c_says_that_the_same_command_goes_on_and_it_does(tmp_path, asked, kind):
    out = tmp_path / "out"
    command = (*asked[kind], "-o", out, "--json")
    measured = has_lines(out / "measured-0.jsonl", 5)
    code, stdout, stderr = stopped(command, signal.SIGINT, at=measured)
    said = f"what was measured is kept in {out}, and the same command goes on from there"
    assert code == 130
    assert "ctxext: interrupted\n" in stderr
    assert f"  {said}\n" in stderr
    assert json.loads(stdout) == {
        "schema": "ctxext.error/1", "error": "interrupted", "hint": said,
    }  # fmt: skip
    kept = (out / "measured-0.jsonl").read_text()
    code, _, stderr = stopped(command, signal.SIGTERM, at=has_lines(out / "measured-0.jsonl", 7))
    assert code == 143
    assert "the same command goes on" in stderr
    assert (out / "measured-0.jsonl").read_text().startswith(kept)


def test_ctrl_c_names_what_has_to_be_left_out_or_added(tmp_path, asked):
    out = tmp_path / "out"
    command = (*asked["eval-ppl"], "-o", out, "--overwrite")
    _, _, stderr = stopped(command, signal.SIGINT, at=has_lines(out / "measured-0.jsonl", 5))
    assert "the same command without --overwrite goes on from there" in stderr
    log = tmp_path / "log"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "ctxext", *map(str, asked["eval-ppl"])],
            stdout=subprocess.DEVNULL, stderr=stderr,
        )  # fmt: skip
        wait_for(process, has_lines(log, 1))
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
    assert "nothing is kept: with --output-dir DIR" in log.read_text()


@pytest.mark.parametrize("kind", ["eval-ppl", "eval-retrieval"])
def test_at_the_end_it_says_where_everything_lies_and_what_comes_next(tmp_path, asked, kind):
    out = tmp_path / "an out"
    flags = {"eval-ppl": ("--tokens", "600"), "eval-retrieval": ("--depths", "0", "--samples", "2")}
    command = (*asked[kind], *flags[kind], "-o", out)
    done = run_ctxext(*command, "--json")
    assert done.returncode == 0, done.stderr
    stem = {"eval-ppl": "perplexity", "eval-retrieval": "retrieval"}[kind]
    files = ["ctxext.json", f"{kind}.json", f"{stem}.png", f"{stem}.svg"]
    said = f"all of it lies in {out}: {', '.join(files)}; next: ctxext report '{out}'"
    assert done.stderr.splitlines()[0].startswith(f"{kind}: looking at 1 model")
    assert done.stderr.splitlines()[-1] == said
    assert "next:" not in done.stdout
    assert sorted(path.name for path in out.iterdir()) == files
    assert run_ctxext("report", out, "--output", tmp_path / "page.html").returncode == 0
    quiet = run_ctxext(*command, "--quiet", "--overwrite")
    assert "next:" not in quiet.stderr
    assert "looking at" not in quiet.stderr


def test_finetune_says_what_it_looks_at_what_comes_next_and_what_a_signal_does(
    tmp_path, tiny_llama, data
):
    out, log = tmp_path / "run", tmp_path / "log"
    flags = ("--seq-length", "128", "--steps", "500", "--gradient-accumulation", "1")
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "ctxext", "finetune", tiny_llama, "--data", data, *flags, "-o",
             out],
            stdout=subprocess.PIPE, stderr=stderr, text=True,
        )  # fmt: skip
        wait_for(process, has_lines(log, 1))
        assert log.read_text().startswith("finetune: looking at 1 model and the text")
        assert not out.exists()  # it was said before anything was read
        wait_for(process, has_lines(out / "log.jsonl", 3))
        process.send_signal(signal.SIGINT)
        stdout, _ = process.communicate()
    assert process.returncode == 0
    assert "stopping: the step at hand is finished and saved" in log.read_text()
    assert f"go on with: ctxext finetune --resume -o {out}" in " ".join(stdout.split())
    done = run_ctxext("finetune", tiny_llama, "--data", data, *flags[:2], "--steps", 2, "-o",
                      tmp_path / "whole")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "next, on a text that was not trained on: ctxext eval-ppl" in done.stderr


def test_training_says_what_it_will_read(tmp_path, tiny_llama, data):
    done = run_ctxext(
        "finetune", tiny_llama, "--data", data, "--seq-length", "128", "--steps", "2",
        "--batch-size", "1", "--gradient-accumulation", "2", "-o", tmp_path / "out",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "parameters in 2 steps of 2 rows of 128 tokens: 512 tokens, " in done.stderr
    assert re.search(r"\d % of the [\d,]+ rows of the data", done.stderr)
    assert "self-check: the loss agrees with transformers' own to " in done.stderr
