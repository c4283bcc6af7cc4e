"""`ctxext eval-retrieval` as it is typed: on the shipped base, on foreign weights, on bad input."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM

from support.checkpoints import build_tiny
from support.command import run_ctxext, run_launched, start_ctxext
from support.runs import has_lines, kill, wait_for

HELDOUT = ("--data", "builtin:python/heldout")


def run(*arguments):
    done = run_ctxext("eval-retrieval", *arguments)
    return done.returncode, done.stdout, done.stderr


def test_the_base_copies_in_its_window_and_not_beyond(tmp_path, shipped):
    out = tmp_path / "out"
    code, printed, err = run(
        shipped, "--tasks", "copy,passkey", "--lengths", "256,512", "--depths", "0,0.5,1",
        "--samples", "4", *HELDOUT, "-o", out, "--json",
    )  # fmt: skip
    assert code == 0, err
    document = json.loads(printed)
    assert document["schema"] == "ctxext.eval-retrieval/1"
    copied = {
        row["length"]: row["accuracy"]
        for each in document["effective"]
        if each["task"] == "copy"
        for row in each["by_length"]
    }
    assert copied[256] > 0.6
    assert copied[512] < 0.2
    assert [e["effective_length"] for e in document["effective"] if e["task"] == "copy"] == [256]
    assert len(document["results"]) == 2 * 2 * 3
    cell = document["results"][0]
    assert cell["low"] <= cell["accuracy"] <= cell["high"]
    assert "asked in compact words" in err
    written = json.loads((out / "eval-retrieval.json").read_text())
    assert written == {k: v for k, v in document.items() if k != "output_dir"}
    assert (out / "retrieval.png").stat().st_size > 5000
    assert "<svg" in (out / "retrieval.svg").read_text()
    assert json.loads((out / "ctxext.json").read_text())["kind"] == "eval-retrieval"


def test_foreign_weights_and_the_table(tmp_path, stories):
    code, printed, err = run(
        stories, "--tasks", "all", "--lengths", "512,2k", "--depths", "0.5", "--samples", "2"
    )
    assert code == 0, err
    for task in ("copy", "passkey", "needle", "multi-key", "multi-value", "key-value", "tracing"):
        assert f"| {task} | stories260K |" in printed
    assert re.search("^No model here solves copy, .* is what can be told", printed, re.MULTILINE)


def test_generated_answers(tmp_path, shipped):
    code, printed, err = run(
        shipped, "--lengths", "256", "--depths", "0", "--samples", "2", "--score", "generate",
        "--json",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(printed)["results"][0]["choice"] is None


def test_a_killed_run_goes_on_and_ends_alike(tmp_path, shipped):
    flags = [
        shipped, "--tasks", "copy", "--lengths", "256,1k", "--depths", "0,1", "--samples", "6",
        *HELDOUT, "-o",
    ]  # fmt: skip
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    code, _, err = run(*flags, whole)
    assert code == 0, err
    process = start_ctxext("eval-retrieval", *flags, cut)
    journal = cut / "measured-0.jsonl"
    wait_for(process, has_lines(journal, 6))
    kill(process)
    known = journal.read_text().splitlines()
    code, _, err = run(*flags, cut)
    assert code == 0, err
    assert 5 < len(known) < 24
    assert not journal.exists()
    one, other = ((f / "eval-retrieval.json").read_text() for f in (whole, cut))
    assert one == other


def test_two_processes_equal_one(tmp_path, shipped):
    flags = [
        shipped, "--tasks", "copy", "--lengths", "256", "--depths", "0,1", "--samples", "3",
        "--json",
    ]  # fmt: skip
    code, printed, err = run(*flags)
    assert code == 0, err
    both = run_launched("eval-retrieval", *flags)
    assert both.returncode == 0, both.stderr
    assert json.loads(both.stdout) == json.loads(printed)


def test_a_model_that_returns_nan_leaves_the_others(tmp_path, tiny_llama):
    broken = build_tiny(tmp_path / "broken")
    model = AutoModelForCausalLM.from_pretrained(broken)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    model.save_pretrained(broken)
    code, printed, err = run(
        tiny_llama, broken, "--tasks", "copy", "--lengths", "64", "--samples", "1", "--json",
        "-o", tmp_path / "out",
    )  # fmt: skip
    assert code == 1
    assert "length 64 is not measured: broken returned nan" in err
    document = json.loads(printed)
    assert [(f["model"], f["task"], f["length"]) for f in document["failed"]] == [
        ("broken", "copy", 64)
    ]
    assert {row["model"] for row in document["results"]} == {tiny_llama.name}
    assert json.loads((tmp_path / "out/eval-retrieval.json").read_text())["failed"]


LIMITED = """
import resource, sys
import torch, transformers, matplotlib.figure
from ctxext.api.retrieval import retrieval
def ask(lengths):
    return retrieval([sys.argv[1]], tasks=["copy"], lengths=lengths, depths=[0.5], samples=1)
ask([256])  # whatever is loaded late is loaded now
lines = open("/proc/self/status").read().splitlines()
size = int(next(line for line in lines if line.startswith("VmSize")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (size + 24 * 2**20,) * 2)
result = ask([256, 40_000])
print([row.length for row in result.results], [row.length for row in result.failed])
print(result.failed[0].error)
"""


def test_memory_that_runs_out_at_a_length_leaves_the_others(tiny_llama):
    """A real limit on what the process may have."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tiny_llama)],
        capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lengths, error = done.stdout.splitlines()
    assert lengths == "[128, 256] [40000]"  # the window is asked too, for the threshold
    assert "llama: out of memory at 40000 tokens" in error


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--tasks", "paskey"), "there is no task 'paskey'"),
        (("--tasks", ","), "--tasks names none"),
        (("--lengths", "1"), "--lengths"),
        (("--lengths", "24"), "--tasks passkey needs"),
        (("--depths", "2"), "--depths have to lie between 0"),
        (("--depths", "x"), "--depths is 'x'"),
        (("--samples", "0"), "--samples"),
        (("--threshold", "5"), "--threshold is '5'"),
        (("--score", "judge"), "--score is 'judge'"),
        (("--data", "nowhere.txt"), "nowhere.txt"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, shipped, flags, words):
    out = tmp_path / "out"
    code, printed, err = run(shipped, "--lengths", "256", *flags, "-o", out)
    assert code == 2, err
    assert words in err
    assert "Traceback" not in err
    assert not printed
    assert not out.exists()
