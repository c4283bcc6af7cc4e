"""Recipes and values of --set that somebody broke: stages with sane numbers, or one sentence."""

import dataclasses
import math
import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import given, strategies as st

from ctxext.cli._options import parse_set
from ctxext.runs.recipe.config import FinetuneConfig
from ctxext.runs.recipe.reader import override, read_recipe
from ctxext.training.run.stages import stages_of
from support.fuzzing import answers, as_text, broken, broken_bytes, fuzzed

RECIPE = {
    "extend": {"method": "yarn", "target": "1k", "parameters": {"beta_fast": 32.0},
               "sliding_window": "keep"},
    "data": {"sources": [{"source": "a.txt", "weight": 2, "min_tokens": "1k"},
                         {"source": "hf:org/name", "field": "body"}], "documents": "stream"},
    "lora": {"rank": 8, "alpha": 16, "dropout": 0.1, "targets": ["q_proj", "v_proj"]},
    "train": {"seq_length": "1k", "steps": 20, "lr": 1e-4, "schedule": "cosine", "seed": 3,
              "warmup_steps": 2, "weight_decay": 0.1, "max_grad_norm": 1.0, "save_every": 5},
    "memory": {"recompute": "auto", "mlp_tile": "1k", "limit_gib": 4},
    "parallel": {"context": 2, "shard": 2},
    "stages": [{"extend": {"target": "512"}, "train": {"steps": 5, "lr": 1e-3}},
               {"train": {"steps": 7}, "data": [{"source": "b.txt"}]}],
}  # fmt: skip
TEXT = yaml.safe_dump(RECIPE).encode()
ODD = [
    "!!int ''", "!!float x", "!!bool maybe", "!!timestamp foo", "!!binary '*'", "!!null x",
    "!!python/object/apply:os.system [id]", "&a [*a]", "*a", "2020-13-45", "1e999", "-.inf",
    ".nan", "0x" + "f" * 99, "9" * 400, "9" * 5000, "{<<: 1}", "? [a]", "[", "'", "\t", "\0",
    "!x y", "%YAML 3.0", "---\n---", "=", "1:2:3", "{a: 1, a: 2}", "\u0085", "~", "²",
]  # fmt: skip
YAML = st.sampled_from(ODD)
KEYS = [f"{section}.{key}" for section in ("lora", "train", "memory", "parallel", "extend", "data")
        for key in RECIPE[section]]  # fmt: skip


@pytest.fixture(scope="module")
def path():
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as place:
        yield Path(place) / "recipe.yaml"


def numbers(value):
    if dataclasses.is_dataclass(value):
        value = [getattr(value, field.name) for field in dataclasses.fields(value)]
    if isinstance(value, (list, tuple)):
        return [number for each in value for number in numbers(each)]
    return [value] if isinstance(value, (int, float)) else []


def sane(stages):
    """What is accepted says the same when it is read again, and has no number that is none."""
    for stage in stages or ():
        assert all(math.isfinite(number) and abs(number) < 1e16 for number in numbers(stage.config))
        assert isinstance(stage.config, FinetuneConfig)
        yaml.safe_dump(stage.config.to_dict())


def read(path, content):
    path.write_bytes(content)
    return stages_of(read_recipe(path), Path("out"))


@fuzzed
@given(document=broken(RECIPE))
def test_broken_values_of_recipes(path, document):
    sane(answers(read, path, as_text(document).encode("utf-8", "surrogatepass"))[0])


@fuzzed
@given(content=broken_bytes(TEXT))
def test_broken_bytes_of_recipes(path, content):
    sane(answers(read, path, content)[0])


@fuzzed
@given(data=st.data())
def test_yaml_of_every_kind_in_its_place(path, data):
    document = {**RECIPE}
    section = data.draw(st.sampled_from(["lora", "train", "memory", "parallel"]))
    key = data.draw(st.sampled_from(sorted(RECIPE[section])))
    document[section] = {**RECIPE[section], key: "PLACE"}
    text = yaml.safe_dump(document).replace("PLACE", data.draw(YAML))
    sane(answers(read, path, text.encode())[0])


@fuzzed
@given(key=st.sampled_from(KEYS), text=st.one_of(YAML, st.text(max_size=20)))
def test_broken_texts_behind_set(key, text):
    def changed():
        values = override({"train": {"steps": 1}}, parse_set([f"{key}={text}"]), flag="--set")
        return stages_of(values, Path("out"))

    sane(answers(changed)[0])
