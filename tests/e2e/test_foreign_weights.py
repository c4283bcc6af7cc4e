"""The whole way on weights that nobody here trained: stories260K, window 512, to 2048."""

import json
import lzma

import pytest

from support.checkpoints import SHARED
from support.command import run_ctxext


@pytest.fixture(scope="module")
def novel(tmp_path_factory):
    """The first 300 kB of a long book."""
    source = SHARED / "corpus" / "books" / "bleak-house.txt.xz"
    if not source.exists():
        pytest.skip(f"{source} is not there: the tests on a real book do not run")
    path = tmp_path_factory.mktemp("book") / "bleak-house.txt"
    with lzma.open(source, "rt", encoding="utf-8") as file:
        path.write_text(file.read(300_000), encoding="utf-8")
    return path


def perplexities(*models, data):
    done = run_ctxext(
        "eval-ppl", *models, "--data", data, "--lengths", "512,2k", "--tokens", "4k", "--json"
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["results"]
    return {(row["model"], row["length"]): row["perplexity"] for row in rows}


def test_extend_finetune_and_a_drop(tmp_path, stories, novel):
    done = run_ctxext(
        "extend", stories, "--method", "yarn", "--target", "2k", "--output-dir", tmp_path / "s",
        "--check", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["checked_relative_difference"] < 1e-6
    done = run_ctxext(
        "finetune", tmp_path / "s", "--data", novel, "--seq-length", "2k", "--steps", 8,
        "--gradient-accumulation", 1, "--lr", "2e-3", "--warmup-steps", 2, "--train-norms",
        "-o", tmp_path / "run", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tokens"] == 8 * 2048
    got = perplexities(stories, tmp_path / "s", tmp_path / "run/merged", data=novel)
    for length in (512, 2048):
        before, after = got["yarn 4x", length], got["yarn 4x + LoRA", length]
        assert after < 0.97 * before, (length, before, after)
    assert got["stories260K", 512] > 1
