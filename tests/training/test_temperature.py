"""`--train temperature`: scores of attention without positions, folded into the queries."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import ctxext
import ctxext.lab.decoder
from ctxext.checkpoints.live.load import load_model
from ctxext.checkpoints.opened import open_checkpoint
from ctxext.checkpoints.weights.files import read_weights
from ctxext.errors import BadInput
from ctxext.runs.recipe.reader import find_recipe, read_recipe
from ctxext.training.model.temperature import train_temperature
from support.checkpoints import build_tiny
from support.command import run_ctxext
from support.families import build_family
from support.not_rotary import SIZES, build_not_rotary

IDS = torch.arange(100)[None] * 7 % 251
STILL = {
    "jamba": SIZES["jamba"],
    "granitemoehybrid": {"time_step_limit": [0.0, 1e9], "layer_types": ["mamba", "attention"],
                         "num_hidden_layers": 2},
    "nemotron_h": {"time_step_limit": [0.0, 1e9]},
    "smollm3": {"num_hidden_layers": 4, "no_rope_layers": [1, 1, 1, 0]},
    "ctxext_lab": {"position_encoding": "none", "num_hidden_layers": 2},
}  # fmt: skip


def stopped(folder, family="llama", **changes):
    """A tiny rope of which every pair stands still, as `--method drop` writes it."""
    build_tiny(folder, family, **changes)
    config = json.loads((folder / "config.json").read_text())
    block = {
        "rope_type": "longrope", "rope_theta": 10_000.0, "factor": 1.0,
        "original_max_position_embeddings": 128, "attention_factor": 1.0,
        "short_factor": [1e9] * 8, "long_factor": [1e9] * 8,
    }  # fmt: skip
    config |= {"rope_parameters": block, "rope_scaling": block, "rope_theta": 10_000.0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def built(folder, name):
    if name in STILL:
        return build_family(folder, name, **STILL[name])
    return stopped(folder, name, vocabulary=272)


def live(base, per_head, scale):
    """The base with factors on its queries, as a run trains it."""
    opened = open_checkpoint(str(base))
    model = load_model(opened.source, opened.position, dtype="float32")
    model = train_temperature(model, read_weights(base), opened.position, per_head=per_head)
    for name, parameter in model.named_parameters():
        if name.endswith("ctxext_scale"):
            parameter.data = scale(name, parameter.data)
    return model.eval()


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def recipe(book, what, **train):
    sizes = {"seq_length": 64, "steps": 3, "batch_size": 2, "gradient_accumulation": 1, "lr": 0.1}
    return {
        "data": {"source": str(book)},
        "train": {**sizes, "warmup_steps": 0, "what": what, **train},
    }


@pytest.mark.parametrize("what", ["temperature", "head-temperature"])
@pytest.mark.parametrize("name", ["llama", "qwen2", *STILL])
def test_the_fold_gives_the_logits_of_the_live_factors(tmp_path, book, name, what):
    base, out = built(tmp_path / name, name), tmp_path / "run"
    settings = recipe(book, what)
    ctxext.finetune(str(base), output_dir=out, recipe=settings, device="cpu", dtype="float32")
    trained = load_file(out / "checkpoints/step-3/trained.safetensors")
    assert all(name.endswith("ctxext_scale") for name in trained)
    assert not any(torch.equal(t, torch.ones_like(t)) for t in trained.values())
    if what == "temperature":
        assert [t.shape for t in trained.values()] == [(1,)]
    scaled = live(base, what != "temperature", lambda name, _: trained["model." + name])
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    merged = AutoModelForCausalLM.from_pretrained(out / "merged", dtype=torch.float32).eval()
    assert torch.allclose(logits(merged), logits(scaled), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(logits(merged), logits(plain.eval()), atol=1e-3)
    before, after = (
        load_file(base / "model.safetensors"),
        load_file(out / "merged/model.safetensors"),
    )
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed
    assert all("q_proj" in key for key in changed)
    if name == "smollm3":  # which turns in its other layers
        assert {key.split(".")[2] for key in changed} == {"3"}


def test_one_norm_of_all_heads_takes_one_number(tmp_path, book):
    base = stopped(tmp_path / "qwen3", "qwen3")
    with pytest.raises(BadInput, match="share one norm") as caught:
        ctxext.finetune(
            str(base), output_dir=tmp_path / "run", recipe=recipe(book, "head-temperature")
        )
    assert "train.what=temperature" in caught.value.hint
    result = ctxext.finetune(
        str(base), output_dir=tmp_path / "one", recipe=recipe(book, "temperature"), device="cpu",
        dtype="float32",
    )  # fmt: skip
    trained = load_file(tmp_path / "one/checkpoints/step-3/trained.safetensors")
    scaled = live(base, False, lambda name, _: trained["model." + name])
    merged = AutoModelForCausalLM.from_pretrained(result.merged, dtype=torch.float32).eval()
    assert torch.allclose(logits(merged), logits(scaled), atol=1e-5, rtol=1e-4)


def test_factors_begin_at_the_base(tmp_path):
    base = built(tmp_path / "jamba", "jamba")
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    assert torch.equal(logits(live(base, True, lambda _, ones: ones)), logits(plain))


def test_a_run_cut_in_two_is_the_same_run(tmp_path, book):
    base = stopped(tmp_path / "base")
    options = {"device": "cpu", "recipe": recipe(book, "head-temperature", steps=4, save_every=2)}
    ctxext.finetune(str(base), output_dir=tmp_path / "whole", **options)
    ctxext.finetune(str(base), output_dir=tmp_path / "cut", **options)
    for file in (tmp_path / "cut/checkpoints/step-4").iterdir():
        file.unlink()
    ctxext.finetune(str(base), output_dir=tmp_path / "cut", resume=True, **options)
    files = [tmp_path / run / "merged/model.safetensors" for run in ("whole", "cut")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_the_command_and_its_plan(tmp_path, book):
    base = stopped(tmp_path / "base")
    command = [
        "finetune", base, "--data", book, "--train", "head-temperature", "--seq-length", 64,
        "--steps", 2, "--lr", 0.05, "--device", "cpu", "-o", tmp_path / "run",
    ]  # fmt: skip
    done = run_ctxext(*command, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "8 of" in done.stdout  # 2 layers of 4 heads
    done = run_ctxext(*command)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "run/adapter").exists()


def test_what_turns_is_refused(tmp_path, book, tiny_llama):
    with pytest.raises(BadInput, match="this llama has none") as caught:
        ctxext.finetune(
            str(tiny_llama), output_dir=tmp_path / "run", recipe=recipe(book, "temperature")
        )
    assert "--method drop" in caught.value.hint
    bloom = build_not_rotary(tmp_path / "bloom", "bloom")
    with pytest.raises(BadInput, match="its encoding is alibi"):
        ctxext.finetune(str(bloom), output_dir=tmp_path / "run", recipe=recipe(book, "temperature"))


def test_the_shipped_recipe_trains(tmp_path, book):
    base = built(tmp_path / "jamba", "jamba")
    shipped = read_recipe(find_recipe("head-temperature"))
    shipped["data"] = {"source": str(book)}
    shipped["train"] |= {
        "seq_length": 64, "steps": 2, "gradient_accumulation": 1, "warmup_steps": 0
    }  # fmt: skip
    done = ctxext.finetune(str(base), output_dir=tmp_path / "run", recipe=shipped)
    assert (done.steps, done.adapter) == (2, None)
