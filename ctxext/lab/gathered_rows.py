"""Average over seeds what was measured, as the rows of the laboratory's document."""

import math
from collections.abc import Sequence
from typing import Any

from ctxext.encodings.rope import inv_freq_of, wavelengths
from ctxext.lab.extensions import spec_of
from ctxext.lab.paired import mean_over_seeds
from ctxext.lab.statements import Evidence
from ctxext.runs.rows.lab import (
    LabExtension,
    LabOrder,
    LabPair,
    LabPosition,
    LabRecall,
    LabSteps,
)


def position_rows(evidence: Evidence) -> tuple[LabPosition, ...]:
    """Give perplexity by position, of every encoding and variant."""
    rows = []
    for (encoding, variant), seeds in evidence.measured.items():
        read = min(len(seed.nll[0]) for seed in seeds)
        for index, (start, end) in enumerate(evidence.setting.buckets[:read]):
            nll, stderr = mean_over_seeds([seed.bucket(index) for seed in seeds])
            rows.append(
                LabPosition(
                    encoding=encoding, variant=variant, start=start, end=end, nll=nll,
                    stderr=stderr, perplexity=math.exp(nll),
                )
            )  # fmt: skip
    return tuple(rows)


def recall_rows(evidence: Evidence) -> tuple[LabRecall, ...]:
    """Give recall by distance, of every encoding as trained."""
    rows = []
    for (encoding, variant), seeds in evidence.measured.items():
        if variant:
            continue
        for length, distance in seeds[0].gains:
            place = length, distance
            gain, stderr = mean_over_seeds([seed.gains[place] for seed in seeds])
            copied, _ = mean_over_seeds([seed.copied[place] for seed in seeds])
            rows.append(
                LabRecall(
                    encoding=encoding, length=length, distance=distance, gain=gain, stderr=stderr,
                    copied=copied,
                )
            )  # fmt: skip
    return tuple(rows)


def order_rows(evidence: Evidence) -> tuple[LabOrder, ...]:
    """Give what permuting does, of every encoding, with and without a causal mask."""
    rows = []
    for (encoding, mask), seeds in evidence.order.items():
        change, stderr = mean_over_seeds(seeds)
        largest = max(map(max, seeds))
        rows.append(
            LabOrder(encoding=encoding, mask=mask, change=change, stderr=stderr, largest=largest)
        )
    return tuple(rows)


def extension_rows(evidence: Evidence) -> tuple[LabExtension, ...]:
    """Give what every method reads, before and after its LoRA steps."""
    rows = []
    for method, seeds in evidence.extensions.items():
        for when in seeds[0]:
            steps = evidence.setting.lora_steps if when == "after" else 0
            near, far, recall = (
                mean_over_seeds([seed[when][what] for seed in seeds])
                for what in ("near", "far", "recall")
            )
            rows.append(
                LabExtension(
                    method=method, steps=steps, near=near[0], near_stderr=near[1], far=far[0],
                    far_stderr=far[1], recall=recall[0], recall_stderr=recall[1],
                )
            )  # fmt: skip
    return tuple(rows)


def pair_rows(evidence: Evidence) -> tuple[LabPair, ...]:
    """Give what each rotary pair does."""
    if not evidence.pairs:
        return ()
    turns = wavelengths(inv_freq_of(spec_of(evidence.setting)))
    return tuple(
        LabPair(pair=pair, wavelength=wavelength, **_of_pair(evidence.pairs, pair))
        for pair, wavelength in enumerate(turns)
    )


def _of_pair(seeds: Sequence[Any], pair: int) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for what in ("slowed_near", "stopped_near", "left_far"):
        values = [seed["pairs"][pair][what] for seed in seeds]
        out[what], out[f"{what}_stderr"] = mean_over_seeds(values)
    return out


def steps_rows(evidence: Evidence) -> tuple[LabSteps, ...]:
    """Give the steps of the compared methods, of each seed."""
    return tuple(
        LabSteps(method=method, seed=seed, target=each["target"], steps=steps)
        for seed, each in zip(evidence.setting.seeds, evidence.steps, strict=False)
        for method, steps in each["steps"].items()
    )
