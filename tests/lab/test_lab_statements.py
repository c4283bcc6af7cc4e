"""Every statement can come out true and false: the signs of its differences."""

import random
from dataclasses import replace

import pytest

from ctxext.lab.measures import Measured
from ctxext.lab.setting import PRESETS
from ctxext.lab.statements import CHECKS, Evidence, verdicts
from ctxext.lab.variants import UNTRAINED_ROWS

SETTING = replace(PRESETS["smoke"], seeds=(0, 1, 2), windows=6)
BUCKETS = len(SETTING.buckets)  # two in the window, two beyond


def noisy(value: float, seed: int, rows: int = 6) -> list[float]:
    rng = random.Random(f"{value} {seed}")
    return [value + rng.gauss(0, 0.001) for _ in range(rows)]


def measured(near: float, far: float, gain_near: float, gain_far: float) -> list[Measured]:
    """Losses in and past the window, and gains of strings by distance: nearest, and the others."""
    out = []
    for seed in SETTING.seeds:
        columns = [noisy(near if i < 2 else far, seed + 10 * i) for i in range(BUCKETS)]
        gains = {}
        for length in (SETTING.train_length, SETTING.longest):
            distances = SETTING.distances(length)
            gains |= {
                (length, d): noisy(gain_near if d == distances[0] else gain_far, seed + d)
                for d in distances
            }
        out.append(Measured([list(row) for row in zip(*columns, strict=True)], gains, {}))
    return out


def extension(near: float, far: float, recall: float) -> dict[str, list[float]]:
    return {"near": noisy(near, 1), "far": noisy(far, 2), "recall": noisy(recall, 3)}


def bands(fast: dict[str, float], slow: dict[str, float]) -> list[dict]:
    return [
        {
            "bands": {
                name: {what: noisy(value, seed) for what, value in values.items()}
                for name, values in (("fast", fast), ("slow", slow))
            }
        }
        for seed in SETTING.seeds
    ]


def world(*, as_published: bool) -> Evidence:
    """Make up measurements under which every statement is true, or every one is false."""
    true = as_published
    seeds = SETTING.seeds
    return Evidence(
        setting=SETTING,
        measured={
            ("sinusoidal", ""): measured(2.0, 2.5 if true else 1.9, 1, 1),
            ("learned", ""): measured(2.0, 2.0, 1, 1),
            ("learned", UNTRAINED_ROWS): measured(2.0, 3.0 if true else 2.0, 1, 1),
            ("rope", ""): measured(2.0, 4.0 if true else 2.0, 3, 3 if true else 0.5),
            ("alibi", ""): measured(2.0, 2.0 if true else 2.5, 2, 1 if true else 2.5),
            ("none", ""): measured(2.05 if true else 2.5, 2.3 if true else 3.5, 1, 1),
        },
        order={
            ("none", "none"): [[1e-15 if true else 0.1] * 6 for _ in seeds],
            ("none", "causal"): [noisy(0.3, seed) if true else [1e-6] * 6 for seed in seeds],
        },
        no_row=[true] * 3,
        extensions={
            "as trained": [{"before": extension(2.0, 4.0, 0.0)} for _ in seeds],
            "linear": [
                {"before": extension(2.5 if true else 1.9, 3.0, 0.1), "after": extension(2, 2, 0.5)}
                for _ in seeds
            ],
            "yarn": [{"after": extension(2, 2, (1.5 if true else 0.1) + s / 99)} for s in seeds],
        },
        pairs=bands(
            {"slowed_near": 0.5 if true else 0.1, "left_far": 2.0 if true else 0.1},
            {"slowed_near": 0.2, "left_far": 1.0},
        ),
        steps=[
            {"target": 2.0, "steps": {"linear": 40 + s, "yarn": 10 if true else 80}} for s in seeds
        ],
    )


@pytest.mark.parametrize(("true", "word"), [(True, "holds"), (False, "does not hold")])
def test_every_statement_comes_out_as_what_was_measured(true, word):
    statements = verdicts(world(as_published=true))
    assert len(statements) == len(CHECKS)
    assert {row.key: row.verdict for row in statements} == {row.key: word for row in statements}
    assert len({row.key for row in statements}) == len(statements)


def test_nothing_is_said_of_what_was_not_trained():
    whole = world(as_published=True)
    part = replace(
        whole, measured={("alibi", ""): whole.measured["alibi", ""]}, order={}, no_row=[],
        extensions={}, pairs=[], steps=[],
    )  # fmt: skip
    assert {row.key for row in verdicts(part)} == {"alibi-flat", "alibi-recall"}


def test_a_method_that_never_reached_the_loss_counts_with_all_its_steps():
    never = [{"target": 2.0, "steps": {"linear": 60 + seed, "yarn": None}} for seed in range(3)]
    evidence = replace(
        world(as_published=True), steps=never, setting=replace(SETTING, most_lora_steps=120)
    )
    row = {row.key: row for row in verdicts(evidence)}["yarn-needs-fewer-steps"]
    assert row.verdict == "does not hold"
    assert row.difference == pytest.approx(-0.67, abs=0.05)


def test_counts_that_agree_by_their_grid_are_not_sure():
    """They are taken every five steps: 10 and 5 may be 6 and 5."""
    alike = [{"target": 2.0, "steps": {"linear": 10, "yarn": 5}} for _ in range(3)]
    row = {row.key: row for row in verdicts(replace(world(as_published=True), steps=alike))}[
        "yarn-needs-fewer-steps"
    ]
    assert row.stderr == pytest.approx((25 / 12 * (11**-2 + 6**-2) / 3) ** 0.5)
    assert row.verdict == "undecided"
