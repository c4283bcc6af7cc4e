"""How much a run costs, and what of it fits into a number of minutes."""

import math
from dataclasses import dataclass, replace
from typing import Final

from ctxext.errors import BadInput
from ctxext.lab.extensions import MEASURED_EVERY, measured_methods
from ctxext.lab.setting import PRESETS, LabSetting
from ctxext.lab.variants import VARIANTS

_START: Final = 25.0  # seconds until the processes have imported torch, and for what comes last
_RESERVE: Final = 1.15  # long rows cost more than their tokens, and machines are not quiet


@dataclass(frozen=True)
class Planned:
    """A setting that fits, and what of the wanted one had to go.

    Attributes:
        steps: of every decoder.
        seconds: that it takes, about.
        notes: a sentence for what is less than asked for.
    """

    setting: LabSetting
    steps: int
    seconds: float
    notes: tuple[str, ...] = ()


def measuring(setting: LabSetting) -> float:
    """Count what measuring costs for each seed, in training steps: a pass is a third of one."""
    window, longest = setting.train_length, setting.longest
    text = setting.windows * longest
    asked = (
        2
        * setting.strings
        * sum(length * len(setting.distances(length)) for length in (window, longest))
    )
    variants = sum(len(VARIANTS.get(encoding, {})) for encoding in setting.encodings)
    passes = len(setting.encodings) * (text + asked) + (variants + 6) * text
    steps = 0.0
    if "rope" in setting.encodings:
        methods = len(measured_methods())
        pairs = setting.hidden_size // setting.heads // 2
        passes += 2 * methods * (text + 2 * setting.strings * longest)
        passes += (pairs + 2) * setting.windows * (longest + 2 * window)
        looks = 2 * setting.most_lora_steps // MEASURED_EVERY
        passes += looks * max(8, setting.windows // 2) * longest
        long = methods * setting.lora_steps + 2.5 * setting.most_lora_steps
        steps = long * 2 * longest / setting.tokens_per_step
    return steps + passes / setting.tokens_per_step / 3


def fitted(
    setting: LabSetting, seconds_per_step: float, workers: int, budget: float | None
) -> Planned:
    """Choose the seeds and steps that fit.

    Seeds come before steps: a verdict rests on seeds, as long as decoders learn something.

    Args:
        seconds_per_step: of one process, while the others are at work.
        budget: seconds; None = all that the setting says.

    Raises:
        BadInput: not even one seed of the least steps fits.
    """
    cost = measuring(setting)

    def seconds(seeds: int, steps: int) -> float:
        work = seeds * (len(setting.encodings) * steps + cost) * seconds_per_step
        # One process may be the last for as long as a job takes.
        return _START + _RESERVE * max(work / workers, steps * seconds_per_step)

    wanted = len(setting.seeds)
    if budget is None:
        return Planned(setting, setting.steps, seconds(wanted, setting.steps))
    least = seconds(1, setting.least_steps)
    if budget < least:
        larger = setting.least_steps > PRESETS["smoke"].least_steps
        raise BadInput(
            f"--budget of {minutes(budget)} is too small for one seed, which takes "
            f"{minutes(least)} here",
            f"give --budget {minutes(2 * least)}, fewer --encodings"
            + (", or --preset smoke" if larger else ""),
        )
    seeds = max(n for n in range(1, wanted + 1) if seconds(n, setting.least_steps) <= budget)
    steps = max(
        step
        for step in range(setting.least_steps, setting.steps + 1)
        if seconds(seeds, step) <= budget
    )
    notes = []
    if seeds < wanted:
        notes.append(f"{seeds} of {wanted} seeds fit into {minutes(budget)}")
    if steps < setting.steps:
        notes.append(f"{steps} of {setting.steps} training steps fit into {minutes(budget)}")
    fitting = replace(setting, seeds=setting.seeds[:seeds])
    return Planned(fitting, steps, seconds(seeds, steps), tuple(notes))


def minutes(seconds: float) -> str:
    """Write a duration as `--budget` takes it, rounded up: seconds below two minutes.

    >>> minutes(0.2), minutes(40), minutes(121), minutes(7200)
    ('1s', '40s', '3m', '120m')
    """
    return f"{math.ceil(seconds)}s" if seconds < 120 else f"{math.ceil(seconds / 60)}m"


def seconds_of(budget: str | float | None) -> float | None:
    """Read a `--budget`: `10m`, `90s`, `1.5h`; a plain number is minutes.

    Raises:
        BadInput: no duration above 0.
    """
    if budget is None:
        return None
    text = str(budget).strip().lower()
    unit = {"s": 1.0, "m": 60.0, "h": 3600.0}.get(text[-1:])
    try:
        value = float(text if unit is None else text[:-1]) * (unit or 60.0)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e7:
        raise BadInput(f"--budget {str(budget)[:40]!r} is no duration", "e.g. 10m, 90s or 1h")
    return value
