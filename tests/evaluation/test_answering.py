"""Continuations behind a cached prompt against whole forwards, and greedy text against generate."""

import pytest
import torch
from test_eval_ppl import FAMILIES, model_of

from ctxext.api.extend import extend
from ctxext.checkpoints.live.load import load_model
from ctxext.checkpoints.opened import open_checkpoint
from ctxext.evaluation.retrieval.answering import Answerer


def truth(model, prompt, continuation):
    ids = torch.tensor([[*prompt, *continuation]])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0].float().log_softmax(-1)
    rows = logits[len(prompt) - 1 : -1]
    wanted = torch.tensor(continuation)
    return rows.gather(1, wanted[:, None])[:, 0], rows.argmax(-1) == wanted


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("chunk", [0, 70])
def test_equals_whole_forwards(family, chunk, book):
    model = model_of(family)
    answerer = Answerer(model, prefill_chunk=chunk)
    assert answerer.cached
    text = list(book.read_bytes()[:320])
    prompt, tails = text[:300], [text[300:308], text[10:18], text[40:43], text[5:6]]
    for part in (tails, tails[:2]):  # of unlike lengths one by one, of one length together
        for told, tail in zip(answerer.told(prompt, part), part, strict=True):
            logprobs, hits = truth(model, prompt, tail)
            torch.testing.assert_close(told.logprobs, logprobs, atol=1e-4, rtol=1e-4)
            assert (told.hits == hits).all()


@pytest.mark.parametrize("family", ["Llama", "Mistral"])
def test_generates_as_transformers_does(family, book):
    model = model_of(family)
    prompt = list(book.read_bytes()[:200])
    expected = model.generate(
        torch.tensor([prompt]), max_new_tokens=20, do_sample=False, pad_token_id=0,
        eos_token_id=None,
    )  # fmt: skip
    assert Answerer(model).generate(prompt, 20) == expected[0, 200:].tolist()


def test_dynamic_scaling_is_read_whole(tmp_path, tiny_llama, book):
    extend(str(tiny_llama), method="dynamic", target=512, output_dir=tmp_path / "d")
    opened = open_checkpoint(str(tmp_path / "d"))
    model = load_model(opened.source, opened.position)
    answerer = Answerer(model)
    assert not answerer.cached
    text = list(book.read_bytes()[:420])
    answerer.told(text[:400], [text[400:410]])  # the longest it has seen
    told = answerer.told(text[:150], [text[150:160], text[20:30]])
    fresh = load_model(opened.source, opened.position)
    for found, tail in zip(told, (text[150:160], text[20:30]), strict=True):
        torch.testing.assert_close(
            found.logprobs, truth(fresh, text[:150], tail)[0], atol=1e-4, rtol=1e-4
        )
    fresh = load_model(opened.source, opened.position)
    first = int(fresh(input_ids=torch.tensor([text[:150]])).logits[0, -1].argmax())
    assert answerer.generate(text[:150], 3)[0] == first
