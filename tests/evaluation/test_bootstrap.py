"""Standard errors against what theory, and a simulation, say of known series."""

import numpy as np
import pytest

from ctxext.evaluation.statistics.bootstrap import ratio_stderr


def test_of_independent_windows_is_the_textbook_error():
    values = np.random.default_rng(1).normal(3.0, 2.0, 2000)
    error = ratio_stderr(values * 10, np.full(2000, 10.0))
    assert error == pytest.approx(values.std(ddof=1) / np.sqrt(2000), rel=0.15)


def autoregressive(rng, size, memory):
    out = np.empty(size)
    out[0] = rng.normal() / np.sqrt(1 - memory**2)
    for index in range(1, size):
        out[index] = memory * out[index - 1] + rng.normal()
    return out


def test_of_neighbours_that_vary_together_is_larger():
    rng = np.random.default_rng(2)
    series = [autoregressive(rng, 1000, 0.7) for _ in range(60)]
    truth = np.std([values.mean() for values in series], ddof=1)
    found = np.mean([ratio_stderr(values, np.ones(1000)) for values in series[:20]])
    naive = np.mean([values.std(ddof=1) / np.sqrt(1000) for values in series])
    # Independent windows would be too sure by more than two; blocks see most of what they miss.
    assert naive < 0.55 * truth
    assert 0.7 * truth < found < 1.3 * truth


def test_of_unequal_windows_is_of_the_ratio():
    rng = np.random.default_rng(3)
    counts = rng.integers(1, 50, 3000).astype(float)
    sums = counts * rng.normal(2.0, 0.3, 3000)
    residuals = sums - sums.sum() / counts.sum() * counts
    linear = np.sqrt((residuals**2).sum()) / counts.sum()
    assert ratio_stderr(sums, counts) == pytest.approx(linear, rel=0.15)


def test_one_window_says_nothing_and_the_same_numbers_say_the_same():
    assert ratio_stderr(np.array([1.0]), np.array([1.0])) is None
    values = np.arange(30.0)
    assert ratio_stderr(values, np.ones(30)) == ratio_stderr(values, np.ones(30))
    assert ratio_stderr(np.ones(30), np.ones(30)) == pytest.approx(0.0, abs=1e-12)
