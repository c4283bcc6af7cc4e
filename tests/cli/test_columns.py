"""Tables on a narrow terminal: every number whole, every line named, nothing beyond the edge."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from ctxext.cli._columns import fitted, naming_columns
from support.report_samples import perplexity_document, retrieval_document, write_run

NAMES = (
    "base-checkpoint-of-somebody-with-a-long-name",
    "org/yarn-8x-trained-on-books-of-1900",
    "yarn 8x + LoRA + norms + embeddings 2026",
)


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_parts_fit_and_lose_nothing(width):
    columns = ["task", "model", "256", "512", "1k", "2k"]
    rows = [
        ["passkey", name, "100 % [86, 100], chance 25 %, +3.21", "82.5 %", "-0.388 ± 0.055", "–"]
        for name in NAMES
    ]
    shown = set()
    for heads, lines in fitted(columns, rows, width):
        assert heads[:2] == ["task", "model"]
        assert [re.sub(r"\s", "", line[1]) for line in lines] == [
            name.replace(" ", "") for name in NAMES
        ]
        broad = [
            max(len(part) for line in [heads, *lines] for part in line[at].split("\n"))
            for at in range(len(heads))
        ]
        assert 1 + sum(3 + each for each in broad) <= max(width, 60)  # less holds no value
        for line in lines:
            for head, cell in zip(heads[2:], line[2:], strict=True):
                assert cell.split() == rows[0][columns.index(head)].split()
                shown.add(head)
    assert shown == {"256", "512", "1k", "2k"}


def test_a_table_that_fits_is_left_alone():
    columns, rows = ["model", "1k"], [["a", "100 % [86, 100], chance 25 %, +3.21"]]
    assert list(fitted(columns, rows, 80)) == [(columns, rows)]


def test_the_columns_that_tell_lines_apart():
    assert naming_columns([["copy", "a", "1"], ["copy", "b", "1"]]) == 2
    assert naming_columns([["copy", "a", "1"], ["passkey", "a", "1"]]) == 1
    assert naming_columns([["copy", "1"], ["copy", "1"]]) == 1
    assert naming_columns([]) == 1


def on_terminal(columns, *arguments):
    """What the command writes on a terminal of so many columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    env = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
    with subprocess.Popen(
        [sys.executable, "-m", "ctxext", *map(str, arguments)], stdout=theirs,
        stdin=subprocess.DEVNULL, env={**env, "TERM": "dumb", "NO_COLOR": "1"},
    ) as running:  # fmt: skip
        os.close(theirs)
        written = b""
        while chunk := _read(ours):
            written += chunk
    os.close(ours)
    assert running.returncode == 0
    return re.sub(r"\x1b\[[0-9;]*m", "", written.decode()).replace("\r\n", "\n")


def _read(terminal):
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux's way to say that nobody writes any more
        return b""


def test_a_report_of_nine_models_at_80_columns(tmp_path):
    folders = []
    for at in range(3):
        names = [f"{name} ({at})" for name in NAMES]
        ppl, keys = perplexity_document(names, key_tokens=None), retrieval_document(names)
        for row in [*ppl["results"], *keys["results"]]:
            row["config_sha256"] = f"{names.index(row['model']) + 10 * at:064x}"
        folders.append(write_run(tmp_path / f"eval{at}", "eval-ppl", ppl))
        folders.append(write_run(tmp_path / f"keys{at}", "eval-retrieval", keys))
    text = on_terminal(80, "report", *folders, "-o", tmp_path / "report.html")
    assert max(map(len, text.split("\n"))) <= 80
    cells = [cell.strip() for line in text.split("\n") for cell in line.split("│")]
    assert cells.count("31.00 ± 0.62") == cells.count("2.400 ± 0.048") > 3
    assert any(re.fullmatch(r"95 % \[91, 97\]", cell) for cell in cells)
    assert not [cell for cell in cells if re.fullmatch(r"[\d.]*\d ±|±|± [\d.]+", cell)]
