"""How eval-ppl reads windows: BOS in each, several together, which of their tokens count."""

import json
import shutil
import signal

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ctxext.api.perplexity import perplexity
from ctxext.api.report import make_report
from ctxext.checkpoints.live.load import load_model
from ctxext.checkpoints.opened import open_checkpoint
from ctxext.errors import BadInput
from ctxext.evaluation.perplexity.scores import Protocols, by_length
from ctxext.evaluation.reading.reading import Reading
from ctxext.evaluation.reading.scoring import Scorer
from ctxext.runs.journal import Journal
from ctxext.runs.rows.perplexity import PerplexityResult
from support.command import run_ctxext, start_ctxext
from support.runs import has_lines, wait_for


@pytest.fixture
def text(tmp_path, book):
    path = tmp_path / "text.txt"
    path.write_text(book.read_text()[:1500])
    return path


@pytest.fixture
def with_bos(tmp_path, tiny_llama):
    """The tiny Llama, with a tokenizer that has a BOS token and does not put it by itself."""
    folder = tmp_path / "with-bos"
    shutil.copytree(tiny_llama, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.bos_token = tokenizer.convert_ids_to_tokens(7)
    tokenizer.save_pretrained(folder)
    return folder


def test_bos_in_every_window_is_what_it_is_by_hand(with_bos, text):
    ids = AutoTokenizer.from_pretrained(with_bos)(text.read_text()).input_ids
    assert ids[0] != 7
    result = perplexity(
        with_bos.as_posix(), data=str(text), lengths=[64], stride=32, bos="every-window"
    )
    model = AutoModelForCausalLM.from_pretrained(with_bos, dtype=torch.float32).eval()
    total, scored_to = 0.0, 1
    for begin in range(0, len(ids), 32):
        end = min(begin + 64, len(ids))
        window = torch.tensor([7, *ids[begin + 1 : end]])[None]
        with torch.no_grad():
            logits = model(window).logits[0, :-1].log_softmax(-1)
        nll = -logits.gather(1, window[0, 1:, None])[:, 0]
        total += float(nll[-(end - max(scored_to, begin + 1)) :].sum())
        scored_to = end
        if end == len(ids):
            break
    row = result.results[0]
    assert row.tokens == len(ids) - 1
    assert row.nll == pytest.approx(total / row.tokens, rel=1e-5)
    plain = perplexity(with_bos.as_posix(), data=str(text), lengths=[64], stride=32)
    assert plain.results[0].tokens == row.tokens
    assert plain.results[0].nll != pytest.approx(row.nll, rel=1e-5)
    # written only where it was asked for, and read back
    assert result.to_dict()["bos"] == "every-window"
    assert "bos" not in plain.to_dict()
    assert PerplexityResult.from_dict(result.to_dict()).bos == "every-window"
    assert "BOS in every window" in result.how_read


def test_where_the_tokenizer_puts_bos_nothing_changes_at_the_start(stories, text):
    """One window of a tokenizer that puts BOS itself: both ways read the same."""
    results = [
        perplexity(str(stories), data=str(text), lengths=[256], tokens=256, bos=bos)
        for bos in ("tokenizer", "every-window")
    ]
    assert results[0].results[0].nll == results[1].results[0].nll
    assert results[0].bos is None
    assert results[1].bos == "every-window"


def test_bos_is_not_mixed_with_a_run_without(tmp_path, with_bos, book):
    data = tmp_path / "long.txt"
    data.write_text(book.read_text()[:12_000])
    flags = ["--data", data, "--lengths", "512", "--stride", "32", "--json"]
    out = tmp_path / "out"
    process = start_ctxext("eval-ppl", with_bos, *flags, "-o", out)
    wait_for(process, has_lines(out / "measured-0.jsonl", 6))
    process.send_signal(signal.SIGINT)
    process.communicate()
    resumed = run_ctxext("eval-ppl", with_bos, *flags, "--bos", "every-window", "-o", out)
    fresh = run_ctxext("eval-ppl", with_bos, *flags, "--bos", "every-window")
    rows = [json.loads(done.stdout)["results"][0]["nll"] for done in (resumed, fresh)]
    assert rows[0] == rows[1]


def test_bos_that_cannot_be_is_refused(tiny_llama, text):
    with pytest.raises(BadInput, match="the tokenizer of llama has no BOS token"):
        perplexity(str(tiny_llama), data=str(text), lengths=[64], bos="every-window")
    with pytest.raises(
        BadInput, match="--bos is 'always', and has to be tokenizer or every-window"
    ):
        perplexity(str(tiny_llama), data=str(text), lengths=[64], bos="always")
    with pytest.raises(BadInput, match="--batch-size is 0"):
        perplexity(str(tiny_llama), data=str(text), lengths=[64], batch_size=0)


def test_a_report_does_not_put_the_two_side_by_side(tmp_path, with_bos, text):
    for bos in ("tokenizer", "every-window"):
        perplexity(
            with_bos.as_posix(), data=str(text), lengths=[64], bos=bos, output_dir=tmp_path / bos
        )
    runs = [tmp_path / "tokenizer", tmp_path / "every-window"]
    groups = make_report(runs, output=tmp_path / "report.html").findings.perplexity
    assert ["BOS" in group.about for group in groups] == [False, True]


@pytest.mark.parametrize("chunk", [0, 100])
def test_windows_read_together_say_what_each_says_alone(tiny_llama, text, chunk):
    results = [
        perplexity(
            str(tiny_llama), data=str(text), lengths=[64, 300], stride=50, batch_size=size,
            prefill_chunk=chunk,
        )
        for size in (1, 4, None)
    ]  # fmt: skip
    one, *others = ([*r.results, *r.by_position] for r in results)
    for other in others:
        assert [row.tokens for row in other] == [row.tokens for row in one]
        assert [row.nll for row in other] == pytest.approx([row.nll for row in one], rel=1e-5)


def test_batches_of_another_size_are_not_taken_for_these(tmp_path, tiny_llama, text):
    """Ten windows as 4 4 2 and as 2 2 2 2 2: the third batch has two windows both times."""
    opened = open_checkpoint(str(tiny_llama))
    model = load_model(opened.source, opened.position)
    ids = [np.frombuffer(text.read_bytes()[:320], dtype=np.uint8).astype(np.uint32)]
    journal, sizes = Journal(tmp_path), []
    count = Scorer.nll
    scorer = Scorer(model)
    scorer.nll = lambda rows, scored: sizes.append(len(rows)) or count(scorer, rows, scored)
    measured = {}
    for size in (4, 2, 2):
        reading = Reading(scorer, journal=journal, batch_size=size)
        measured[size] = by_length(reading, ids, 32, Protocols("disjoint")).score.nll
    assert sizes == [4, 4, 2, 2, 2, 2, 2, 2]
    assert measured[2] == pytest.approx(measured[4], rel=1e-6)
    journal.close()


def test_the_header_says_which_tokens_are_scored(tiny_llama, text):
    flags = ["eval-ppl", tiny_llama, "--data", text, "--lengths", "64,128"]
    done = run_ctxext(*flags, "--stride", "64", "--aligned")
    assert "(same tokens at every length, stride 64, 63 of every 64 tokens scored, " in done.stdout
    assert "warning: --aligned scores 63 of every 64 tokens" in done.stderr
    assert "--stride 63 scores all" in done.stderr
    done = run_ctxext(*flags, "--stride", "63", "--aligned")
    assert "(same tokens at every length, stride 63, 1,500 tokens read)" in done.stdout
    assert "warning" not in done.stderr
    for how, flag in (("disjoint windows", "--protocol=disjoint"),
                      ("sliding windows, stride 64", "--stride=64")):  # fmt: skip
        done = run_ctxext(*flags, flag)
        # 1500 tokens less the first of 24 and of 12 windows; at stride 64 less the document's first
        most = 1488 if "disjoint" in how else 1499
        said = f"lengths score 1,476 to {most:,} tokens, not the same ones"
        assert f"({how}, {said}, 1,500 tokens read)" in done.stdout
        assert f"lengths do not score the same tokens (1,476 to {most:,})" in done.stderr
    assert "not the same ones" not in run_ctxext(*flags, "--stride", "32").stdout
