"""Promises of the whole: a lazy face, instant help, one direction, fresh documents."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import ctxext
from ctxext.cli.main import command_line
from support.command import run_ctxext

COMMANDS = [command.name for command in command_line().registered_commands]
ROOT = Path(__file__).parent.parent


def modules_after(code):
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def names_for_type_checkers():
    """name: module, of the imports that only mypy and editors read in `ctxext/__init__.py`."""
    tree = ast.parse(Path(ctxext.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    return {
        name.asname or name.name: line.module.removeprefix("ctxext.")
        for line in block.body
        for name in line.names
    }


def test_the_face_names_everything_and_imports_nothing():
    assert set(ctxext.__all__) == set(ctxext._HOME)
    assert len(ctxext.__all__) == len(ctxext._HOME)
    assert names_for_type_checkers() == ctxext._HOME
    for name in ctxext.__all__:
        assert getattr(ctxext, name) is not None
    with pytest.raises(AttributeError):
        ctxext.missing  # noqa: B018
    assert not {"torch", "transformers", "numpy", "typer"} & modules_after("import ctxext")


def test_the_command_line_imports_nothing_heavy():
    heavy = {"torch", "transformers", "numpy", "peft", "datasets", "huggingface_hub", "matplotlib"}
    assert not heavy & modules_after("import ctxext.cli.main")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command):
    done = run_ctxext(command, "--help", env={"COLUMNS": "200"})
    assert done.returncode == 0
    assert f"Example: ctxext {command}" in done.stdout
    assert "--json" in done.stdout


def test_flags_may_have_underscores_and_errors_are_documents():
    assert run_ctxext("--version").stdout.startswith("ctxext 0.")
    done = run_ctxext("inspect", "nowhere/at/all", "--original_length", "4k", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["schema"] == "ctxext.error/1"


def test_usage_errors_are_documents_too():
    done = run_ctxext("extend", "--nonsense", "--json")
    assert done.returncode == 2
    assert "nonsense" in json.loads(done.stdout)["error"]
    assert "Traceback" not in done.stderr


def test_rooms_import_downwards_only():
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_every_room_says_what_it_is_for():
    for folder in (ROOT / "ctxext").iterdir():
        if folder.is_dir() and (folder / "__init__.py").exists():
            text = (folder / "__init__.py").read_text()
            assert text.startswith('"""'), folder.name
            assert "import" in text.split('"""')[1], folder.name


def test_the_allocator_of_a_gpu_is_chosen_before_torch_is_there(monkeypatch):
    """And left to whoever has chosen one."""
    from ctxext.cli.main import _let_gpu_memory_grow

    loaded = modules_after("import ctxext.cli.main; ctxext.cli.main._let_gpu_memory_grow()")
    assert "torch" not in loaded
    monkeypatch.setattr(os, "environ", {})
    _let_gpu_memory_grow()
    assert os.environ == {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
    chosen = {"PYTORCH_ALLOC_CONF": "max_split_size_mb:512"}
    monkeypatch.setattr(os, "environ", dict(chosen))
    _let_gpu_memory_grow()
    assert os.environ == chosen
