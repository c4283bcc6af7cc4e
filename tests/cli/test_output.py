"""What reaches a terminal or a pipe is the text itself: no markup, no codes, no broken table."""

import io
import sys

import pytest

from ctxext.cli._output import out, say_error, say_warnings, table
from ctxext.errors import BadInput, on_one_line

HOSTILE = [
    "ctxext[harness]",
    "[/red]x",
    "run[final]",
    "[bold]b",
    ":smile:",
    "a\x1b[2Jb",
    "c\x07d",
    "\u202eabc",
]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def terminal_of(monkeypatch):
    """Standard output and error as one terminal, 200 columns wide and without colors."""
    stream = Terminal()
    for name, value in {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def shown(text):
    return text.replace("\x1b", "\ufffd").replace("\x07", "\ufffd").replace("\u202e", "\ufffd")


@pytest.mark.parametrize("name", HOSTILE)
def test_names_stand_as_they_are_on_a_terminal(monkeypatch, name):
    terminal = terminal_of(monkeypatch)
    table(f"title {name}", ("model", f"head {name}"), [(name, "1")])
    out().print(f"plain {name}")
    say_warnings([f"warn {name}"])
    say_error(BadInput(f"error {name}", f"hint {name}"), as_json=False)
    drawn = terminal.getvalue()
    for words in ("title ", "head ", "plain ", "warn ", "hint ", "│ "):
        assert words + shown(name) in drawn
    assert f"error {on_one_line(name)}" in drawn  # so that the file it names can be found
    assert not any(c in drawn for c in "\x1b\x07\u202e")


def test_a_cell_stays_one_cell_in_a_pipe(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    table("", ("model", "value"), [("a|b\nc\x1b[2J", "[1, 2]")])
    assert stream.getvalue().splitlines()[-1] == "| a\\|b c\ufffd[2J | [1, 2] |"
