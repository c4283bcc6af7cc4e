"""`inspect --probe`: a random model of the class is asked, and disagreement is said."""

import json

import pytest

from ctxext import inspect
from ctxext.checkpoints.live.probe import probe
from ctxext.checkpoints.opened import open_checkpoint
from support.command import run_ctxext
from support.every_family import decoder


def written(folder, name, **changes):
    """A folder with the config alone of a small decoder of any type."""
    folder.mkdir()
    document = {**decoder(name)[1], **changes}
    (folder / "config.json").write_text(json.dumps(document))
    return folder


@pytest.mark.parametrize(
    ("name", "moves"),
    [
        ("llama", True), ("gemma3_text", True), ("deepseek_v3", True), ("smollm3", True),
        ("gpt_neox", True), ("lfm3", True), ("qwen3_next", True), ("cohere2", True),
        ("gpt2", None), ("gptj", None), ("jamba", None), ("mpt", None), ("falcon+alibi", False),
    ],
)  # fmt: skip
def test_what_was_read_is_what_a_random_model_does(tmp_path, name, moves):
    result = inspect(str(written(tmp_path / "base", name)), probe=True)
    assert (result.probe.moves, result.probe.agrees) == (moves, True), result.probe.said


def test_a_reading_that_is_not_the_class_s_is_said(tmp_path):
    folder = written(tmp_path / "base", "llama")
    opened = open_checkpoint(str(folder), weights=False)
    rope = opened.position.rope
    object.__setattr__(rope, "inv_freq", [f * 2 for f in rope.inv_freq])
    asked = probe(opened.source, opened.position)
    assert not asked.agrees
    assert "inv_freq" in asked.said
    object.__setattr__(opened.position, "encoding", "learned")
    assert not probe(opened.source, opened.position).agrees


def test_the_command_says_it(tmp_path):
    folder = written(tmp_path / "base", "qwen2")
    done = run_ctxext("inspect", folder, "--probe", "--json")
    assert done.returncode == 0, done.stderr
    asked = json.loads(done.stdout)["probe"]
    assert asked["agrees"]
    assert asked["moves"]
    assert "turns by the frequencies read" in asked["said"]


def test_a_class_that_nobody_has_is_one_sentence(tmp_path):
    folder = written(tmp_path / "base", "llama", model_type="nobody_has_it")
    done = run_ctxext("inspect", folder, "--probe")
    assert done.returncode == 2
    assert "transformers knows no decoder" in done.stderr
