"""Journals and logs that somebody broke: damaged lines are made again, or left out and counted."""

import math

from hypothesis import given, strategies as st

from ctxext.evaluation.reading.sharing import shared_rows
from ctxext.machine.launch import Launch
from ctxext.runs.journal import Journal
from ctxext.runs.log import StepLog, read_log
from ctxext.runs.rows.training import StepRow
from support.fuzzing import answers, as_text, broken, broken_bytes, fuzzed

PIECES = [[[0.5, 1.5]], [[2.5, 3.5], [4.5, 5.5]], [[6.5, math.inf]]]
ENTRIES = [["a", index, rows] for index, rows in enumerate(PIECES[:2])]
LOG = [
    {"step": step, "loss": 2.0 / step, "grad_norm": 0.5, "lr": 1e-3, "tokens": 100 * step,
     "tokens_per_second": 3e3, "peak_memory_bytes": 10**9, "seconds": 1.0}
    for step in (1, 2, 3)
]  # fmt: skip


def lines(entries):
    return "".join(as_text(entry) + "\n" for entry in entries)


def measured(folder):
    """Three pieces, by whatever the journal of an earlier run says of them."""
    journal = Journal(folder)
    widths = [[len(row) for row in rows] for rows in PIECES]
    rows = shared_rows(
        len(PIECES), lambda index: PIECES[index], key="a", journal=journal, launch=Launch(),
        fits=lambda index, part: [len(row) for row in part] == widths[index],
        on_done=lambda indices: [PIECES[index] for index in indices],
    )  # fmt: skip
    journal.close()
    return rows


def check_journal(path, data):
    path.write_bytes(data)
    rows, said = answers(measured, path.parent)
    assert said is None
    assert [[len(row) for row in part] for part in rows] == [
        [len(row) for row in part] for part in PIECES
    ]
    assert all(isinstance(n, int | float) for part in rows for row in part for n in row)


def test_what_is_kept_comes_back(tmp_path):
    path = tmp_path / "measured-0.jsonl"
    path.write_text(lines([["a", 0, [[9.0, 8.0]]], ["a", 1, [[1.0]]], ["a", True, [[1.0]]], 5]))
    rows = measured(tmp_path)
    assert rows == [[[9.0, 8.0]], PIECES[1], PIECES[2]]  # the second had another shape


@fuzzed
@given(broken(ENTRIES))
def test_a_journal_with_other_values(tmp_path_factory, entries):
    path = tmp_path_factory.getbasetemp() / "measured-0.jsonl"
    check_journal(path, lines(entries).encode())


@fuzzed
@given(broken_bytes(lines(ENTRIES).encode()))
def test_a_journal_with_other_bytes(tmp_path_factory, data):
    check_journal(tmp_path_factory.getbasetemp() / "measured-0.jsonl", data)


def check_log(path, data):
    """The log is read, shown, rewound and written on."""
    path.write_bytes(data)
    notes = []
    known, said = answers(read_log, path, notes.append)
    assert said is None
    whole = data.count(b"\n")
    assert len(known) + (int(notes[0].split(": ")[1].split()[0]) if notes else 0) >= whole
    log, _ = answers(StepLog, path, 2)
    log.write(StepRow(step=3, tokens=300, loss=1.0))
    log.close()
    steps = [line.step for line in read_log(path)]
    assert all(step <= 2 for step in steps[:-1])
    assert steps[-1] == 3


def test_damaged_lines_are_counted(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('[]\n{}\n{"step": 1, "tokens": 5}\n{"step": "x", "tokens": 5}\n{"step": 2, "to')
    notes = []
    assert read_log(path, notes.append) == [StepRow(step=1, tokens=5, loss=None)]
    assert notes == ["log.jsonl: 3 damaged lines left out"]


@fuzzed
@given(broken(LOG), st.booleans())
def test_a_log_with_other_values(tmp_path_factory, entries, torn):
    text = lines(entries)
    check_log(tmp_path_factory.getbasetemp() / "log.jsonl", text[: -5 if torn else None].encode())


@fuzzed
@given(broken_bytes(lines(LOG).encode()))
def test_a_log_with_other_bytes(tmp_path_factory, data):
    check_log(tmp_path_factory.getbasetemp() / "log.jsonl", data)
