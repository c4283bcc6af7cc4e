import pytest
import yaml

from ctxext.errors import BadInput
from ctxext.pipeline.recipe import build, override, read_recipe
from ctxext.training.config import FinetuneConfig


def read(tmp_path, text):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    return read_recipe(path)


def test_values_as_people_write_them(tmp_path):
    values = read(
        tmp_path, "train: {lr: 1e-4, seq_length: 32k, steps: 5}\nlora: {targets: [q_proj]}"
    )
    config = build(FinetuneConfig, values, where="recipe")
    assert config.train.lr == 1e-4
    assert config.train.seq_length == 32768
    assert config.lora.targets == ("q_proj",)
    assert config.train.batch_size == 1


def test_a_resolved_recipe_reads_back_as_itself(tmp_path):
    config = build(FinetuneConfig, {"data": {"source": "x.txt"}}, where="recipe")
    text = yaml.safe_dump(config.to_dict())
    assert build(FinetuneConfig, read(tmp_path, text), where="recipe") == config


def test_overrides_win_and_keep_the_rest():
    values = override({"train": {"lr": 1, "steps": 2}}, {"train.lr": 3.0}, flag="--set")
    assert values == {"train": {"lr": 3.0, "steps": 2}}
    with pytest.raises(BadInput, match=r"write SECTION\.KEY=VALUE"):
        override({}, {"lr": 1}, flag="--set")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {learning_rate: 1}", "no key 'learning_rate'"),
        ("train: {steps: yes}", "train.steps has to be a whole number"),
        ("train: {steps: 2.5}", "train.steps has to be a whole number"),
        ("train: {lr: fast}", "train.lr has to be a number"),
        ("train: {steps: -1}", "train.steps is -1"),
        ("train: {schedule: linear}", "there is cosine and constant"),
        ("lora: {targets: 3}", "list of names"),
        ("trian: {}", "did you mean train"),
        ("train: 3", "has to be a section"),
    ],
)
def test_wrong_values_are_named(tmp_path, text, message):
    with pytest.raises(BadInput) as caught:
        build(FinetuneConfig, read(tmp_path, text), where="recipe")
    assert message in f"{caught.value} {caught.value.hint}"
