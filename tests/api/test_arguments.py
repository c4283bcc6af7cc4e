"""The functions of `import ctxext` take what people write in Python."""

from importlib.metadata import version

import pytest

import ctxext
from ctxext.api._arguments import several, several_lengths
from ctxext.errors import BadInput


def test_lengths_and_names_as_people_write_them():
    assert several("a") == ["a"]
    assert several(("a", "b")) == ["a", "b"]
    assert several_lengths("8k,1k, 1024", "lengths") == [1024, 8192]
    assert several_lengths([2048, "1k"], "lengths") == [1024, 2048]
    with pytest.raises(BadInput, match="lengths is '8x'"):
        several_lengths(["8x"], "lengths")


def test_one_model_and_lengths_as_words(tiny_llama, book):
    once = ctxext.perplexity(str(tiny_llama), data=str(book), lengths="64,128", tokens=512)
    listed = ctxext.perplexity([str(tiny_llama)], data=str(book), lengths=[128, 64], tokens=512)
    assert [row.nll for row in once.results] == [row.nll for row in listed.results]
    found = ctxext.retrieval(str(tiny_llama), lengths="64", tasks="copy", samples=1)
    assert {row.task for row in found.results} == {"copy"}
    extended = ctxext.extend(str(tiny_llama), target="1k", dry_run=True)
    assert extended.window.target == 1024


def test_a_shell_completes_every_name():
    assert {"extend", "finetune", "perplexity", "BadInput"} <= set(dir(ctxext))
    assert not [name for name in dir(ctxext) if name.startswith("_")]
    assert ctxext.__version__ == version("ctxext")


def test_a_config_made_in_python_is_checked_like_a_recipe(tiny_llama, tmp_path):
    with pytest.raises(ctxext.BadInput, match=r"train\.steps is -3"):
        ctxext.TrainConfig(seq_length=64, steps=-3)
    train = ctxext.TrainConfig(seq_length=64, steps=2)
    config = ctxext.FinetuneConfig(data=ctxext.DataConfig("builtin:python/train"), train=train)
    plan = ctxext.plan_finetune(str(tiny_llama), recipe=config)
    sections = {"data": {"source": "builtin:python/train"}, "train": {"seq_length": 64, "steps": 2}}
    other = ctxext.plan_finetune(str(tiny_llama), recipe=sections)
    assert plan.stints[0].steps == other.stints[0].steps == 2
