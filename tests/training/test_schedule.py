import itertools

import pytest

from ctxext.runs.recipe.config import TrainConfig
from ctxext.training.run.schedule import learning_rate


def test_by_hand():
    config = TrainConfig(lr=1.0, warmup_steps=4, steps=104)
    assert [learning_rate(s, config) for s in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert learning_rate(54, config) == pytest.approx(0.55)  # half way down from 1 to 0.1
    constant = TrainConfig(lr=1.0, warmup_steps=4, steps=104, schedule="constant")
    assert learning_rate(103, constant) == 1.0


def test_falls_after_the_warm_up():
    config = TrainConfig(lr=3e-4, warmup_steps=10, steps=200)
    rates = [learning_rate(s, config) for s in range(10, 200)]
    assert all(a >= b for a, b in itertools.pairwise(rates))
