"""Lines of progress where stderr is no terminal: seldom enough, and never a minute of silence."""

import json
import os
import re
import subprocess
import sys
import time

import pytest

from ctxext.cli._progress import Lines, progress
from ctxext.progress import silent
from support.command import run_ctxext

LONG = 10_000  # tokens, some seconds of attention
LINE = re.compile(r"ctxext: .* \d+/\d+ \(\d+ %\)")


class Clock:
    """A clock that tests turn."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def lines_of(reports):
    """What is written for (seconds after the report before, done, total, detail) of one task."""
    said, clock = [], Clock()
    listen = Lines(said.append, clock)
    for pause, *report in reports:
        clock.now += pause
        listen("yarn at 2k", *report)
    return said


def test_a_line_says_how_far_how_long_and_how_long_still():
    said = lines_of([(0, 0, 400, ""), (35, 120, 400, "loss 2.100"), (85, 400, 400, "loss 1.900")])
    assert said == [
        "ctxext: yarn at 2k 0/400 (0 %)",
        # 120 took 35 s, so the other 280 take 280 / 120 * 35 = 81.7 s
        "ctxext: yarn at 2k 120/400 (30 %), 35 s, about 82 s left, loss 2.100",
        "ctxext: yarn at 2k 400/400 (100 %), 2 min, loss 1.900",
    ]


def test_what_an_earlier_run_did_is_no_speed():
    """300 of 400 were there; 50 more took 50 s, so the last 50 take 50 s."""
    assert lines_of([(0, 300, 400, ""), (50, 350, 400, "")])[-1].endswith("50 s, about 50 s left")


def test_a_line_comes_after_half_a_minute_or_a_twentieth_and_two_seconds():
    # one of a thousand each second: half a minute (3 %) comes before a twentieth (5 %)
    slow = lines_of((1, done, 1000, "") for done in range(1, 101))
    assert [int(re.search(r"(\d+)/", line)[1]) for line in slow] == [1, 31, 61, 91]
    # eight of a thousand each second: a twentieth is there at the seventh report after a line
    faster = lines_of((1, done, 1000, "") for done in range(8, 241, 8))
    assert [int(re.search(r"(\d+)/", line)[1]) for line in faster] == [8, 64, 120, 176, 232]
    # a tenth each tenth of a second: two seconds have to pass
    fast = lines_of((0.1, done, 100, "") for done in range(10, 100, 10))
    assert len(fast) == 1


def test_the_end_of_a_task_is_told_once_where_it_took_more_than_two_seconds():
    long = lines_of([(0, 1, 4, ""), (1.5, 3, 4, ""), (1, 4, 4, ""), (1, 4, 4, "")])
    assert len(long) == 2
    assert "4/4 (100 %)" in long[-1]
    assert len(lines_of([(0, 1, 4, ""), (1, 4, 4, "")])) == 1
    assert lines_of([(0, 4, 4, "")]) == ["ctxext: yarn at 2k 4/4 (100 %)"]


def test_every_task_begins_with_a_line_and_so_does_its_next_time():
    said = []
    listen = Lines(said.append, Clock())
    for task, done in (("a", 1), ("a", 2), ("b", 1), ("a", 3), ("a", 1)):
        listen(task, done, 3, "")
    assert [line.split()[1:3] for line in said] == [["a", "1/3"], ["b", "1/3"], ["a", "1/3"]]


def test_where_nothing_is_reported_a_line_comes_all_the_same():
    """A window of a hundred thousand tokens can take minutes."""
    said, clock = [], Clock()
    lines = Lines(said.append, clock)

    def wait(seconds):
        for _ in range(seconds):
            clock.now += 1
            lines.beat()

    wait(41)  # before the first report: libraries, text, the checkpoint
    assert said == ["ctxext: still at work, 40 s since the start"]
    lines("yarn at 64k", 1, 4, "")
    wait(81)
    assert said[2:] == [
        "ctxext: still at yarn at 64k 1/4 (25 %), 81 s since the start",
        "ctxext: still at yarn at 64k 1/4 (25 %), 2 min since the start",
    ]
    lines("yarn at 64k", 4, 4, "")
    wait(41)  # a plot
    assert said[-1].startswith("ctxext: still at work, ")


def test_a_name_with_a_line_end_stays_on_one_line():
    said = []
    Lines(said.append, Clock())("a\nb\x1b[2J", 0, 0, "c\nd")
    assert said == ["ctxext: a\\nb\\x1b[2J 0/0 (100 %), c\\nd"]


def test_of_several_processes_one_speaks(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with progress(quiet=False) as listen:
        assert listen is silent


@pytest.fixture
def text(tmp_path, book):
    path = tmp_path / "text.txt"
    path.write_text(book.read_text()[:1500])
    return path


def test_a_log_file_has_them(tiny_llama, text):
    """Standard error is a file here, and stdout the document alone."""
    command = ("eval-ppl", tiny_llama, "--data", text, "--lengths", "64", "--stride", "32")
    done = run_ctxext(*command, "--json")
    assert done.returncode == 0, done.stderr
    assert LINE.search(done.stderr), done.stderr
    assert json.loads(done.stdout)["schema"].startswith("ctxext.")
    assert len(done.stdout.splitlines()) == 1
    quiet = run_ctxext(*command, "--quiet")
    assert quiet.returncode == 0
    assert not LINE.search(quiet.stderr), quiet.stderr


SHORT_PAUSES = """
import ctxext.cli._progress as progress
progress._SILENCE, progress._BEAT = 1.0, 0.2
from ctxext.cli.main import main
main()
"""  # forty seconds, in a test that may not take one


@pytest.mark.parametrize("command", ["eval-ppl", "eval-retrieval"])
def test_a_log_file_is_never_silent_for_long(tmp_path, tiny_llama, book, command):
    """A process that imports torch itself, and reads one window for seconds."""
    data = tmp_path / "long.txt"
    data.write_text(book.read_text()[:LONG])
    flags = {"eval-ppl": (), "eval-retrieval": ("--depths", "0", "--samples", "1")}[command]
    log = tmp_path / "log"
    with log.open("w") as stderr:
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-c", SHORT_PAUSES, command, str(tiny_llama), "--data", str(data),
             "--lengths", str(LONG), *flags],
            stdout=subprocess.DEVNULL, stderr=stderr, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        said, seen = [began], 0
        while process.poll() is None:
            time.sleep(0.05)
            if log.stat().st_size > seen:
                seen = log.stat().st_size
                said.append(time.monotonic())
    ended = time.monotonic()
    text = log.read_text()
    assert process.returncode == 0, text
    assert said[1] - began < 5, text
    assert "ctxext: still at" in text
    # a second, and what a loaded machine lets a thread wait for its turn
    assert max(b - a for a, b in zip(said[1:], [*said[2:], ended], strict=True)) < 8, text
