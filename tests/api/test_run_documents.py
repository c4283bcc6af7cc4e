"""Documents from another hand: read as they are, or refused by folder and key; no traceback."""

import copy
import json
import math
import random

import pytest

from ctxext.api.report import make_report
from ctxext.errors import BadInput
from ctxext.runs.run_documents import DOCUMENTS as READ, read_document
from support.report_samples import DOCUMENTS, write_run

ABSENT = object()
VALUES = (None, "x", -1, 0, math.nan, math.inf, [], {}, True, 10**30, 1.5, "\0<", ABSENT)


def places(value, path=()):
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in pairs:
        yield (*path, key)
        if isinstance(inner, dict | list):
            yield from places(inner, (*path, key))


def mutated(document, place, value):
    out = copy.deepcopy(document)
    inner = out
    for key in place[:-1]:
        inner = inner[key]
    if value is ABSENT:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return out


def test_every_kind_has_a_sample():
    assert set(DOCUMENTS) == set(READ)


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_one_wrong_value_anywhere(tmp_path, kind):
    rng = random.Random(kind)
    everywhere = list(places(DOCUMENTS[kind]))
    folder = write_run(tmp_path / "some-run", kind)
    refused = []
    for _ in range(60):
        document = mutated(DOCUMENTS[kind], rng.choice(everywhere), rng.choice(VALUES))
        (folder / f"{kind}.json").write_text(json.dumps(document))
        try:
            json.dumps(make_report([folder], output=None).to_dict())
        except BadInput as error:
            refused.append(str(error))
    assert 5 < len(refused) < 55
    assert all("some-run" in sentence for sentence in refused)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("results", 0, "length"), "long", "in results, length is 'long'"),
        (("results", 0, "perplexity"), -1, "in results, perplexity is -1"),
        (("by_position", 2, "stderr"), -1, "in by_position, stderr is -1"),
        (("results", 0, "config_sha256"), "../x", "in results, config_sha256 is '../x'"),
        (("data", "sha256"), ABSENT, "in data, sha256 is missing"),
        (("key_tokens", "results", 0, "share"), 2, "in key_tokens, in results, share is 2"),
    ],
)
def test_sentences_name_the_key(tmp_path, place, value, words):
    document = mutated(DOCUMENTS["eval-ppl"], place, value)
    folder = write_run(tmp_path / "run", "eval-ppl", document)
    with pytest.raises(BadInput) as caught:
        read_document(folder, "eval-ppl")
    assert words in str(caught.value)


def test_what_is_missing_or_not_finite_is_none(tmp_path):
    document = mutated(DOCUMENTS["eval-ppl"], ("results", 0, "perplexity"), math.nan)
    document = mutated(document, ("results", 1, "stderr"), ABSENT)
    document = mutated(document, ("results", 3, "perplexity"), 1e300)
    document = mutated(document, ("results", 3, "nll"), math.log(1e300))
    del document["failed"], document["key_tokens"]
    folder = write_run(tmp_path / "run", "eval-ppl", document)
    rows = read_document(folder, "eval-ppl").results
    assert rows[0].perplexity is None
    assert rows[1].stderr is None
    assert rows[2].perplexity == 11.0
    assert rows[3].perplexity == 1e300  # of a model that explodes


@pytest.mark.parametrize(
    ("places", "words"),
    [
        ([(("results", 1), "results", 0)], "twice at length"),
        ([(("results", 0, "perplexity"), 1.5)], "exp(nll) is another"),
        ([(("by_position", 1), "by_position", 0)], "twice at start"),
    ],
)
def test_measurements_that_contradict_each_other_are_broken(tmp_path, places, words):
    document = DOCUMENTS["eval-ppl"]
    for place, *new in places:
        value = document[new[0]][new[1]] if len(new) == 2 else new[0]
        document = mutated(document, place, value)
    folder = write_run(tmp_path / "run", "eval-ppl", document)
    with pytest.raises(BadInput, match="is broken") as caught:
        read_document(folder, "eval-ppl")
    assert words in str(caught.value)


def test_texts_are_printable(tmp_path):
    document = mutated(DOCUMENTS["eval-ppl"], ("data", "source"), "a\x1b[2Jb\n\u202ec\ud800")
    folder = write_run(tmp_path / "run", "eval-ppl", document)
    assert read_document(folder, "eval-ppl").data.source == "a\ufffd[2Jb \ufffdc\ufffd"
