"""The rows that decoders are trained on, and asked by."""

import numpy as np
from numpy.testing import assert_array_equal

from ctxext.lab.budget import fitted, measuring
from ctxext.lab.setting import PRESETS
from ctxext.lab.strings import LETTERS, asked_strings, planted_strings, tiled_strings

TEXT = np.full(4000, ord("x"), dtype=np.uint8)


def test_only_what_was_read_before_weighs():
    rng = np.random.default_rng(0)
    for rows, weights in (
        tiled_strings(rng, 40, 64, 20),
        planted_strings(rng, TEXT, 40, 64),
    ):
        assert rows.shape == weights.shape == (40, 64)
        for row, weight in zip(rows, weights, strict=True):
            letters = np.flatnonzero(np.isin(row, LETTERS) & (weight > 0))
            for at in letters:  # the letter before it was followed by the same letter, earlier
                earlier = [i for i in range(1, at) if row[i - 1] == row[at - 1]]
                assert any(row[i] == row[at] for i in earlier)


def test_rows_that_ask_differ_in_the_first_string_alone():
    told, other = asked_strings(np.random.default_rng(0), TEXT, 20, 128, distance=50, size=10)
    assert_array_equal(told[:, 118:], told[:, 68:78])
    assert (told[:, 68:78] != other[:, 68:78]).any(axis=1).all()
    same = np.ones(128, dtype=bool)
    same[68:78] = False
    assert_array_equal(told[:, same], other[:, same])


def test_seeds_before_steps_and_both_within_the_budget():
    setting = PRESETS["train-short-test-long"]
    everything = fitted(setting, 0.02, 2, None)
    assert (everything.steps, everything.setting.seeds) == (3000, (0, 1, 2, 3))
    for budget in (400.0, 600.0, 900.0):
        planned = fitted(setting, 0.02, 2, budget)
        assert planned.seconds <= budget
        assert planned.steps >= setting.least_steps
    assert len(fitted(setting, 0.02, 2, 300.0).setting.seeds) < 4
    assert fitted(setting, 0.02, 2, 600.0).notes
    assert measuring(setting) > 0
