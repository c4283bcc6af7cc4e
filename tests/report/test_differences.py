"""Differences and their noise: against published and hand-computed numbers."""

import math
from dataclasses import replace

import pytest

from ctxext.report.findings.differences import (
    by_accuracy,
    by_nll,
    by_value,
    differences,
    gains,
    of_means,
)
from ctxext.report.findings.groups import ModelScore, Score
from ctxext.report.tables.perplexity import nll_difference_note
from ctxext.report.tables.retrieval import accuracy_difference_table, share_note
from ctxext.runs.rows.blocks import Blocks
from ctxext.runs.rows.harness import HarnessRow
from ctxext.runs.rows.perplexity import LengthRow


def wilson(right, n, z=1.96):
    p = right / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return p, middle - half, middle + half


def ends(apart):
    return apart.difference, apart.low, apart.high


def score(model, accuracy, low, high):
    return Score(model, "t", 1, accuracy, low, high)


def test_means_by_hand():
    # errors of 0.3 and 0.4 make one of 0.5: 0.5 ± 1.96 * 0.5, and 1.96 is rounded
    assert ends(of_means(1.0, 0.5, 0.3, 0.4)) == pytest.approx((0.5, -0.48, 1.48), abs=5e-5)
    assert ends(of_means(1.0, 0.5, None, 0.4)) == (0.5, None, None)


def test_shares_as_newcombe_published_them():
    # Newcombe 1998, table II, example (a): 56/70 against 48/80, method 10: 0.0524 to 0.3339.
    got = by_accuracy(score("b", *wilson(56, 70)), score("a", *wilson(48, 80)))
    assert ends(got) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    assert not got.paired
    # ... and example (e), where a Wald interval would be empty: 5/56 against 0/29.
    got = by_accuracy(score("b", *wilson(5, 56)), score("a", *wilson(0, 29)))
    assert ends(got) == pytest.approx((0.0893, -0.0381, 0.1926), abs=5e-5)


def row(model, length, nll, stderr=0.1, tokens=1000):
    return LengthRow(
        model=model, length=length, nll=nll, perplexity=None, stderr=stderr, tokens=tokens
    )


def test_nll_against_the_first_model():
    rows = [
        row("a", 256, 1.0), row("a", 512, 2.0), row("b", 256, 1.2), row("b", 512, 1.0),
        row("b", 1024, 1.0), row("c", 256, 1.0, tokens=999), row("c", 512, None),
        row("d", 256, 1.5, stderr=None),
    ]  # fmt: skip
    found = {(d.model, d.place): d.apart for d in differences(rows, by_nll)}
    # 1.96 * 0.1 * sqrt 2 = 0.277: 0.2 is noise, -1 is none. c has other tokens, or no number.
    assert set(found) == {("b", (256,)), ("b", (512,)), ("d", (256,))}
    assert found["b", (256,)].difference == pytest.approx(0.2)
    assert found["b", (256,)].high == pytest.approx(0.2 + 0.27719, abs=1e-5)
    assert found["b", (256,)].beyond_noise is False
    assert found["b", (512,)].beyond_noise is True
    assert found["d", (256,)].beyond_noise is None
    (said,) = [d for d in differences(rows, by_nll) if (d.model, d.place) == ("b", (512,))]
    assert said.to_dict() == {
        "model": "b", "against": "a", "place": [512], "difference": -1.0, "paired": False,
        "low": pytest.approx(-1.27719, abs=1e-5), "high": pytest.approx(-0.72281, abs=1e-5),
        "beyond_noise": True,
    }  # fmt: skip
    assert differences([], by_nll) == []


def test_accuracy_and_values():
    rows = [score("a", *wilson(48, 80)), score("b", *wilson(56, 70))]
    (found,) = differences(rows, by_accuracy)
    assert (found.model, found.against, found.apart.beyond_noise) == ("b", "a", True)
    scores = [
        ModelScore(m, HarnessRow(task="t", metric="acc", value=v, stderr=0.01))
        for m, v in (("a", 0.4), ("b", 0.42))
    ]
    (found,) = differences(scores, by_value)
    assert found.apart.beyond_noise is False  # 0.02 against 1.96 * 0.01414 = 0.0277


def with_blocks(model, length, nats, text="ab" * 32):
    blocks = Blocks(
        text=text, size=256, sums=tuple(256 * n for n in nats), weights=(256.0,) * len(nats)
    )
    return replace(row(model, length, sum(nats) / len(nats), stderr=0.5), blocks=blocks)


def test_the_same_text_is_compared_block_by_block():
    base = with_blocks("a", 512, [3.0, 1.0, 2.0, 4.0])
    other = with_blocks("b", 512, [2.9, 0.9, 1.95, 3.85])
    apart = by_nll(other, base)
    assert (apart.paired, apart.beyond_noise) == (True, True)
    assert apart.difference == pytest.approx(-0.1)
    elsewhere = by_nll(with_blocks("b", 512, [2.9, 0.9, 1.95, 3.85], text="cd" * 32), base)
    assert (elsewhere.paired, elsewhere.beyond_noise) == (False, False)


def test_the_same_questions_are_compared_one_by_one():
    asked = ("ab" * 32, "cd" * 32)
    answers = [(1.0,) * 7 + (0.0,) * 13, (1.0,) * 1 + (0.0,) * 19]
    scores = [
        replace(score(m, *wilson(sum(a), 20)), answers=a, questions=asked)
        for m, a in zip("ba", answers, strict=True)
    ]
    apart = by_accuracy(*scores)
    # Six answered by b alone and none by a alone: p = 2 / 64; unpaired it would be noise.
    assert (apart.paired, apart.beyond_noise) == (True, True)
    assert apart.difference == pytest.approx(0.3)
    others = replace(scores[1], questions=("ef" * 32, "cd" * 32))
    assert not by_accuracy(scores[0], others).paired


def test_what_more_context_gains_is_paired_with_the_shortest():
    rows = [
        with_blocks("a", 256, [3.0, 1.0, 2.0]), with_blocks("a", 1024, [2.9, 0.9, 1.9]),
        with_blocks("b", 256, [3.0, 1.0, 2.0]), row("b", 1024, 1.0),
        replace(row("c", 256, 2.0), gain=None), replace(row("c", 512, 1.0), gain=0.5),
    ]  # fmt: skip
    (first, aligned) = gains(rows)
    assert (first.model, first.place) == ("a", (1024,))
    assert first.apart.difference == pytest.approx(0.1)
    assert (aligned.model, aligned.apart.difference, aligned.apart.low) == ("c", 0.5, None)


def test_a_note_explains_the_sign_and_only_the_marks_that_stand_there():
    same = [with_blocks("base", 512, [2.0, 3.0, 4.0]), with_blocks("yarn", 512, [1.9, 2.8, 3.9])]
    paired = nll_difference_note(differences(same, by_nll))
    assert "below 0 where the model predicts better than base" in paired
    assert "(noise)" not in paired
    assert "(unpaired)" not in paired
    apart = [row("base", 512, 2.0), row("yarn", 512, 2.01)]
    unpaired = nll_difference_note(differences(apart, by_nll))
    assert "(noise) = the interval holds 0" in unpaired
    assert "(unpaired) = the errors of both" in unpaired


def test_points_that_round_to_nothing_are_plus_nothing():
    scores = [score("base", 0.503, 0.4, 0.6), score("yarn", 0.5, 0.4, 0.6)]
    _, lines = accuracy_difference_table(differences(scores, by_accuracy))
    assert lines[0][-1].startswith("+0 [-14, +14]")
    assert "by McNemar's exact test" in share_note(differences(scores, by_accuracy))
