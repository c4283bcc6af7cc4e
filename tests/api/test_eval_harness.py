"""eval-harness without the harness: what is refused, and that it says how to get it."""

import json
import os
import subprocess
import sys

import pytest

from ctxext.api.harness import harness
from ctxext.errors import BadInput

BLOCKED = """
import sys
sys.modules["lm_eval"] = None  # as if it were not installed
from ctxext.cli.main import main
sys.argv[1:] = {arguments}
main()
"""


def test_a_missing_harness_is_one_sentence(tiny_llama):
    arguments = ["eval-harness", str(tiny_llama), "--tasks", "hellaswag", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED.format(arguments=arguments)],
        capture_output=True, text=True, env={**os.environ},
    )  # fmt: skip
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    document = json.loads(done.stdout)
    assert "not installed" in document["error"]
    assert document["hint"] == "pip install 'ctxext[harness]'"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tasks": [" ", ""]}, "--tasks names no task"),
        ({"lengths": [0]}, "lengths is 0"),
        ({"num_fewshot": -1}, "--num-fewshot is -1"),
        ({"limit": 0}, "--limit is 0"),
        ({"batch_size": 0}, "--batch-size is 0"),
        ({"include_path": "/no/such/folder"}, "--include-path /no/such/folder"),
    ],
)
def test_flags_are_checked_first(tiny_llama, wrong, message):
    with pytest.raises(BadInput, match=message):
        harness(str(tiny_llama), **{"tasks": ["x"], **wrong})


def test_one_process_only(tiny_llama, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(BadInput, match="one process"):
        harness(str(tiny_llama), tasks=["x"])
