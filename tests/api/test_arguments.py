"""The functions of `import ctxext` take what people write in Python."""

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
    assert extended.target == 1024


def test_a_shell_completes_every_name():
    assert {"extend", "finetune", "perplexity", "BadInput"} <= set(dir(ctxext))
    assert not [name for name in dir(ctxext) if name.startswith("_")]
