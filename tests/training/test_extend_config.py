import pytest

from ctxext.errors import BadInput
from ctxext.runs.build import build
from ctxext.runs.recipe.extend_config import ExtendConfig


def read(**values):
    return build(ExtendConfig, values, where="recipe.extend")


def test_values_as_people_write_them():
    got = read(method="linear", target="128k", original_length="8k", parameters={"a": 1})
    assert (got.target, got.original_length, got.parameters) == (131072, 8192, {"a": 1})
    assert read(factor=8).factor == 8.0
    assert read(target=None, factor=2.5).target is None


@pytest.mark.parametrize(
    ("value", "meant"),
    [("keep", "keep"), ("off", None), (False, None), ("4k", 4096), (512, 512)],  # YAML: off = false
)
def test_sliding_windows(value, meant):
    assert read(sliding_window=value).sliding == meant


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"target": 1024, "factor": 8}, "contradict each other"),
        ({"method": "yarm"}, "unknown method"),
        ({"target": 0}, "extend.target is 0"),
        ({"original_length": -1}, "extend.original_length is -1"),
        ({"sliding_window": True}, "extend.sliding_window is True"),
        ({"sliding_window": 0}, "extend.sliding_window is 0"),
        ({"sliding_window": "some"}, "extend.sliding_window is 'some'"),
        ({"factor": "eight"}, "extend.factor has to be a number"),
        ({"parameters": [1]}, "extend.parameters has to be keys with values"),
    ],
)
def test_wrong_values_are_named(values, message):
    with pytest.raises(BadInput) as caught:
        read(**values)
    assert message in str(caught.value)
