"""LongPPL's key tokens against the definition written out token by token."""

import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from transformers import AutoModelForCausalLM

from ctxext.api.perplexity import KeyTokens, perplexity
from ctxext.checkpoints.live import load
from ctxext.checkpoints.live.load import load_model
from ctxext.checkpoints.opened import open_checkpoint
from ctxext.errors import BadInput
from ctxext.evaluation.perplexity.key_tokens import KeyRule, carried_over, key_tokens, rule_for
from ctxext.evaluation.reading.reading import Reading
from ctxext.evaluation.reading.scoring import Scorer
from support.checkpoints import build_tiny


def token_nll(model, ids, token, begin):
    with torch.no_grad():
        logits = model(torch.tensor(ids[begin : token + 1], dtype=torch.long)[None]).logits[0]
    return -float(logits[-2].log_softmax(-1)[ids[token]])


def test_equals_the_definition(tiny_llama, book):
    ids = np.frombuffer(book.read_bytes()[:150], dtype=np.uint8).astype(np.uint32)
    rule = KeyRule(context=16, block=4, gain=0.02, loss=5.5)
    opened = open_checkpoint(str(tiny_llama))
    reading = Reading(Scorer(load_model(opened.source, opened.position)))
    (found,) = key_tokens(reading, [ids], 150, 150, rule)
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32).eval()
    expected = [False]
    for token in range(1, 150):
        long = token_nll(model, ids, token, 0)
        # blocks of 4 share where their short context begins: 16 tokens before the block
        block = max(0, (token - 20 + 4) // 4 * 4) if token >= 20 else 0
        short = token_nll(model, ids, token, block)
        expected.append(short - long > rule.gain and long < rule.loss)
    assert found.tolist() == expected
    assert 0 < found.sum() < 100


def test_carried_over_by_bytes():
    # "ab|cdef|g" with "cdef" key, against "a|bc|def|g" and one empty token
    keys = np.array([False, True, False])
    there = carried_over(keys, np.array([2, 4, 1]), np.array([0, 1, 2, 3, 1]))
    assert there.tolist() == [False, False, True, True, False]


@given(
    sizes=st.lists(st.integers(0, 3), min_size=1, max_size=12),
    to=st.lists(st.integers(0, 3), min_size=1, max_size=12),
    data=st.data(),
)
def test_carried_over_as_byte_by_byte(sizes, to, data):
    keys = data.draw(st.lists(st.booleans(), min_size=len(sizes), max_size=len(sizes)))
    marked = [key for key, size in zip(keys, sizes, strict=True) for _ in range(size)]
    expected, at = [], 0
    for size in to:
        expected.append(any(marked[at : at + size]))
        at += size
    assert carried_over(np.array(keys), np.array(sizes), np.array(to)).tolist() == expected


def test_the_rule_fits_the_length():
    assert rule_for(131072) == KeyRule(4096, 1024, 2.0, 2.0)
    with pytest.raises(BadInput, match="--key-context 64 with its blocks of 16"):
        rule_for(80, context=64).check(80)


def test_the_result_has_each_length_and_another_tokenizer(tmp_path, tiny_llama, book):
    other = build_tiny(tmp_path / "other", "qwen2", vocabulary=264)
    text = tmp_path / "text.txt"
    text.write_text(book.read_text()[:900])
    result = perplexity(
        [str(tiny_llama), str(other)], data=str(text), lengths=[64, 256], stride=32,
        key_tokens=KeyTokens(str(tiny_llama), context=16, gain=0.01, loss=6.0),
    )  # fmt: skip
    rows = result.key_tokens.results
    assert [(r.model, r.length) for r in rows] == [
        (row.model, row.length) for row in result.results
    ]
    assert all(0 < r.share < 1 and r.tokens > 0 for r in rows)
    assert rows[0].tokens == rows[1].tokens
    whole = {(r.model, r.length): r for r in result.results}
    for row in rows:
        assert row.nll != whole[row.model, row.length].nll
    # the reference itself predicts its key tokens under the bound, with all their context
    assert rows[1].nll < 6.0


def test_one_model_is_in_memory_at_a_time(tiny_llama, book, monkeypatch):
    models, real = [], load.load_model

    def alone(*arguments, **options):
        assert not any(model() is not None for model in models)
        model = real(*arguments, **options)
        vars(model)["itself"] = model  # as hooks do: only a collection of garbage frees it
        models.append(weakref.ref(model))
        return model

    monkeypatch.setattr(load, "load_model", alone)
    base = str(tiny_llama)
    reference = KeyTokens(base, context=16)
    perplexity([base, base], data=str(book), lengths="64", key_tokens=reference, device="cpu")
    assert len(models) == 3
