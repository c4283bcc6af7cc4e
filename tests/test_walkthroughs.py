"""What CONTRIBUTING and the README ask a reader to type, run as it stands there."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def blocks(file, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / file).read_text(), re.M | re.S)


def follow(folder, block):
    """Write a block to the file that its first line names, or at that file's end."""
    named, text = block.split("\n", 1)
    append, name = re.fullmatch(r"# (at the end of )?(\S+)", named).groups()
    path = folder / name
    assert path.exists() == bool(append), f"{name}: new files are new, others are there"
    path.write_text(f"{path.read_text()}\n\n{text}" if append else text)
    return name


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """A copy of the repository in which all three walk-throughs were followed."""
    copy = tmp_path_factory.mktemp("walkthroughs")
    for name in ("ctxext", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    written = [follow(copy, block) for block in blocks("CONTRIBUTING.md", "(?:python|yaml)")]
    assert [name for name in written if name.startswith("ctxext/")] == [
        "ctxext/methods/stretch.py",
        "ctxext/engines/toy.py",
        "ctxext/evaluation/retrieval/tasks/locker.py",
        "ctxext/evaluation/retrieval/prompts/locker.yaml",
    ]
    return copy


def python(folder, *arguments):
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_tests_run_on_what_a_walk_through_adds(followed):
    rooms = ["methods", "engines", "evaluation/test_retrieval.py", "evaluation/test_fitting.py"]
    said = python(
        followed, "-m", "pytest", "-v", "-p", "no:cacheprovider",
        *(f"tests/{room}" for room in rooms), "-k", "stretch or Toy or locker",
    )  # fmt: skip
    for test in (
        "test_stretch.py::test_by_hand", "test_transformers_formula_is_ours[stretch]",
        "test_every_pair_has_a_verdict_that_is_said[Toy-yarn]",
        "test_every_pair_has_a_verdict_that_is_said[Toy-stretch]",
        "test_a_perfect_reader_is_right_everywhere[400-locker]",
    ):  # fmt: skip
        assert f"{test} PASSED" in said


def test_cards_name_a_new_engine_and_no_list_was_edited(followed):
    code = (
        "from ctxext.engines.notes import engine_notes; from ctxext.methods import METHODS; "
        "print(engine_notes('yarn', {}, 9), METHODS['stretch'].rope_type)"
    )
    assert python(followed, "-c", code).strip() == "['yarn scaling is ignored by Toy'] default"


def test_the_readme_s_lines_of_python(shipped, book, tmp_path, monkeypatch, capsys):
    (block,) = blocks("README.md", "python")
    assert len(block.strip().splitlines()) <= 6
    shutil.copytree(shipped, tmp_path / "base")
    (tmp_path / "book.txt").write_text(book.read_text()[:4096])
    monkeypatch.chdir(tmp_path)
    exec(block, {})
    said = capsys.readouterr().out.splitlines()
    assert "rope_type" in said[0]
    assert len(said) == 1 + 4, "two models at two lengths"
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["yarn"]
