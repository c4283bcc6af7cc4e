import pytest
import yaml

from ctxext.cli._options import parse_scalar
from ctxext.errors import BadInput
from ctxext.runs.build import build
from ctxext.runs.recipe.config import FinetuneConfig
from ctxext.runs.recipe.reader import override, read_recipe


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


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("10", 10), ("-3", -3), ("+3", 3), ("0", 0), ("1e-4", 1e-4), ("1E3", 1000.0), ("1.5", 1.5),
        (".5", 0.5), ("2.", 2.0), ("0.0", 0.0), ("-1.5e+2", -150.0), (".inf", float("inf")),
        ("010", "010"), ("1:30", "1:30"), ("12:30:00", "12:30:00"), ("1:30.5", "1:30.5"),
        ("0x1F", "0x1F"), ("0b11", "0b11"), ("0o17", "0o17"), ("1_000", "1_000"),
        ("1_0.5", "1_0.5"), ("00.5", "00.5"),
    ],
)  # fmt: skip
def test_numbers_are_decimal_and_everything_else_a_word(tmp_path, written, value):
    found = read(tmp_path, f"a: {{b: {written}}}")["a"]["b"]
    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize("written", ["010", "1:30", "12:30:00", "0x1F", "1_000"])
@pytest.mark.parametrize("key", ["train.steps", "train.save_every", "train.lr"])
def test_other_numbers_are_refused(tmp_path, written, key):
    section, name = key.split(".")
    values = read(tmp_path, f"{section}: {{{name}: {written}}}")
    with pytest.raises(BadInput, match=rf"{key} (has to be|is) .*'{written}'"):
        build(FinetuneConfig, values, where="recipe")
    changed = override({}, {key: parse_scalar(written, flag=f"--set {key}")}, flag="--set")
    with pytest.raises(BadInput, match=rf"{key} (has to be|is) .*'{written}'"):
        build(FinetuneConfig, changed, where="--set")


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


def test_several_texts_as_a_list_or_a_section(tmp_path):
    text = "data: [{source: a.txt, weight: 2}, {source: b.txt, min_tokens: 32k, field: body}]"
    values = read(tmp_path, text)
    config = build(FinetuneConfig, values, where="recipe")
    assert [(t.source, t.weight, t.min_tokens, t.field) for t in config.data.texts] == [
        ("a.txt", 2.0, 0, "text"),
        ("b.txt", 1.0, 32768, "body"),
    ]
    assert config.data.documents == "stream"
    longer = override(values, {"data.documents": "separate"}, flag="--set")
    separate = build(FinetuneConfig, longer, where="recipe")
    assert separate.data.sources == config.data.sources
    assert separate.data.documents == "separate"
    again = read(tmp_path, yaml.safe_dump(separate.to_dict()))
    assert build(FinetuneConfig, again, where="recipe") == separate
    flag = override(values, {"data.source": "c.txt", "data.sources": []}, flag="flag")
    assert [t.source for t in build(FinetuneConfig, flag, where="recipe").data.texts] == ["c.txt"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: [{source: a, weight: 0}]", "data.sources a.weight is 0.0, and has to be positive"),
        ("data: [{source: a, weight: -1}]", "has to be positive"),
        ("data: [{source: a, weight: .nan}]", "has to be positive"),
        ("data: [{weight: 1}]", "has no source"),
        ("data: [{source: a, wieght: 1}]", "did you mean weight"),
        ("data: [{source: a, min_tokens: 9, max_tokens: 8}]", "min_tokens 9 is above max_tokens 8"),
        ("data: [{source: a, min_tokens: -9}]", "a.min_tokens is -9, and has to be at least 0"),
        ("data: [a.txt]", "list of sections"),
        ("data: {sources: {source: a}}", "list of sections"),
        ("data: {source: a, sources: [{source: b}]}", "contradict each other"),
        ("data: {documents: packed}", "there is stream and separate"),
        ("train: {pose_target: 128k, pose_chunks: 1}", "train.pose_chunks is 1"),
        ("{train: {pose_target: 8k}, data: {documents: separate}}", "contradict each other"),
        ("train: [{steps: 1}]", "has to be a section"),
    ],
)
def test_wrong_data_is_named(tmp_path, text, message):
    with pytest.raises(BadInput) as caught:
        build(FinetuneConfig, read(tmp_path, text), where="recipe")
    assert message in f"{caught.value} {caught.value.hint}"
