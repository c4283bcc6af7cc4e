"""A head of its own in a checkpoint that says it is tied: told, counted, and written down."""

import json

import pytest

from support.checkpoints import build_tiny
from support.command import run_ctxext


def tied_with(folder, change, **settings):
    """A tied checkpoint that also stores a head, which `change` makes of its embedding."""
    from safetensors.torch import load_file, save_file

    base = build_tiny(folder, tied=True, **settings)
    tensors = load_file(base / "model.safetensors")
    tensors["lm_head.weight"] = change(tensors["model.embed_tokens.weight"].clone())
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    return base, tensors


def last_is_another(weight):
    weight[-1, -1] += 1
    return weight


def test_a_head_of_its_own_is_no_longer_tied(tmp_path):
    from transformers import AutoModelForCausalLM

    base, tensors = tied_with(tmp_path / "base", last_is_another)
    seen = json.loads(run_ctxext("inspect", base, "--json").stdout)
    assert any("lm_head.weight is stored and is not the embedding" in w for w in seen["warnings"])
    assert seen["parameters"] == sum(tensor.numel() for tensor in tensors.values())
    out = tmp_path / "out"
    done = run_ctxext("extend", base, "--target", 512, "-o", out, "--check", "--json")
    document = json.loads(done.stdout)
    assert document["config_diff"]["tie_word_embeddings"] == [True, False]
    assert any("the flag is set to false" in warning for warning in document["warnings"])
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False
    head = AutoModelForCausalLM.from_pretrained(out).lm_head.weight
    assert (head == tensors["lm_head.weight"]).all()
    again = json.loads(run_ctxext("inspect", out, "--json").stdout)
    assert not any("is not the embedding" in warning for warning in again["warnings"])


@pytest.mark.parametrize("change", [lambda w: w, lambda w: w.double()], ids=["equal", "dtype"])
def test_a_head_that_cannot_be_told_from_the_embedding_stays_tied(tmp_path, change):
    base, tensors = tied_with(tmp_path / "base", change)
    seen = json.loads(run_ctxext("inspect", base, "--json").stdout)
    assert not any("is not the embedding" in warning for warning in seen["warnings"])
    numbers = sum(tensor.numel() for tensor in tensors.values())
    assert seen["parameters"] == numbers - tensors["lm_head.weight"].numel()
    done = run_ctxext("extend", base, "--target", 512, "--dry-run", "--json")
    assert "tie_word_embeddings" not in json.loads(done.stdout)["config_diff"]
