"""What a verdict rests on, on numbers whose answer is known."""

import random

import pytest

from ctxext.lab.paired import mean_over_seeds, paired_test as verdict_of


def test_by_hand():
    # Means of 1, 2 and 3: the mean is 2, their variance 1, the error 1 / sqrt(3).
    mean, stderr = mean_over_seeds([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
    assert (mean, stderr) == (2.0, pytest.approx(3**-0.5))
    assert verdict_of([[1.0], [2.0], [3.0]]).errors == pytest.approx(2 * 3**0.5)
    assert verdict_of([[1.0], [2.0], [3.0]]).verdict == "undecided"  # t 3.46, and 4.30 is needed
    assert verdict_of([[2.0], [2.1], [1.9]]).verdict == "holds"
    assert verdict_of([[-2.0], [-2.1], [-1.9]]).verdict == "does not hold"


def test_seeds_that_agree_by_chance_do_not_hide_noisy_rows():
    rows = [[-10.0, 10.0, 0.6], [10.0, -10.0, 0.6]]
    assert verdict_of(rows).verdict == "undecided"
    assert mean_over_seeds(rows)[1] > 3


def test_no_error_is_below_that_of_the_measure():
    assert verdict_of([[1.0], [1.0]], least_stderr=0.5).errors == 2.0
    assert verdict_of([[1.0], [1.0]]).p == 0.0


def test_one_seed_gives_no_verdict():
    test = verdict_of([[1.0, 1.0, 1.0]])
    assert (test.stderr, test.p, test.verdict) == (None, None, "undecided")


def test_noise_is_called_sure_about_once_in_twenty():
    rng = random.Random(0)
    sure = sum(
        verdict_of([[rng.gauss(0, 1) for _ in range(6)] for _ in range(3)]).verdict != "undecided"
        for _ in range(2000)
    )
    assert sure / 2000 <= 0.055
