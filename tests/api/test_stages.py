"""The list `stages` of a recipe: what each stage is made of, and what is refused."""

import pytest
import yaml

from ctxext.errors import BadInput
from ctxext.runs.recipe.extend_config import ExtendConfig
from ctxext.runs.recipe.reader import override, read_recipe
from ctxext.training.run.stages import stages_of, to_compare, whole_recipe

RECIPE = """
extend: {method: yarn, target: 128k, parameters: {beta_fast: 16}}
data: {source: a.txt, documents: separate}
lora: {rank: 4}
train: {seq_length: 16k, steps: 7, lr: 1e-4, seed: 3}
"""


def read(tmp_path, text):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    return read_recipe(path)


def staged(tmp_path, stages, top=RECIPE):
    return stages_of(read(tmp_path, f"{top}\nstages: {stages}"), tmp_path / "out")


def test_a_recipe_without_stages_is_one_run_in_the_folder_itself(tmp_path):
    (only,) = stages_of(read(tmp_path, RECIPE), tmp_path / "out")
    assert (only.index, only.name, only.folder) == (None, "", tmp_path / "out")
    assert only.config.extend == ExtendConfig("yarn", 131072, None, {"beta_fast": 16})
    (plain,) = stages_of({"data": {"source": "a.txt"}}, tmp_path)
    assert plain.config.extend is None
    assert "extend" not in plain.config.to_dict()


def test_a_stage_overrides_key_by_key(tmp_path):
    one, two = staged(
        tmp_path,
        "[{extend: {target: 32k}, train: {steps: 100}},"
        " {data: {source: b.txt}, train: {seq_length: 64k, lr: 2.0}, parallel: {context: 2}}]",
    )
    assert [s.folder for s in (one, two)] == [tmp_path / "out/stages/1", tmp_path / "out/stages/2"]
    assert one.config.extend == ExtendConfig("yarn", 32768, None, {"beta_fast": 16})
    assert (one.config.train.steps, one.config.train.seq_length) == (100, 16384)
    assert (one.config.train.lr, one.config.train.seed, one.config.lora.rank) == (1e-4, 3, 4)
    assert two.config.extend == ExtendConfig("yarn", 131072, None, {"beta_fast": 16})
    assert (two.config.train.steps, two.config.train.seq_length) == (7, 65536)
    assert (two.config.data.source, two.config.data.documents) == ("b.txt", "separate")
    assert (one.config.parallel.context, two.config.parallel.context) == (1, 2)


def test_a_key_takes_the_place_of_the_one_that_says_the_same(tmp_path):
    factor, method, same, several, none = staged(
        tmp_path,
        "[{extend: {factor: 4}}, {extend: {method: linear}}, {extend: {method: yarn}},"
        " {data: [{source: b.txt}, {source: c.txt}]}, {extend: null}]",
    )
    assert (factor.config.extend.target, factor.config.extend.factor) == (None, 4.0)
    assert method.config.extend.parameters == {}, "yarn's beta_fast is no parameter of linear"
    assert same.config.extend.parameters == {"beta_fast": 16}
    assert [text.source for text in several.config.data.texts] == ["b.txt", "c.txt"]
    assert none.config.extend is None


def test_the_whole_recipe_gives_the_same_stages_again(tmp_path):
    stages = staged(
        tmp_path,
        "[{extend: null, train: {seq_length: 0}}, {data: [{source: b.txt, weight: 2}]},"
        " {extend: {factor: 4}, train: {lr: 1}}]",
    )
    whole = whole_recipe([stage.config.to_dict() for stage in stages], staged=True)
    text = yaml.safe_dump(whole, sort_keys=False)
    assert "*id" not in text, "aliases cannot be read back"
    again = stages_of(read(tmp_path, text), tmp_path / "out")
    assert again == stages
    assert whole_recipe([stage.config.to_dict() for stage in again], staged=True) == whole
    assert set(to_compare(whole)) == {"lora", "train", "stages"}
    (only,) = stages_of(read(tmp_path, RECIPE), tmp_path)
    plain = whole_recipe([only.config.to_dict()], staged=False)
    assert to_compare(plain) == plain == only.config.to_dict()


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ("[{}, {train: {foo: 1}}]", "stages[1].train.foo is no key"),
        ("[{}, {train: {step: 1}}]", "did you mean steps"),
        ("[{}, {trian: {}}]", "stages[1].trian is no key"),
        ("[{data: [{sauce: a}]}]", "stages[0].data.sources[0] has no key 'sauce'"),
        ("[{extend: {targets: 1}}]", "stages[0].extend.targets is no key"),
        ("[]", "list of at least one stage, and is []"),
        ("{train: {}}", "list of at least one stage"),
        ("null", "list of at least one stage"),
        ("[3]", "stages[0] has to be sections"),
        ("[{train: 3}]", "stages[0].train has to be a section"),
        ("[{lora: {rank: 8}}]", "stages[0].lora: what is trained stays the same"),
        ("[{}, {train: {what: full}}]", "stages[1].train.what is set, and stays the same"),
        ("[{train: {quantize: 4bit}}]", "stages[0].train.quantize is set"),
        ("[{train: {seed: 1}}]", "stages[0].train.seed is set"),
        ("[{}, {train: {lr: fast}}]", "stages[1].train.lr has to be a number"),
        ("[{}, {train: {lr: -1}}]", "stages[1]: train.lr is -1.0"),
        ("[{extend: {target: 8k, factor: 2}}]", "stages[0]: extend.target and extend.factor"),
        ("[{extend: {method: yarm}}]", "stages[0]: unknown method 'yarm' did you mean yarn"),
        ("[{extend: {parameters: 3}}]", "stages[0].extend.parameters has to be keys with values"),
        ("[{extend: {sliding_window: maybe}}]", "stages[0]: extend.sliding_window is 'maybe'"),
    ],
)
def test_wrong_stages_are_named(tmp_path, stages, message):
    with pytest.raises(BadInput) as caught:
        staged(tmp_path, stages)
    assert message in f"{caught.value} {caught.value.hint}"


def test_a_flag_reaches_all_stages_or_is_refused(tmp_path):
    recipe = read(tmp_path, RECIPE + "stages: [{train: {steps: 1}}, {data: [{source: b.txt}]}]")
    given = override(recipe, {"train.lr": 3.0, "extend.method": "linear"}, flag="--set")
    assert {s.config.train.lr for s in stages_of(given, tmp_path)} == {3.0}
    for path, message in (
        ("train.steps", r"flag train\.steps is for all stages.*, and stages\[0\]\.train\.steps is"),
        ("data.sources", r"and stages\[1\]\.data\.sources is set"),
        ("data.source", r"and stages\[1\]\.data\.sources is set"),
        ("stages[0].train.steps", "nothing reaches into the stages"),
        ("stages.0.train.steps", "nothing reaches into the stages"),
        ("stages", "nothing reaches into the stages"),
    ):
        with pytest.raises(BadInput, match=message):
            override(recipe, {path: 1}, flag="flag")
    factor = read(tmp_path, RECIPE + "stages: [{extend: {factor: 8}}]")
    with pytest.raises(BadInput, match=r"and stages\[0\]\.extend\.factor is set"):
        override(factor, {"extend.target": "64k"}, flag="--set")
