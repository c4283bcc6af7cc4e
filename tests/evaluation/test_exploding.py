"""A model that explodes: null with a note, JSON for every reader, plots and reports that go on."""

import json
import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from ctxext.api.perplexity import perplexity
from ctxext.api.report import make_report
from ctxext.api.retrieval import retrieval
from ctxext.errors import CtxextError
from ctxext.report.charts.perplexity import plot_perplexity
from ctxext.runs.journal import Journal
from ctxext.runs.json_file import finite
from ctxext.runs.rows.perplexity import LengthRow, PositionRow
from support.checkpoints import build_tiny


def strict(path):
    """JSON as the standard has it: no NaN, no Infinity."""

    def refuse(word):
        raise AssertionError(f"{path.name} has {word}")

    return json.loads(path.read_text(), parse_constant=refuse)


def exploded(folder, factor):
    """A tiny Llama whose logits are `factor` times as large."""
    build_tiny(folder, "llama")
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.model.norm.weight.mul_(factor)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def text(tmp_path, book):
    path = tmp_path / "text.txt"
    path.write_text(book.read_text()[:600])
    return path


def test_a_perplexity_that_no_number_holds_is_null_with_a_note(tmp_path, tiny_llama, text):
    folder = exploded(tmp_path / "big", 1e4)
    out = tmp_path / "out"
    result = perplexity(
        [str(tiny_llama), str(folder)], data=str(text), lengths=[64, 128], stride=64, output_dir=out
    )
    document = strict(out / "eval-ppl.json")
    rows = [row for row in document["results"] if row["model"] == "big"]
    ids = torch.tensor(list(text.read_bytes()[:128]))[None]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        size = float(-model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None]).mean())
    assert size > 1000
    for row in rows:
        assert row["perplexity"] is None
        assert size / 2 < row["nll"] < size * 2
        assert f"exp({row['nll']:.0f})" in row["note"]
    assert all(row["perplexity"] is None for row in document["by_position"][3:])
    assert all("note" not in row for row in document["results"][:2])
    assert any("big" in warning and "exploded" in warning for warning in result.warnings)
    assert (out / "perplexity.png").stat().st_size > 5000
    make_report([out], output=tmp_path / "r.html")
    assert "big" in (tmp_path / "r.html").read_text()


def test_only_models_that_explode(tmp_path, text):
    """No point is left for the plot."""
    folder = exploded(tmp_path / "big", 1e4)
    out = tmp_path / "out"
    perplexity([str(folder)], data=str(text), lengths=[64, 128], stride=64, output_dir=out)
    assert (out / "perplexity.svg").exists()
    make_report([out], output=tmp_path / "r.html")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [1e12, 1e150, 1e303, None])
@pytest.mark.parametrize("stderr", [None, 300.0])
def test_plots_of_any_size(tmp_path, value, stderr):
    good = {"model": "good", "perplexity": 3.0, "stderr": 0.01, "nll": None, "tokens": 8}
    bad = {**good, "model": "bad", "perplexity": value, "stderr": stderr}
    results = [LengthRow(**row, length=length) for row in (good, bad) for length in (64, 128)]
    buckets = [PositionRow(**row, start=0, end=end) for row in (good, bad) for end in (64, 128)]
    plot_perplexity(tmp_path / "p.png", results, buckets, window=64, text="a.txt")


@pytest.mark.parametrize("factor", [1e12, 1e30, float("nan"), float("inf")])
def test_logits_that_tell_nothing_apart_are_no_measurement(tmp_path, text, factor):
    folder = exploded(tmp_path / "big", factor)
    with pytest.raises(CtxextError, match=r"returned .*numbers mean nothing"):
        perplexity([str(folder)], data=str(text), lengths=[64])
    with pytest.raises(CtxextError, match=r"returned .*numbers mean nothing"):
        retrieval([str(folder)], lengths=[64], tasks=["copy"], samples=1, depths=[0.5])


def test_retrieval_of_a_model_that_explodes(tmp_path):
    folder = exploded(tmp_path / "big", 1e5)
    out = tmp_path / "out"
    retrieval(
        [str(folder)], lengths=[64, 128], tasks=["copy"], samples=2, depths=[0.5], output_dir=out
    )
    document = strict(out / "eval-retrieval.json")
    assert all(abs(row["gain"]) > 100 for row in document["results"])
    make_report([out], output=tmp_path / "r.html")


def known(folder):
    journal = Journal(folder)
    journal.close()
    return journal.known("key")


def test_a_journal_is_json_and_keeps_what_is_not_measured(tmp_path):
    journal = Journal(tmp_path)
    journal.add("key", 0, [[1.25, math.nan, math.inf]])
    journal.close()
    (line,) = (tmp_path / "measured-0.jsonl").read_text().splitlines()
    assert json.loads(line, parse_constant=pytest.fail) == ["key", 0, [[1.25, None, None]]]
    np.testing.assert_array_equal(known(tmp_path)[0], [[1.25, math.nan, math.nan]])
    for damaged in ("[1, 0, []]", '["key", 1, [5]]', '["key", 1, [["x"]]]', '["key"]'):
        (tmp_path / "measured-1.jsonl").write_text(damaged + "\n")
        assert list(known(tmp_path)) == [0]


def test_what_is_not_finite_is_null_however_deep():
    document = {"a": [1.5, math.inf, (2, -math.inf)], "b": {"c": math.nan, "d": "x", "e": True}}
    assert finite(document) == {"a": [1.5, None, [2, None]], "b": {"c": None, "d": "x", "e": True}}
