"""What goes into the harness and comes out of it, as plain data."""

from pathlib import Path

import numpy as np
import pytest

from ctxext.errors import BadInput
from ctxext.evaluation.harness.results import (
    chosen_documents,
    lengths_for,
    publishable,
    rows_of,
    unknown_task,
)


def test_an_unknown_task_gets_the_nearest_names():
    error = unknown_task("helaswag", ["hellaswag", "arc_easy"], own_folder=None)
    assert "'helaswag'" in str(error)
    assert "hellaswag" in error.hint
    assert "arc_easy" not in error.hint
    assert "ls tasks" in unknown_task("zzz", ["hellaswag"], own_folder="mine").hint


def test_limit_takes_of_every_length():
    assert chosen_documents([8, 8, 8, 4, 4, 16], 6, 2) == [0, 1, 3, 4, 5]
    assert chosen_documents(None, 3, 5) == [0, 1, 2]
    assert chosen_documents(None, 9, 2) == [0, 1]


def test_lengths_as_tasks_read_them():
    assert lengths_for("niah_single_1", [4096, 8192]) == [4096, 8192]
    assert lengths_for("babilong_qa1", [4096]) == "4k"
    with pytest.raises(BadInput, match="takes one of --lengths"):
        lengths_for("babilong_qa1", [4096, 8192])


def test_rows_of_groups_tasks_and_lengths_of_ruler():
    results = {
        "results": {
            "group": {"name": "group", "alias": "group", "acc,none": 0.5, "acc_stderr,none": 0.1},
            "one": {"alias": "one", "acc,none": 0.25, "acc_stderr,none": "N/A", "nan,none": np.nan},
            "ruler": {"4096,none": -1.0, "512,none": 0.75, "1024,none": 1, "1024_stderr,none": 0.0},
        },
        "group_subtasks": {"group": ["one", "ruler"]},
        "versions": {"one": 2.0},
        "n-shot": {"one": 3},
        "n-samples": {
            "one": {"original": 9, "effective": 4},
            "ruler": {"original": 20, "effective": 6},
        },
    }
    rows = rows_of(results, at_length={"ruler": {"512": 4, "1024": 2}}, cut={"ruler": 3})
    seen = [(r.task, r.metric, r.value, r.stderr, r.samples) for r in rows]
    assert seen == [
        ("one", "acc", 0.25, None, 4),
        ("ruler", "512", 0.75, None, 4),
        ("ruler", "1024", 1.0, 0.0, 2),
        ("group", "acc", 0.5, 0.1, 10),
    ]
    assert (rows[0].version, rows[0].n_shot, rows[0].filter) == (2.0, 3, "none")
    assert [r.cut for r in rows] == [0, 3, 3, 0]


def test_what_is_written_names_no_secret_and_no_place(tmp_path):
    token = "hf_" + "a1B2" * 8
    inside = tmp_path / "tasks" / "own.yaml"
    inside.parent.mkdir()
    inside.write_text("")
    document = {
        "source": str(inside),
        "code": f"def f():\n    return open('{inside}')",
        "url": "https://me:secret@example.org/x",
        "token": f"Bearer {token}",
        "name": "hf_evaluate",
        "number": np.float32(0.5),
        "set": {1},
        "odd": object(),
        "endless": float("inf"),
        2: "/no/such/file is a template",
    }
    out = publishable(document, [inside.parent, Path("/")])
    assert out["source"] == "own.yaml"
    assert out["code"].endswith("open('own.yaml')")
    assert "secret" not in out["url"]
    assert out["token"] == "Bearer ***"
    assert out["name"] == "hf_evaluate"
    assert out["number"] == 0.5
    assert out["set"] == [1]
    assert out["odd"] == "<object>"
    assert out["endless"] is None
    assert out["2"] == "/no/such/file is a template"
    assert publishable(str(inside), []) == "own.yaml"
