"""The whole laboratory through its command, in small; and what it refuses."""

import json
import math
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from ctxext.lab.setting import ENCODINGS
from ctxext.runs.output import locked
from support.bad_inputs import names
from support.command import run_ctxext


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    out = tmp_path_factory.mktemp("lab") / "run"
    ran = run_ctxext("lab", "--preset", "smoke", "-o", str(out), "--json")
    assert ran.returncode == 0, ran.stderr
    return out, json.loads(ran.stdout)


def test_the_document_is_the_file_and_complete(smoke):
    out, result = smoke
    assert result["schema"] == "ctxext.lab/1"
    assert json.loads((out / "lab.json").read_text()) == result
    assert [(m["encoding"], m["seed"]) for m in result["models"]] == [
        (encoding, seed) for encoding in ENCODINGS for seed in (0, 1)
    ]
    places = {(r["encoding"], r["variant"], r["start"], r["end"]) for r in result["by_position"]}
    for encoding in ("sinusoidal", "rope", "alibi", "none"):
        assert {(encoding, "", a, b) for a, b in ((0, 16), (16, 32), (32, 64), (64, 128))} <= places
    assert ("learned", "", 16, 32) in places
    assert ("learned", "", 32, 64) not in places  # there is no row
    assert ("learned", "interpolate", 64, 128) in places
    for row in result["by_position"]:
        assert row["perplexity"] == pytest.approx(math.exp(row["nll"]))
        assert row["stderr"] > 0
    assert {row["method"] for row in result["extensions"]} >= {"as trained", "linear", "yarn"}
    assert [row["pair"] for row in result["pairs"]] == list(range(8))


def test_what_is_exact_is_exact(smoke):
    result = smoke[1]
    verdicts = {row["key"]: row["verdict"] for row in result["statements"]}
    assert verdicts["permutation"] == "holds"
    assert verdicts["learned-no-row"] == "holds"
    assert verdicts["causal-order"] in ("holds", "undecided")
    order = {(row["encoding"], row["mask"]): row for row in result["order"]}
    assert order["none", "none"]["largest"] < 1e-9
    assert order["none", "causal"]["change"] > 1e-3
    assert order["rope", "none"]["change"] > 1e-4  # an encoding tells the order without a mask


def test_decoders_are_checkpoints_that_commands_read(smoke, tmp_path):
    out, _ = smoke
    text = tmp_path / "text.txt"
    text.write_text("def f(x):\n    return x + 1\n" * 40)
    ran = run_ctxext(
        "eval-ppl", str(out / "models" / "alibi-0"), "--data", str(text), "--lengths", "32,64",
        "--json",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert [row["length"] for row in json.loads(ran.stdout)["results"]] == [32, 64]


def test_report_and_pictures_lie_beside(smoke):
    out, result = smoke
    page = (out / "report.html").read_text()
    for statement in result["statements"]:
        assert statement["claim"] in page
    assert (out / "lab.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--encodings", "rope,alibbi"], ("alibbi", "alibi")),
        (["--encodings", "rope,rope"], ("--encodings", "twice")),
        (["--preset", "smok"], ("--preset", "smoke")),
        (["--train-length", "8"], ("--train-length", "32")),
        (["--test-lengths", "16,64"], ("--test-lengths", "64")),
        (["--test-lengths", "64"], ("--test-lengths", "2 to 64 times")),
        (["--train-length", "512", "--test-lengths", "16k"], ("--test-lengths", "8192")),
        (["--seed", "-1"], ("--seed",)),
        (["--budget", "soon"], ("--budget", "10m")),
        (["--budget", "1m", "--steps", "5"], ("--steps", "--budget")),
        (["--steps", "0"], ("--steps",)),
        (["--seeds", "0"], ("--seeds",)),
        (["--workers", "0"], ("--workers",)),
        (["--workers", "100000"], ("--workers", "256")),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, flags, words):
    ran = run_ctxext("lab", "-o", str(tmp_path / "out"), *flags)
    assert ran.returncode == 2
    assert "Traceback" not in ran.stderr
    for word in words:
        assert word in ran.stderr
    assert not (tmp_path / "out").exists()


def test_a_budget_too_small_for_one_seed_says_what_one_takes(tmp_path):
    ran = run_ctxext("lab", "-o", str(tmp_path / "out"), "--budget", "20s", "--encodings", "none",
                     "--workers", 1)  # fmt: skip
    assert ran.returncode == 2
    assert "too small for one seed, which takes" in " ".join(ran.stderr.split())
    assert not (tmp_path / "out").exists()


def test_two_of_them_do_not_write_to_one_folder(tmp_path):
    with locked(tmp_path / "run"):
        ran = run_ctxext("lab", "--preset", "smoke", "-o", str(tmp_path / "run"), "--overwrite")
    assert ran.returncode == 2
    assert "another ctxext process is writing to" in ran.stderr


def begun(out):
    """The laboratory in a session of its own, and its processes, once there are any."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ctxext", "lab", "--preset", "smoke", "--encodings", "none",
         "--workers", "1", "-o", str(out)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    while len(children := psutil.Process(process.pid).children(recursive=True)) < 2:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    return process, children


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_signal_ends_every_process_and_leaves_no_folder(tmp_path, sent, code):
    process, _ = begun(tmp_path / "run")
    # The note of what is going to be done comes once all processes are at work.
    for line in process.stderr:
        if "encoding x" in line:
            break
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.send_signal(sent)
    process.wait(timeout=60)
    process.stderr.close()
    assert process.returncode == code
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive
    # What a kill leaves is hidden, and the next run removes it.
    assert [name for name in names(tmp_path) if not name.startswith(".run.")] == []
    assert (names(tmp_path) == []) == (sent != signal.SIGKILL)


def test_ctrl_c_while_processes_start_is_silent(tmp_path):
    """A terminal sends it to every process of the session."""
    process, children = begun(tmp_path / "run")
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive
    assert names(tmp_path) == []


def test_a_full_disk_leaves_the_old_laboratory(small_disk):
    disk = small_disk(200_000)
    old = disk / "run"
    old.mkdir()
    (old / "ctxext.json").write_text("{}")
    ran = run_ctxext("lab", "--preset", "smoke", "--encodings", "none", "--steps", "1",
                     "--workers", 1, "-o", old, "--overwrite")  # fmt: skip
    assert ran.returncode == 1
    assert "disk is full" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert names(disk) == ["run"]
    assert names(old) == ["ctxext.json"]
