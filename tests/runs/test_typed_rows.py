"""Rows to JSON and back; and a run of an older ctxext, in `older/`, as it was written then."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ctxext.api.report import make_report
from ctxext.checkpoints.provenance import read_record, sha256_of
from ctxext.release.card import CardFacts, model_card
from ctxext.runs.checked import Broken
from ctxext.runs.log import log_text, read_log
from ctxext.runs.rows.perplexity import PerplexityResult
from ctxext.runs.rows.row import Identity
from ctxext.runs.run_documents import DOCUMENTS, read_document
from support.report_samples import perplexity_document

OLDER = Path(__file__).with_name("older") / "run"
KINDS = ("eval-ppl", "eval-retrieval", "fertility")


def older(kind):
    return json.loads((OLDER / kind / f"{kind}.json").read_text())


def check_holds(new, old):
    """Everything in the old JSON is in the new one, in the same order."""
    if isinstance(old, dict):
        assert [key for key in new if key in old] == list(old)
        for key, value in old.items():
            check_holds(new[key], value)
    elif isinstance(old, list):
        for ours, theirs in zip(new, old, strict=True):
            check_holds(ours, theirs)
    else:
        assert new == old


@pytest.mark.parametrize("kind", KINDS)
def test_what_an_older_ctxext_wrote_is_written_again_field_for_field(kind):
    check_holds(DOCUMENTS[kind].from_dict(older(kind)).to_dict(), older(kind))


def test_an_older_log_is_read_and_written_line_for_line():
    lines = read_log(OLDER / "log.jsonl", pytest.fail)
    assert [line.step for line in lines] == [1, 2]
    assert log_text(lines) == (OLDER / "log.jsonl").read_text()


def test_an_older_run_is_reported(tmp_path):
    report = make_report([OLDER], output=tmp_path / "report.html").to_dict()
    assert [run["kind"] for run in report["runs"]] == [
        "finetune", "eval-ppl", "eval-retrieval", "fertility",
    ]  # fmt: skip
    assert {row["model"]: row["verdict"] for row in report["verdicts"]} == {
        "base": "collapses", "yarn": "holds", "merged": "holds, not used",
    }  # fmt: skip
    page = (tmp_path / "report.html").read_text()
    for words in ("LongPPL", "max_position_embeddings", "Training: run", "256 by choice"):
        assert words in page


def test_the_card_of_an_older_run_has_its_numbers(tmp_path):
    record = read_record(OLDER / "merged")
    (measured,) = {
        Identity.of(row)
        for row in DOCUMENTS["eval-ppl"].from_dict(older("eval-ppl")).results
        if row.model == "merged"
    }
    assert measured.record_sha256 == sha256_of(OLDER / "merged" / "ctxext.json")
    facts = CardFacts(
        repo_id="me/Tiny-512",
        record=record,
        identity=measured,
        evaluations=[read_document(OLDER / "eval-ppl", "eval-ppl")],
        retrievals=[read_document(OLDER / "eval-retrieval", "eval-retrieval")],
        base_model="org/Tiny",
        adapter=True,
        plots=["perplexity.png"],
        others=True,
    )
    card = model_card(facts)
    length = next(r for r in older("eval-ppl")["results"] if r["model"] == "merged")
    assert f"value: {length['perplexity']:.4f}".rstrip("0") in card
    assert "extended from 256 to 512 tokens by `yarn`" in card
    assert "fine-tuned with LoRA for 2 steps" in card
    for label in ("this model", "base (base)", "yarn (extended, not trained)"):
        assert f"| {label} |" in card
    assert "| this model | 512 | 256 by choice | nowhere |" in card


def test_fields_of_a_newer_ctxext_are_passed_over(tmp_path):
    document = older("eval-ppl") | {"weather": {"rain": [1]}}
    document["results"][0]["mood"] = "good"
    shutil.copytree(OLDER / "eval-ppl", tmp_path / "run")
    (tmp_path / "run" / "eval-ppl.json").write_text(json.dumps(document))
    again = read_document(tmp_path / "run", "eval-ppl")
    assert again == read_document(OLDER / "eval-ppl", "eval-ppl")


@pytest.mark.parametrize("value", [None, math.nan, math.inf, 10**400])
def test_what_is_not_finite_is_none(value):
    document = perplexity_document()
    document["results"][0] |= {"nll": value, "bits_per_byte": value}
    row = PerplexityResult.from_dict(document).results[0]
    assert (row.nll, row.bits_per_byte) == (None, None)


@pytest.mark.parametrize("value", ["1", True, [1], {}, 1e16, -1e16])
def test_what_is_no_number_is_refused(value):
    document = perplexity_document()
    document["results"][0]["nll"] = value
    with pytest.raises(Broken, match="in results, nll is"):
        PerplexityResult.from_dict(document)


def test_a_field_that_belongs_to_another_is_written_with_it():
    row = PerplexityResult.from_dict(perplexity_document()).results[0]
    assert not {"note", "gain", "gain_stderr"} & set(row.to_dict())
    gained = replace(row, gain=0.5).to_dict()
    assert (gained["gain"], gained["gain_stderr"]) == (0.5, None)
