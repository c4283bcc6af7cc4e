"""The learning rate as a function of the step, so that nothing of it has to be saved."""

import math

from ctxext.runs.recipe.config import TrainConfig

_FLOOR = 0.1  # cosine ends at this share of the peak


def short_of_peak(config: TrainConfig) -> str | None:
    """Warn of a warm-up that the run ends in; None where it does not.

    >>> short_of_peak(TrainConfig(warmup_steps=10, steps=5)).partition(": ")[2]
    'the learning rate only gets to 50% of --lr'
    """
    if config.warmup_steps <= config.steps:
        return None
    return (
        f"the warm-up of {config.warmup_steps} steps is longer than the run of {config.steps}: "
        f"the learning rate only gets to {config.steps / config.warmup_steps:.0%} of --lr"
    )


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
