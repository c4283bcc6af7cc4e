"""The learning rate as a function of the step, so that nothing of it has to be saved."""

import math

from ctxext.runs.recipe.config import TrainConfig

_FLOOR = 0.1  # cosine ends at this share of the peak


def learning_rate(step: int, config: TrainConfig) -> float:
    """Compute the learning rate of step `step` (from 0): linear warm-up, then cosine or constant.

    >>> learning_rate(0, TrainConfig(lr=1.0, warmup_steps=10, steps=100))
    0.1
    >>> round(learning_rate(100, TrainConfig(lr=1.0, warmup_steps=10, steps=100)), 3)
    0.1
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.lr * (_FLOOR + (1 - _FLOOR) * 0.5 * (1 + math.cos(math.pi * done)))
