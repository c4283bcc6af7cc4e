"""Output folders, full disks, signals, closed pipes and --json; the real command line."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from support.bad_inputs import (
    accepted,
    adapter_in,
    config_text,
    content,
    copy_of,
    names,
    refused,
    shard,
    with_config,
)
from support.command import run_ctxext

CTXEXT = [sys.executable, "-m", "ctxext"]
MIB = 1024 * 1024


def outputs(base, out):
    """The commands that write a checkpoint made of `base`, aimed at `out`."""
    adapter = base.parent / "adapter"
    return {
        "extend": ("extend", base, "--target", "512", "-o", out),
        "merge": ("merge", adapter, "--base", base, "-o", out),
        "finetune": ("finetune", base, "--data", "no-such-file.txt", "-o", out),
    }


@pytest.fixture
def base(tmp_path, tiny_llama):
    """A checkpoint, an adapter for it, and an older output of ctxext, all in `tmp_path`."""
    adapter_in(tmp_path / "adapter")
    old = tmp_path / "old"
    old.mkdir()
    (old / "ctxext.json").write_text('{"schema": "ctxext.run/1"}')
    (old / "model.safetensors").write_bytes(b"old")
    return copy_of(tiny_llama, tmp_path / "base")


@pytest.mark.parametrize("command", ["extend", "merge", "finetune"])
def test_outputs_that_are_refused(tmp_path, base, command):
    """Before any work: finetune says it before it looks for the text, which is not there."""
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("x")
    before = content(tmp_path)
    for out, words, flags in (
        (tmp_path / "old", "exists and is not empty", ()),
        (mine, "has no ctxext.json", ("--overwrite",)),
        (tmp_path / "file", "is a file, not a folder", ("--overwrite",)),
        (tmp_path / "file" / "below", "which is a file", ()),
        (base, "has no ctxext.json", ("--overwrite",)),
        (base / "inside", "lies inside the input", ("--overwrite",)),
        (tmp_path, "has no ctxext.json", ("--overwrite",)),
        (tmp_path / ("n" * 300), "--output-dir", ()),
    ):
        refused(run_ctxext(*outputs(base, out)[command], *flags), 2, "--output-dir", words)
        assert content(tmp_path) == before, words


def test_an_output_of_ctxext_is_never_overwritten_by_itself(tmp_path, base):
    """Where the mark would allow it: the input is an output of ctxext, or lies in one."""
    for folder in (base, tmp_path):
        (folder / "ctxext.json").write_text('{"schema": "ctxext.run/1"}')
        before = content(tmp_path)
        done = run_ctxext(*outputs(base, folder)["extend"], "--overwrite")
        refused(done, 2, "--output-dir", "input")
        assert content(tmp_path) == before


def test_odd_names_are_fine(tmp_path, base):
    out = tmp_path / "a b" / "größe 🚀 [x]* 'q'"
    accepted(run_ctxext(*outputs(base, out)["extend"], env={"PYTHONIOENCODING": "ascii"}))
    assert names(out.parent) == [out.name]
    accepted(run_ctxext(*outputs(base, out)["extend"], "--overwrite"))
    assert names(out.parent) == [out.name]


def test_folders_without_permission_are_named(tiny_llama):
    """Without the powers by which root, where the tests run as root, may do everything."""
    powers = "-dac_override,-dac_read_search"
    weak = ["setpriv", f"--bounding-set={powers}", "--"] if os.geteuid() == 0 else []
    if weak and not shutil.which("setpriv"):
        pytest.skip("no setpriv here, and root may write everywhere: PERMISSIONS ARE NOT TESTED")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = copy_of(tiny_llama, folder / "base")
        for path in (folder, base, *base.iterdir()):
            path.chmod(0o555 if path.is_dir() else 0o444)
        try:
            done = subprocess.run(
                [*weak, *CTXEXT, "extend", base, "--target", "512", "-o", folder / "out"],
                capture_output=True, text=True,
            )  # fmt: skip
            refused(done, 2, "--output-dir", "no permission to write")
            (base / "tokenizer.json").chmod(0o000)
            folder.chmod(0o755)
            (folder / "b").mkdir()
            done = subprocess.run(
                [*weak, *CTXEXT, "extend", base, "--target", "512", "-o", folder / "b" / "out"],
                capture_output=True, text=True,
            )  # fmt: skip
            refused(done, 1, "base/tokenizer.json: Permission denied")
            assert names(folder / "b") == []
        finally:
            folder.chmod(0o755)
            base.chmod(0o755)


@pytest.mark.parametrize("command", ["extend", "merge"])
def test_a_full_disk_leaves_nothing_half_written(small_disk, tmp_path, base, command):
    """Refused up front when the weights do not fit; cleaned up when the rest does not."""
    weights = (base / "model.safetensors").stat().st_size
    (base / "LICENSE").write_bytes(b"x" * 300_000)
    for size, words in (
        (weights // 2, "MiB and the disk has"),
        (weights + 100_000, "disk is full"),
    ):
        disk = small_disk(size)
        shutil.copytree(tmp_path / "old", disk / "out")
        before = content(disk)
        copy = ("--weights", "copy") if command == "extend" else ()
        done = run_ctxext(*outputs(base, disk / "out")[command], *copy, "--overwrite")
        refused(done, 1, f"{disk}/out", words)
        assert content(disk) == before
        assert names(disk) == ["out"]


def big(folder, size=512 * MIB):
    """A checkpoint whose one tensor is a hole in a file: slow to copy, quick to make."""
    model = with_config(folder, config_text())
    header = {"x": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    with (model / "model.safetensors").open("wb") as file:
        file.write(shard(header))
        file.truncate(file.tell() + size)
    return model


def stopped_while_writing(folder, *arguments):
    """A ctxext process, stopped as soon as its temporary folder beside the output is there."""
    process = subprocess.Popen(
        [*CTXEXT, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 60
    while not list(folder.glob(".*.ctxext-tmp-*")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.001)
    process.send_signal(signal.SIGSTOP)
    return process


def ended(process):
    stdout, stderr = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


SIGNALS = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 143}


@pytest.mark.parametrize("number", SIGNALS, ids=lambda n: n.name)
@pytest.mark.parametrize("command", ["extend", "merge"])
def test_signals_leave_no_half_output(tmp_path, base, command, number):
    model = big(tmp_path / "big") if command == "extend" else base
    before = content(tmp_path / "old")
    flags = ("--weights", "copy") if command == "extend" else ()
    process = stopped_while_writing(
        tmp_path, *outputs(model, tmp_path / "old")[command], *flags, "--overwrite"
    )
    process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    refused(ended(process), SIGNALS[number], "interrupted" if number == signal.SIGINT else "term")
    assert content(tmp_path / "old") == before
    assert not [name for name in names(tmp_path) if name.startswith(".")]


def test_a_signal_before_training_leaves_no_half_output(tmp_path, base):
    """A signal before the first step, when there is nothing to save."""
    arguments = ("finetune", base, "--data", "builtin:python", "-o", tmp_path / "out")
    process = subprocess.Popen(
        [*CTXEXT, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not list(tmp_path.glob(".out.ctxext-lock")):
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    refused(ended(process), 143, "terminated")
    assert names(tmp_path) == ["adapter", "base", "old"]


def test_a_killed_extend_is_cleaned_up_by_the_next(tmp_path):
    model = big(tmp_path / "big")
    arguments = ("extend", model, "--target", "512", "-o", tmp_path / "out")
    process = stopped_while_writing(tmp_path, *arguments, "--weights", "copy")
    process.kill()
    ended(process)
    assert not (tmp_path / "out").exists()
    assert [name for name in names(tmp_path) if "ctxext-tmp" in name]
    accepted(run_ctxext(*arguments))
    assert names(tmp_path) == ["big", "out"]


def test_two_processes_and_one_output(tmp_path, base):
    model = big(tmp_path / "big")
    arguments = ("extend", model, "--target", "512", "-o", tmp_path / "out")
    first = stopped_while_writing(tmp_path, *arguments, "--weights", "copy")
    try:
        words = "another ctxext process is writing to"
        refused(run_ctxext(*arguments), 2, words, "out")
        refused(run_ctxext(*outputs(base, tmp_path / "out")["merge"]), 2, words, "out")
        text = ("--data", "builtin:python")
        refused(run_ctxext("finetune", base, *text, "-o", tmp_path / "out"), 2, words, "out")
    finally:
        first.send_signal(signal.SIGCONT)
    accepted(ended(first))
    assert names(tmp_path) == ["adapter", "base", "big", "old", "out"]


def test_stdout_that_nobody_reads(tiny_llama):
    command = f"{' '.join(CTXEXT)} inspect {tiny_llama}"
    for redirection, code in (("| head -1", 0), (">&-", 0), (">&- 2>&-", 0), ("> /dev/full", 1)):
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {command} {redirection}"],
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, (redirection, done)
        assert not {"Traceback", "Exception"} & set(done.stderr.split()), (redirection, done)
        assert ("ctxext: " in done.stderr and "No space left" in done.stderr) == (code == 1)
    process = subprocess.Popen(
        [*CTXEXT, "inspect", tiny_llama], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()  # `head` is not always this quick
    assert (process.wait(), "rror" in process.stderr.read()) == (0, False)
    process.stderr.close()


def test_a_closed_stdout_is_no_output_file(tmp_path, base):
    """The next file that is opened gets the number 1: nothing may be printed into it."""
    command = " ".join(map(str, [*CTXEXT, *outputs(base, tmp_path / "out")["extend"]]))
    subprocess.run(["bash", "-c", f"{command} >&- 2>&-"], check=True)
    json.loads((tmp_path / "out" / "config.json").read_text())
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (
        base / "model.safetensors"
    ).read_bytes()


def on_a_terminal(*arguments, **env):
    """What a command prints when stdout and stderr are one terminal."""
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [*CTXEXT, *map(str, arguments)], stdin=child, stdout=child, stderr=child,
        env={key: value for key, value in os.environ.items() if key != "NO_COLOR"} | env,
    )  # fmt: skip
    os.close(child)
    text = b""
    try:
        while piece := os.read(parent, 65536):
            text += piece
    except OSError:  # how a terminal says that the other end has gone
        pass
    os.close(parent)
    assert process.wait() == 0, text
    return text.decode()


def test_colours_and_widths(tmp_path, tiny_llama):
    escape, red_or_yellow = "\x1b[", ("\x1b[31m", "\x1b[33m", "\x1b[1;3")
    model = copy_of(tiny_llama, tmp_path / "m", max_position_embeddings=100)  # gives a warning
    inspect = ("inspect", model)
    assert "\x1b[33m" in on_a_terminal(*inspect, TERM="xterm-256color")
    quiet = on_a_terminal(*inspect, TERM="xterm-256color", NO_COLOR="1")
    assert not any(code in quiet for code in red_or_yellow)
    assert escape not in on_a_terminal(*inspect, TERM="dumb")
    narrow = on_a_terminal(*inspect, TERM="xterm", NO_COLOR="1", COLUMNS="40")
    table = re.sub("\x1b\\[[0-9;]*m", "", narrow[narrow.index("methods") :]).splitlines()
    assert max(len(line) for line in table if "│" in line or "┃" in line) <= 40
    for env in ({"COLUMNS": "40"}, {"TERM": "dumb"}, {"PYTHONIOENCODING": "cp1252"}):
        done = run_ctxext(*inspect, env=env)
        accepted(done, "100 tokens", "warning:")
        assert escape not in done.stdout + done.stderr
    accepted(run_ctxext("--help", env={"COLUMNS": "40", "PYTHONIOENCODING": "ascii"}), "extend")


def test_json_is_one_document_whatever_happens(tmp_path, base):
    corrupt = copy_of(base, tmp_path / "corrupt")
    (corrupt / "model.safetensors").write_bytes(b"")
    for code, arguments in (
        (2, ("inspect", tmp_path / "nothing")),
        (2, ("inspect", base, "--target", "128kb")),
        (2, ("inspect", base, "--no-such-flag")),
        (2, ("inspect",)),
        (1, ("inspect", corrupt)),
        (2, ("extend", base, "--target", "513", "--dry-run")),
        (2, ("extend", base, "--factor", "four", "--dry-run")),
        (2, ("extend", base, "--target", "512", "-o", tmp_path / "old")),
        (2, ("merge", tmp_path / "nothing", "--base", base, "-o", tmp_path / "out")),
        (2, outputs(base, tmp_path / "out")["finetune"]),
        (2, ("eval-ppl", base, "--data", "no-such-file.txt", "--lengths", "64")),
        (2, ("no-such-command",)),
    ):
        done = run_ctxext(*arguments, "--json", env={"PYTHONIOENCODING": "ascii"})
        refused(done, code)
        document = json.loads(done.stdout)
        assert set(document) == {"schema", "error", "hint"}, arguments
        assert document["schema"] == "ctxext.error/1"
        assert f"ctxext: {document['error']}" in done.stderr
    assert not (tmp_path / "out").exists()


def test_warnings_go_to_stderr(tmp_path, base):
    (base / "tokenizer_config.json").unlink()
    for arguments in (("inspect", base, "--target", "8k"), outputs(base, tmp_path / "o")["extend"]):
        done = run_ctxext(*arguments, "--json")
        warnings = json.loads(done.stdout)["warnings"]
        assert done.stderr.count("warning: ") == len(warnings)
    assert warnings


def test_nothing_in_the_place_of_a_name_is_not_the_current_folder(
    tmp_path, tiny_llama, monkeypatch
):
    import ctxext
    from ctxext.errors import BadInput

    for name, command in {
        "MODEL": ["inspect", ""],
        "OTHER": ["inspect", tiny_llama, ""],
        "RUN": ["report", tiny_llama, ""],
        "--data": ["eval-ppl", tiny_llama, "--data", "", "--lengths", 64],
        "--output-dir": ["extend", tiny_llama, "--target", 512, "-o", ""],
        "--plot": ["inspect", tiny_llama, "--plot="],
    }.items():
        refused(run_ctxext(*command), 2, f"ctxext: {name} is empty", "not set")
    monkeypatch.chdir(tiny_llama)  # where both names below would find something
    with pytest.raises(BadInput, match="MODEL is empty"):
        ctxext.inspect("")
    with pytest.raises(BadInput, match="--data is empty"):
        ctxext.perplexity(str(tiny_llama), data="", lengths=64)


def run_beside(folder, code, name, *arguments):
    """The command in a Python of its own that finds a module of this code before all others."""
    (folder / f"{name}.py").write_text(code)
    env = {**os.environ, "PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-m", "ctxext", *map(str, arguments)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_the_command_is_imported_is_no_traceback(tmp_path, tiny_llama, number):
    code = f"import os, time\nos.kill(os.getpid(), {int(number)})\ntime.sleep(60)\n"
    done = run_beside(tmp_path, code, "typer", "inspect", tiny_llama)
    refused(done, SIGNALS[number], "interrupted" if number == signal.SIGINT else "terminated")


AT_THE_END = """
import atexit, os

class Last:  # deleted with its module, when Python has put its own handlers back
    def __del__(self, kill=os.kill, me=os.getpid()):
        kill(me, {number})

last = Last()
atexit.register(os.kill, os.getpid(), {number})
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_after_all_was_written_changes_nothing(tmp_path, tiny_llama, number):
    code = AT_THE_END.format(number=int(number))
    done = run_beside(tmp_path, code, "sitecustomize", "inspect", tiny_llama, "--json")
    assert (done.returncode, json.loads(done.stdout)["schema"]) == (0, "ctxext.inspect/1")
    assert "Traceback" not in done.stderr
