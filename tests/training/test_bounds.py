"""Bounds of recipe numbers: each field of each section refuses what lies outside, and names it."""

import dataclasses
import math

import pytest

from ctxext.api.train_base import check_budget
from ctxext.errors import BadInput
from ctxext.runs.recipe.config import DataConfig, LoraConfig, ParallelConfig, TrainConfig
from ctxext.runs.recipe.extend_config import ExtendConfig
from ctxext.runs.recipe.memory_config import MemoryConfig

SECTIONS = {
    "data": DataConfig, "lora": LoraConfig, "train": TrainConfig, "parallel": ParallelConfig,
    "memory": MemoryConfig, "extend": ExtendConfig,
}  # fmt: skip
NUMBERS = [
    (name, section, field.name)
    for name, section in SECTIONS.items()
    for field in dataclasses.fields(section)
    if field.type in (int, float, int | None, float | None)
]


def test_every_number_is_looked_at():
    assert len(NUMBERS) > 25


@pytest.mark.parametrize(("name", "section", "key"), NUMBERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1, 10**18, 10**400])
def test_numbers_outside_are_refused_with_the_bound(name, section, key, value):
    with pytest.raises(BadInput) as caught:
        section(**{key: value})
    assert f"{name}.{key} " in str(caught.value)
    assert any(w in str(caught.value) for w in ("has to be", "has more than 308 digits"))
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(("name", "section", "key"), NUMBERS)
def test_the_bounds_themselves_are_allowed(name, section, key):
    bounds = next(f for f in dataclasses.fields(section) if f.name == key).metadata["bounds"]
    for end in ("least", "most"):
        if end in bounds and (key, bounds[end]) != ("seq_length", 2**31 - 1):
            section(**{key: bounds[end]})


def test_words_are_named():
    with pytest.raises(BadInput, match=r"train.schedule is 'step'; there is cosine and constant"):
        TrainConfig(schedule="step")


@pytest.mark.parametrize("minutes", [0, -1, math.nan, math.inf, 1e300])
def test_a_budget_is_some_minutes(minutes):
    with pytest.raises(BadInput, match="positive number of minutes"):
        check_budget(minutes)
