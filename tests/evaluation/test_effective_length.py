"""Effective length by RULER's rule and by a model's own score, the middle, and their intervals."""

import pytest

from ctxext.errors import BadInput
from ctxext.evaluation.statistics.effective_length import (
    Reach,
    Scored,
    Threshold,
    _margins,
    effective_length,
    parse_threshold,
)
from ctxext.evaluation.statistics.intervals import newcombe, wilson
from ctxext.evaluation.statistics.middle import middle_of

# RULER, table 3 (arXiv:2404.06654): averages at 4k .. 128k, and the length it claims for each.
LENGTHS = (4096, 8192, 16384, 32768, 65536, 131072)
RULER = {
    "Gemini-1.5-Pro": ((96.7, 95.8, 96.0, 95.9, 95.9, 94.4), 131072),
    "GPT-4": ((96.6, 96.3, 95.2, 93.2, 87.0, 81.2), 65536),
    "Llama3.1-70B": ((96.5, 95.8, 95.4, 94.8, 88.4, 66.6), 65536),
    "Mixtral-8x7B": ((94.9, 92.1, 92.5, 85.9, 72.4, 44.5), 32768),
    "Yi-34B": ((93.3, 92.2, 91.3, 87.5, 83.2, 77.3), 32768),
    "Mistral-7B": ((93.6, 91.2, 87.2, 75.4, 49.0, 13.8), 16384),
    "LWM": ((82.3, 78.4, 73.7, 69.1, 68.1, 65.0), None),
}


def scored(*points, samples=10**6):
    return [Scored(n, share, *wilson(share * samples, samples)) for n, share in points]


@pytest.mark.parametrize("model", RULER)
def test_rulers_rule(model):
    averages, length = RULER[model]
    scores = scored(*((n, value / 100) for n, value in zip(LENGTHS, averages, strict=True)))
    reach = effective_length(scores, parse_threshold("85.6%"), 4096)
    assert (reach.surely, reach.perhaps) == (length, length)


def test_of_a_models_own_score():
    own = parse_threshold("own:0.85")
    scores = scored((256, 0.80), (512, 0.70), (1024, 0.60), (2048, 0.69))
    reach = effective_length(scores, own, 256)
    assert (reach.surely, reach.needed) == (512, pytest.approx(0.68))  # 2048 does not make up
    assert effective_length(scores, own, 1024).surely == 2048
    assert effective_length(scored((256, 0.1), (512, 0.1)), own, 256) == Reach()


def test_a_length_is_reached_where_its_interval_says_so():
    few = scored((256, 1.0), (512, 0.95), (1024, 0.8), (2048, 0.3), samples=20)
    reach = effective_length(few, parse_threshold("0.7"), 256)
    # Wilson's lower ends of 20/20, 19/20, 16/20: 0.84, 0.76, 0.58; the upper one of 6/20: 0.52
    assert (reach.surely, reach.perhaps) == (512, 1024)
    none = effective_length(few, parse_threshold("0.9"), 256)
    assert (none.surely, none.perhaps) == (None, 1024)  # 0.84 is not 0.9, and may be


def test_an_interval_of_a_share_of_the_own_score_is_newcombes_at_a_whole_share():
    scores = scored((256, 0.8), (512, 0.7), samples=80)
    own, other = scores
    low, high = newcombe(0.7, (other.low, other.high), 0.8, (own.low, own.high))
    assert _margins(other, own, 1.0) == (pytest.approx(low), pytest.approx(high))


def test_nothing_is_held_to_a_length_outside_the_window():
    beyond = scored((512, 0.9), (1024, 0.5))
    assert effective_length(beyond, parse_threshold("own:0.85"), 256) == Reach()
    assert effective_length(beyond, parse_threshold("0.85"), 256).surely == 512


def test_a_threshold_is_a_share_absolute_or_of_its_own():
    assert parse_threshold("0.856") == parse_threshold("85.6%") == Threshold(0.856, relative=False)
    assert str(parse_threshold("own:0.9")) == "own:0.9"
    for wrong in ("", "own:", "0", "1.5", "own:x", "nan"):
        with pytest.raises(BadInput, match="--threshold"):
            parse_threshold(wrong)


@pytest.mark.parametrize(
    ("right", "asked", "low", "high"),
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson(right, asked, low, high):
    assert wilson(right, asked) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))
    mirrored = wilson(asked - right, asked)
    assert mirrored == (pytest.approx(1 - high, abs=5e-5), pytest.approx(1 - low, abs=5e-5))


@pytest.mark.parametrize(
    ("one", "of_one", "other", "of_other", "low", "high"),
    # Newcombe 1998, "Interval estimation for the difference", table II, method 10
    [
        (56, 70, 48, 80, 0.0524, 0.3339),
        (9, 10, 3, 10, 0.1705, 0.8090),
        (5, 56, 0, 29, -0.0381, 0.1926),
        (10, 10, 0, 10, 0.6075, 1.0),
    ],
)
def test_newcombe(one, of_one, other, of_other, low, high):
    found = newcombe(one / of_one, wilson(one, of_one), other / of_other, wilson(other, of_other))
    assert found == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_a_middle_is_lost_when_it_is_worse_beyond_noise():
    cells = [(0.0, 1.0, 20), (0.25, 0.9, 20), (0.5, 0.3, 20), (0.75, 0.8, 20), (1.0, 1.0, 20)]
    found = middle_of(cells)
    assert (found.middle, found.ends, found.lost) == (0.3, 0.9, True)
    assert found.difference == pytest.approx(-0.6)
    assert found.high < 0
    few = middle_of([(d, a, 2) for d, a, _ in cells])
    assert not few.lost  # two questions a cell prove nothing
    sinking = middle_of([(0.0, 1.0, 20), (0.5, 0.5, 20), (1.0, 0.1, 20)])
    assert not sinking.lost  # worse than one end only
    assert middle_of([(0.0, 1.0, 20), (1.0, 1.0, 20)]) is None
    assert middle_of([(0.5, 1.0, 20)]) is None
