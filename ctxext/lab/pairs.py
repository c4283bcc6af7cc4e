"""What each rotary pair does: slow it, stop it, or leave it while the others are slowed."""

from typing import Any

from ctxext.encodings.rope import inv_freq_of, wavelengths
from ctxext.lab.extensions import beyond, spec_of, turn, within
from ctxext.lab.measures import Measured, loss_by_position, unseen_rows
from ctxext.lab.rows import Rows
from ctxext.lab.setting import LabSetting


def fast_pairs(setting: LabSetting) -> list[int]:
    """List the pairs that complete a turn in the trained window."""
    turns = wavelengths(inv_freq_of(spec_of(setting)))
    return [pair for pair, wavelength in enumerate(turns) if wavelength <= setting.train_length]


def _losses(model: Any, setting: LabSetting, rows: Rows, inv_freq: list[float]) -> Measured:
    turn(model, inv_freq)
    return Measured(loss_by_position(model, setting, rows))


def ablate(model: Any, setting: LabSetting, seed: int) -> dict[str, Any]:
    """Measure every pair, and the fast and the slow ones together.

    Returns:
        Of each pair and band, losses of rows against what they are compared with, nats a token:
        `slowed_near`, `stopped_near` (in rows of the trained window, against as trained) and
        `left_far` (beyond the window, against all pairs interpolated).
    """
    trained = inv_freq_of(spec_of(setting))
    slow = [f / setting.factor for f in trained]
    rows = unseen_rows(setting, seed)
    short = rows[:, : setting.train_length + 1]
    try:
        near = _losses(model, setting, short, trained).bucket(*within(setting))
        far = _losses(model, setting, rows, slow).bucket(*beyond(setting))

        def losses(changed: set[int]) -> dict[str, list[float]]:
            def mixed(inside: list[float], outside: list[float]) -> list[float]:
                return [
                    a if i in changed else b
                    for i, (a, b) in enumerate(zip(inside, outside, strict=True))
                ]

            still = [0.0] * len(trained)
            slowed = _losses(model, setting, short, mixed(slow, trained))
            stopped = _losses(model, setting, short, mixed(still, trained))
            left = _losses(model, setting, rows, mixed(trained, slow))
            return {
                "slowed_near": _less(slowed.bucket(*within(setting)), near),
                "stopped_near": _less(stopped.bucket(*within(setting)), near),
                "left_far": _less(left.bucket(*beyond(setting)), far),
            }

        fast = set(fast_pairs(setting))
        bands = {"fast": fast, "slow": set(range(len(trained))) - fast}
        out: dict[str, Any] = {
            "pairs": [losses({pair}) for pair in range(len(trained))],
            "bands": {name: losses(pairs) for name, pairs in bands.items()},
        }
    finally:
        turn(model, trained)
    return out


def _less(values: list[float], others: list[float]) -> list[float]:
    return [a - b for a, b in zip(values, others, strict=True)]
