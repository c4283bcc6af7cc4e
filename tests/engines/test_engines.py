"""What engines make of each method: every pair has a verdict, and the notes say the bad ones."""

from typing import get_args

import pytest

from ctxext.engines import ENGINES, Reading
from ctxext.engines.notes import engine_notes, first_transformers, serve_commands
from ctxext.methods import METHODS


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_every_pair_has_a_verdict_that_is_said(method, engine):
    reading = engine.reading(METHODS[method].rope_type)
    assert reading in get_args(Reading)
    said = " ".join(engine_notes(method, {}, 8192))
    assert (engine.name in said) == (reading != "read")
    if reading in ("window-again", "old-window"):
        assert f"{engine.window_flag} " in f"{said} "


def test_what_was_read_in_their_sources():
    """By hand: the matrix that was published with the sources."""
    bad = {
        (engine.name, method): engine.reading(METHODS[method].rope_type)
        for engine in ENGINES
        for method in METHODS
        if engine.reading(METHODS[method].rope_type) != "read"
    }
    assert bad == {
        ("vLLM", "linear"): "window-again", ("SGLang", "linear"): "window-again",
        ("TGI", "linear"): "ignored",
        ("vLLM", "dynamic"): "old-window", ("SGLang", "dynamic"): "old-window",
        ("llama.cpp", "dynamic"): "lost", ("Ollama", "dynamic"): "lost",
        ("ExLlamaV3", "dynamic"): "lost",
    }  # fmt: skip


def test_notes_join_engines_that_err_alike():
    assert engine_notes("linear", {}, 8192) == [
        "linear scaling is ignored by TGI",
        "the window is multiplied by the factor once more in vLLM and SGLang: "
        "pass --max-model-len / --context-length 8192",
    ]
    assert engine_notes("yarn", {"rope_type": "yarn", "factor": 4.0}, 8192) == []
    (note,) = engine_notes("yarn", {"beta_fast": 16.0}, 8192)
    assert note == "beta_fast is ignored by llama.cpp and TGI"
    assert "older vLLM, SGLang" in engine_notes("yarn", {"attention_factor": 1.0}, 8192)[0]
    assert engine_notes("of another version", {}, 8192) == []


def test_each_says_where_it_was_read_and_who_is_served():
    assert all("/" in engine.source and engine.name for engine in ENGINES)
    assert [engine.rank for engine in ENGINES] == sorted({engine.rank for engine in ENGINES})
    commands = dict(serve_commands("me/m", 32768))
    assert commands["vLLM"] == "vllm serve me/m --max-model-len 32768"
    assert list(commands) == ["vLLM", "SGLang", "llama.cpp", "Ollama", "MLX"]


@pytest.mark.parametrize(
    ("method", "model_type", "release"),
    [
        ("yarn", "llama", "4.51"), ("yarn", "mistral", "4.51"), ("linear", "llama", "4.31"),
        ("linear", "mistral", "4.48"), ("llama3", "mistral", "4.48"), ("ntk", "mistral", "any"),
    ],
)  # fmt: skip
def test_since_which_transformers(method, model_type, release):
    assert first_transformers(method, model_type) == release
