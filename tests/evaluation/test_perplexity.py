"""Perplexity against ten lines of plain transformers, and its counting by hand."""

import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ctxext.api.extend import extend
from ctxext.api.perplexity import perplexity
from ctxext.checkpoints.live.load import load_model
from ctxext.checkpoints.opened import open_checkpoint
from ctxext.errors import BadInput, CtxextError
from ctxext.evaluation.perplexity.scores import Protocols, by_length, by_position
from ctxext.evaluation.reading.reading import Reading
from ctxext.evaluation.reading.scoring import Scorer
from ctxext.evaluation.reading.windows import readable
from support.checkpoints import build_tiny


def reference(folder, text, length, stride):
    """The loop of the transformers documentation, with the token mean done exactly."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt").input_ids
    total, count, previous = 0.0, 0, 0
    for begin in range(0, ids.size(1), stride):
        end = min(begin + length, ids.size(1))
        target = ids[:, begin:end].clone()
        target[:, : -(end - previous)] = -100
        with torch.no_grad():
            loss = model(ids[:, begin:end], labels=target).loss
        scored = int((target[:, 1:] != -100).sum())
        total, count, previous = total + float(loss) * scored, count + scored, end
        if end == ids.size(1):
            break
    return math.exp(total / count), count


def load(folder):
    opened = open_checkpoint(str(folder))
    return load_model(opened.source, opened.position)


def reading_of(model, name="model", **how):
    return Reading(Scorer(model, **how), name)


def scored(model, text, length, **how):
    return by_length(reading_of(model), [text], length, Protocols(**how)).score


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize(("length", "stride"), [(64, 16), (100, 33), (128, 128)])
def test_equals_the_reference(tmp_path, book, family, length, stride):
    base = build_tiny(tmp_path / "base", family)
    text = book.read_text()[:700]
    file = tmp_path / "text.txt"
    file.write_text(text)
    result = perplexity([str(base)], data=str(file), lengths=[length], stride=stride)
    expected, count = reference(base, text, length, stride)
    row = result.results[0]
    assert row.tokens == count
    assert row.perplexity == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("method", ["yarn", "linear", "dynamic", "ntk"])
def test_extended_checkpoints_equal_the_reference(tmp_path, tiny_llama, book, method):
    out = tmp_path / method
    extend(str(tiny_llama), method=method, target=512, output_dir=out)
    text = book.read_text()[:900]
    file = tmp_path / "text.txt"
    file.write_text(text)
    result = perplexity([str(out)], data=str(file), lengths=[128, 512], stride=128)
    assert result.results[1].perplexity == pytest.approx(
        reference(out, text, 512, 128)[0], rel=1e-4
    )
    # dynamic scaling must not remember the 512 when it is asked for 128 afterwards
    assert result.results[0].perplexity == pytest.approx(
        reference(out, text, 128, 128)[0], rel=1e-4
    )


def test_dynamic_forgets_between_lengths(tmp_path, tiny_llama, book):
    extend(str(tiny_llama), method="dynamic", target=512, output_dir=tmp_path / "d")
    model = load(tmp_path / "d")
    text = np.frombuffer(book.read_bytes()[:1100], dtype=np.uint8).astype(np.uint32)
    before = scored(model, text, 128).nll
    scored(model, text, 512)
    assert scored(model, text, 128).nll == before


@pytest.fixture(scope="module")
def text(book):
    return np.frombuffer(book.read_bytes()[:330], dtype=np.uint8).astype(np.uint32)


def nll(model, text, begin, end, count):
    """(count,) nats of the last tokens of text[begin:end], read by itself."""
    ids = torch.from_numpy(text.astype(np.int64))[None]
    with torch.no_grad():
        logits = model(ids[:, begin:end]).logits[0, :-1].log_softmax(-1)
    return -logits.gather(1, ids[0, begin + 1 : end, None])[-count:, 0]


SLIDING = [(0, 128, 127), (64, 192, 64), (128, 256, 64), (192, 320, 64), (256, 330, 10)]


def test_disjoint_windows_score_every_token_but_the_first(tiny_llama, text):
    model = load(tiny_llama)
    windows = [(0, 128, 127), (128, 256, 127), (256, 330, 73)]
    mean = torch.cat([nll(model, text, *window) for window in windows]).mean()
    disjoint = scored(model, text, 128, protocol="disjoint")
    assert disjoint.nll == pytest.approx(float(mean), rel=1e-5)
    assert disjoint.tokens == 127 + 127 + 73


def test_sliding_windows_score_what_is_new_in_each(tiny_llama, text):
    model = load(tiny_llama)
    mean = torch.cat([nll(model, text, *window) for window in SLIDING]).mean()
    assert scored(model, text, 128, stride=64).nll == pytest.approx(float(mean), rel=1e-5)


def test_yarn_s_protocol_is_the_mean_of_the_means_of_windows(tiny_llama, text):
    model = load(tiny_llama)
    means = [nll(model, text, *window).mean() for window in SLIDING]
    yarn = scored(model, text, 128, stride=64, protocol="yarn")
    assert yarn.nll == pytest.approx(float(torch.stack(means).mean()), 1e-5)


def test_by_position_is_every_token_once(tiny_llama, book):
    model = load(tiny_llama)
    text = np.frombuffer(book.read_bytes()[: 512 * 3 + 40], dtype=np.uint8).astype(np.uint32)
    rows = by_position(reading_of(model), [text], 512)
    assert [(r.start, r.end) for r in rows] == [(0, 128), (128, 256), (256, 512)]
    assert sum(r.tokens for r in rows) == 3 * 511
    whole = scored(model, text[: 512 * 3], 512, protocol="disjoint")
    mean = sum(r.nll * r.tokens for r in rows) / sum(r.tokens for r in rows)
    assert mean == pytest.approx(whole.nll, rel=1e-6)
    with torch.no_grad():
        ids = torch.from_numpy(text[:512].astype(np.int64))[None]
        logits = model(ids).logits[0, :-1].log_softmax(-1)
    nll = -logits.gather(1, ids[0, 1:, None])[:, 0]
    first = by_position(reading_of(model), [text[:512]], 512)
    assert first[1].nll == pytest.approx(float(nll[127:255].mean()), rel=1e-5)
    assert first[1].stderr is None


def test_standard_error_shrinks_with_the_number_of_windows(tiny_llama, book):
    model = load(tiny_llama)
    text = np.frombuffer(book.read_bytes()[:40_000], dtype=np.uint8).astype(np.uint32)
    few = scored(model, text[:4000], 128, protocol="disjoint")
    many = scored(model, text, 128, protocol="disjoint")
    assert 0 < many.stderr < few.stderr
    # windows of one text by one source: the two means differ by no more than a few errors
    assert abs(few.nll - many.nll) < 5 * few.stderr


def test_documents_shorter_than_the_window_are_refused(tiny_llama):
    with pytest.raises(BadInput, match="no document of 512 tokens"):
        readable(np.array([100]), 512, source="x")


def test_a_model_that_returns_nan_is_named(tiny_llama, book):
    model = load(tiny_llama)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    text = np.frombuffer(book.read_bytes()[:300], dtype=np.uint8).astype(np.uint32)
    with pytest.raises(CtxextError, match="broken returned nan at length 128"):
        by_length(reading_of(model, "broken"), [text], 128)
