"""Prompts: never over their length, the truth in them once, answers cut as the whole text is."""

import itertools

import pytest
from hypothesis import given, settings, strategies as st
from transformers import AutoTokenizer

from ctxext.errors import BadInput
from ctxext.evaluation.retrieval.fitting import Encoder, fit, own_tokens
from ctxext.evaluation.retrieval.haystack import hide, noise, text_haystack
from ctxext.evaluation.retrieval.scores import wording_of
from ctxext.evaluation.retrieval.tasks import TASKS, Draw
from support.readers import BYTES


@pytest.fixture
def texts(book):
    return text_haystack([book.read_text()[:20_000], book.read_text()[20_000:40_000]])


def check(task, wording, encode, haystack, length, depth, seed):
    item = TASKS[task].make(Draw(seed, encode.size), TASKS[task].words(wording), depth)
    question = fit(item, haystack, encode, length, seed=seed)
    whole = len(question.prompt) + len(question.truth.ids)
    assert whole <= length
    assert len(question.without) + len(question.truth.ids) <= length
    if task != "key-value":  # whose units are whole lines
        assert whole > length - 40
    answer = "".join(j + a for j, a in zip(item.joints, item.answers, strict=True))
    assert [*question.prompt, *question.truth.ids] == encode(question.text + answer)
    for _, needle in item.needles:
        assert question.text.count(needle) == 1
    assert not any(needle in encode.decode(question.without) for _, needle in item.needles)
    for answer, (begin, end) in zip(item.answers, question.truth.spans, strict=True):
        said = encode.decode(question.truth.ids[begin:end]).strip()
        assert answer.strip() in said or said in answer  # a joint may share a token with it
    return item, question


@settings(max_examples=60, deadline=None)
@given(
    task=st.sampled_from(list(TASKS)),
    length=st.integers(420, 1500),
    depth=st.floats(0, 1),
    seed=st.integers(0, 10**6),
)
def test_questions_in_bytes_fill_the_length_and_keep_their_depth(task, length, depth, seed):
    item, question = check(task, "compact", BYTES, noise, length, depth, str(seed))
    assert all(len(wrong.ids) == len(question.truth.ids) for wrong in question.wrong)
    first = item.needles[0][1]
    hay = question.text.rpartition("\n")[0]
    others = sum(len(needle) for _, needle in item.needles)
    # between words: within a few of them, and the needles beside it, of where it was wanted
    assert abs(hay.find(first) - depth * len(hay)) < 60 + others


@pytest.mark.parametrize("wording", ["compact", "full"])
@pytest.mark.parametrize("task", TASKS)
def test_of_a_real_tokenizer_and_real_text(stories, texts, task, wording):
    encode = Encoder(AutoTokenizer.from_pretrained(stories))
    for depth, length in itertools.product((0.0, 0.6, 1.0), (900, 1500)):
        check(task, wording, encode, texts, length, depth, "a")


def test_a_slow_tokenizer_is_cut_alike(stories, texts):
    fast = Encoder(AutoTokenizer.from_pretrained(stories))

    class Slow:
        is_fast = False
        eos_token_id = fast._tokenizer.eos_token_id
        unk_token_id = fast._tokenizer.unk_token_id

        def __call__(self, text, verbose=False):
            return fast._tokenizer(text, verbose=verbose)

        def decode(self, ids, skip_special_tokens=True):
            return fast.decode(ids)

    for task in TASKS.values():
        one, other = (
            fit(task.make(Draw("b", e.size), task.words("compact"), 0.5), texts, e, 700, seed="b")
            for e in (fast, Encoder(Slow()))
        )
        assert (one.prompt, one.truth, one.wrong) == (other.prompt, other.truth, other.wrong)


def test_an_end_of_text_that_the_tokenizer_adds_is_left_out(stories):
    tokenizer = AutoTokenizer.from_pretrained(stories)
    plain = Encoder(tokenizer)("Once upon a time")
    from tokenizers.processors import TemplateProcessing

    eos = tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {eos}", special_tokens=[(eos, tokenizer.eos_token_id)]
    )
    closed = Encoder(tokenizer)
    assert tokenizer("a").input_ids[-1] == tokenizer.eos_token_id
    assert closed("Once upon a time") == [i for i in plain if i != tokenizer.bos_token_id]


def test_text_that_holds_the_truth_is_not_taken():
    texts = text_haystack(["line of 12345 numbers\n" * 400])
    item = TASKS["passkey"].make(Draw("1", BYTES.size), TASKS["passkey"].words("compact"), 0.5)
    fit(item, texts, BYTES, 400, seed="1")
    held = text_haystack([f"line of {item.answers[0].strip()} numbers\n" * 400])
    with pytest.raises(BadInput, match="--data: the text holds"):
        fit(item, held, BYTES, 400, seed="1")


def test_lengths_too_short_are_refused_with_the_least_one():
    task = TASKS["passkey"]
    item = task.make(Draw("1", BYTES.size), task.words("compact"), 0.5)
    own = own_tokens(item, BYTES)
    fit(item, noise, BYTES, own, seed="1")
    with pytest.raises(BadInput, match="the words alone take 1 more"):
        fit(item, noise, BYTES, own - 1, seed="1")
    assert wording_of(task, BYTES, 4000) == "full"
    assert wording_of(task, BYTES, 200) == "compact"
    with pytest.raises(BadInput, match="--tasks passkey needs"):
        wording_of(task, BYTES, 20)


def test_a_tokenizer_without_the_digits_is_refused():
    class Letters:
        is_fast = False
        eos_token_id = None
        unk_token_id = 0

        def __call__(self, text, verbose=False):
            return {"input_ids": [0 if c.isdigit() else ord(c) for c in text]}

    with pytest.raises(BadInput, match=r"--tasks passkey: the tokenizer has no tokens for '\d{5}'"):
        wording_of(TASKS["passkey"], Encoder(Letters()), 4000)


def test_needles_lie_between_lines_or_words():
    text = "aa bb\ncc dd\nee ff\n"
    assert hide(text, [(0.0, "X"), (1.0, "Y")]) == "X\naa bb\ncc dd\nee ff\nY\n"
    assert hide(text, [(0.4, "X")]) == "aa bb\nX\ncc dd\nee ff\n"
    assert hide("aa bb cc dd", [(0.5, "X"), (0.5, "Y")]) == "aa bb X Y cc dd"
    assert hide("", [(0.0, "X")]) == "X "


def test_every_task_draws_alike_from_the_same_seed():
    for task in TASKS.values():
        one, same, other = (
            task.make(Draw(seed, BYTES.size), task.words("full"), 0.3) for seed in "112"
        )
        assert (one.needles, one.answers) == (same.needles, same.answers)
        assert one.answers != other.answers
