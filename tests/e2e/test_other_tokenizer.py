"""Checkpoints without a tokenizer: named by every look at them, and read with another's."""

import json

import pytest

from ctxext.api.fertility import fertility
from ctxext.api.inspect import inspect
from ctxext.api.perplexity import perplexity
from ctxext.api.retrieval import retrieval
from support.bad_inputs import accepted, refused
from support.checkpoints import build_tiny
from support.command import run_ctxext


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """The tiny checkpoint without a tokenizer."""
    folder = build_tiny(tmp_path_factory.mktemp("bare") / "bare")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    return folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory, tiny_llama):
    """A folder with the files of a tokenizer, and nothing else."""
    folder = tmp_path_factory.mktemp("tokenizer") / "bytes"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tiny_llama / name).read_bytes())
    return folder


def test_a_foreign_tokenizer_is_named_with_the_way_out(bare, book):
    assert any("bare has no tokenizer" in w and "--tokenizer" in w for w in inspect(bare).warnings)
    planned = run_ctxext(
        "finetune", bare, "--data", book, "--seq-length", 64, "--dry-run", "--gpu", "h100-80gb"
    )
    accepted(planned, "bare has no tokenizer", "--tokenizer FOLDER|REPO")
    extended = run_ctxext("extend", bare, "--target", 512, "--dry-run")
    accepted(extended, "no tokenizer", "--tokenizer FOLDER|REPO")


def test_evaluations_read_with_another(bare, tokenizer, tiny_llama, book, tmp_path):
    """The same numbers as with the same tokenizer in the folder."""
    options = {"data": str(book), "lengths": [64], "tokens": 640}
    own = perplexity([str(tiny_llama)], **options)
    other = perplexity([str(bare)], tokenizer=str(tokenizer), **options)
    assert other.results[0].nll == own.results[0].nll
    assert (own.to_dict()["tokenizer"], other.to_dict()["tokenizer"]) == (None, "bytes")
    asked = {"lengths": [96], "tasks": ["copy"], "samples": 1, "depths": [0.5]}
    rows = [
        retrieval([model], tokenizer=named, **asked)
        for model, named in ((str(tiny_llama), None), (str(bare), str(tokenizer)))
    ]
    assert rows[0].results[0].accuracy == rows[1].results[0].accuracy
    assert rows[1].to_dict()["tokenizer"] == "bytes"
    (tmp_path / "en.txt").write_text("twelve bytes")
    cost = fertility(str(bare), data=str(tmp_path), tokenizer=str(tokenizer))
    assert cost.results[0].tokens == 12
    assert cost.to_dict()["tokenizer"] == "bytes"


def test_finetune_reads_with_it_and_hands_it_on(bare, tokenizer, book, tmp_path):
    out = tmp_path / "out"
    done = run_ctxext(
        "finetune", bare, "--data", book, "--tokenizer", tokenizer, "--seq-length", 64, "--steps",
        1, "--gradient-accumulation", 1, "--warmup-steps", 0, "-o", out,
    )  # fmt: skip
    accepted(done)
    carried = (out / "merged" / "tokenizer.json").read_bytes()
    assert carried == (tokenizer / "tokenizer.json").read_bytes()
    assert json.loads((out / "ctxext.json").read_text())["tokenizer"]["id"] == "bytes"
    # from there on it is a checkpoint like any other
    assert perplexity([str(out / "merged")], data=str(book), lengths=[64], tokens=640).results


def test_one_of_another_model_is_refused(tmp_path, tokenizer, book):
    small = build_tiny(tmp_path / "small", vocabulary=100)
    for command in (
        ("eval-ppl", small, "--data", book, "--lengths", 64),
        ("finetune", small, "--data", book, "--seq-length", 64, "--dry-run"),
    ):
        done = run_ctxext(*command, "--tokenizer", tokenizer)
        refused(done, 2, "--tokenizer bytes gives tokens up to 255", "the model has 100 embeddings")


@pytest.mark.parametrize("name", ["nowhere/../there", "a--b", "~nobody-here/x"])
def test_names_of_tokenizers_are_checked(bare, book, name):
    done = run_ctxext("eval-ppl", bare, "--data", book, "--lengths", 64, "--tokenizer", name)
    refused(done, 2, name)
