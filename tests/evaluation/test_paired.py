"""Differences of models that read the same: the error is that of the difference."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from ctxext.evaluation.statistics.bootstrap import ratio_stderr
from ctxext.evaluation.statistics.intervals import newcombe, newcombe_paired, wilson
from ctxext.evaluation.statistics.paired import (
    difference_of_answers,
    difference_of_ratios,
    mcnemar,
)


def test_what_is_hard_for_both_is_no_error_of_their_difference():
    rng = np.random.default_rng(1)
    text = rng.normal(3.0, 1.0, 100)  # nats a token: how hard each block is
    weights = np.full(100, 256.0)
    base = (text + rng.normal(0, 0.05, 100)) * weights
    other = (text - 0.1 + rng.normal(0, 0.05, 100)) * weights
    difference, stderr = difference_of_ratios(other, weights, base, weights)
    exact = (other - base) / weights
    assert difference == pytest.approx(exact.mean())
    assert stderr == pytest.approx(exact.std(ddof=1) / 10, rel=0.1)  # the textbook's paired error
    apart = math.hypot(*(ratio_stderr(each, weights) or 0 for each in (base, other)))
    assert stderr < apart / 10


def test_models_that_differ_nowhere_differ_by_nothing():
    sums, weights = np.array([1.0, 5.0, 2.0]), np.array([2.0, 3.0, 4.0])
    assert difference_of_ratios(sums, weights, sums, weights) == (0.0, 0.0)


def test_one_block_has_no_spread_and_empty_blocks_are_none():
    one, nothing = np.array([3.0, 0.0]), np.array([2.0, 0.0])
    assert difference_of_ratios(one, nothing, one * 2, nothing) == (-1.5, None)


def test_the_error_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(2)
    inside = 0
    for _ in range(200):
        text, weights = rng.normal(3, 1, 40), rng.integers(100, 300, 40).astype(float)
        apart = rng.normal(0.2, 0.1, 40)
        difference, stderr = difference_of_ratios(
            (text + apart) * weights, weights, text * weights, weights
        )
        inside += abs(difference - 0.2) < 1.96 * (stderr or 0)
    assert 180 <= inside <= 200


@given(st.lists(st.sampled_from([(0, 0), (0, 1), (1, 0), (1, 1)]), min_size=1, max_size=60))
def test_answers_are_compared_as_by_hand(pairs):
    scores, others = [a for a, _ in pairs], [b for _, b in pairs]
    difference, low, high, beyond = difference_of_answers(scores, others)
    assert difference == pytest.approx((sum(scores) - sum(others)) / len(pairs))
    assert low - 1e-12 <= difference <= high + 1e-12
    first, second = pairs.count((1, 0)), pairs.count((0, 1))
    coins = list(itertools.islice(itertools.product((0, 1), repeat=first + second), 2**12))
    if first + second <= 12:  # every way that the coins could have fallen
        as_far = sum(abs(2 * sum(c) - len(c)) >= abs(first - second) for c in coins) / len(coins)
        assert mcnemar(first, second) == pytest.approx(as_far)
        assert beyond == (as_far < 0.05)
    back = difference_of_answers(others, scores)
    assert (back[1], back[2]) == (pytest.approx(-high), pytest.approx(-low))


def test_without_correlation_the_paired_interval_is_the_independent_one():
    both, first, second, neither = 12, 8, 3, 2  # 12 * 2 = 8 * 3
    count = 25
    expected = newcombe(20 / count, wilson(20, count), 15 / count, wilson(15, count))
    assert newcombe_paired(both, first, second, neither) == pytest.approx(expected)


def test_shares_of_an_answer_get_the_interval_of_a_mean():
    difference, low, high, beyond = difference_of_answers(
        [0.5, 1.0, 0.75, 1.0], [0.25, 0.75, 0.5, 0.75]
    )
    assert (difference, low, high, beyond) == (0.25, 0.25, 0.25, True)
    assert difference_of_answers([0.5], [0.25]) == (0.25, None, None, None)
