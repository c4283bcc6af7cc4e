"""Fine-tuning of checkpoints that do not rotate: learned tables, ALiBi, sinusoids, no positions."""

import json

import peft
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import ctxext
from ctxext.checkpoints.weights.adapter import ROPE_KEY
from ctxext.checkpoints.weights.position_hash import POSITION_KEY
from ctxext.errors import BadInput
from support.command import run_ctxext
from support.not_rotary import SIZES, build_not_rotary

IDS = torch.arange(100)[None] * 7 % 251
ADAPTED = {  # the matrices that get an adapter where none are named
    "gpt2": {"c_attn", "c_proj", "c_fc"},
    "gpt_neo": {"q_proj", "k_proj", "v_proj", "out_proj", "c_fc", "c_proj"},
    "opt": {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"},
    "bloom": {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"},
    "mpt": {"Wqkv", "out_proj", "up_proj", "down_proj"},
    "falcon": {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"},
    "xglm": {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"},
    "jamba": {"q_proj", "k_proj", "v_proj", "o_proj"},
}


def recipe(book, lora=None, **train):
    sizes = {"seq_length": 64, "steps": 5, "batch_size": 1, "gradient_accumulation": 1, "lr": 1e-2}
    return {
        "data": {"source": str(book)}, "train": {**sizes, **train},
        **({"lora": lora} if lora else {}),
    }  # fmt: skip


def tune(base, out, settings):
    return ctxext.finetune(
        str(base), output_dir=out, recipe=settings, device="cpu", dtype="float32"
    )


def logits(folder, adapter=None):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapter is not None:
        model = peft.PeftModel.from_pretrained(model, adapter)
    with torch.no_grad():
        return model.eval()(IDS).logits


@pytest.fixture
def built(tmp_path, request):
    return build_not_rotary(tmp_path / request.param, request.param)


@pytest.mark.parametrize("built", SIZES, indirect=True)
def test_five_steps_of_adapters_merge_as_peft_applies_them(tmp_path, book, built):
    result = tune(built, tmp_path / "run", recipe(book))
    assert result.steps == 5
    config = json.loads((tmp_path / "run/adapter/adapter_config.json").read_text())
    assert set(config["target_modules"]) == ADAPTED[built.name]
    live, merged = logits(built, tmp_path / "run/adapter"), logits(tmp_path / "run/merged")
    assert torch.allclose(live, merged, atol=2e-5, rtol=1e-4)
    assert not torch.allclose(merged, logits(built), atol=1e-3)
    with safe_open(tmp_path / "run/adapter/adapter_model.safetensors", "pt") as file:
        metadata = file.metadata()
    assert POSITION_KEY in metadata
    assert ROPE_KEY not in metadata


@pytest.mark.parametrize("built", [n for n in SIZES if n != "jamba"], indirect=True)
def test_five_steps_of_all_weights(tmp_path, book, built):
    result = tune(built, tmp_path / "run", recipe(book, what="full", lr=1e-3))
    assert result.adapter is None
    masters = load_file(tmp_path / "run/checkpoints/step-5/trained.safetensors")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "run/merged", dtype=torch.float32)
    own = {f"model.{name}": p for name, p in merged.named_parameters()}
    assert set(own) == set(masters)
    assert all(torch.equal(own[name], masters[name]) for name in masters)


@pytest.mark.parametrize("built", ["opt", "xglm"], indirect=True)
def test_norms_and_tied_embeddings_are_trained_and_merged(tmp_path, book, built):
    lora = {"train_norms": True, "train_embeddings": True, "targets": ["all-linear"]}
    tune(built, tmp_path / "run", recipe(book, lora))
    live, merged = logits(built, tmp_path / "run/adapter"), logits(tmp_path / "run/merged")
    assert torch.allclose(live, merged, atol=2e-5, rtol=1e-4)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "run/merged")
    head, embedding = loaded.get_output_embeddings(), loaded.get_input_embeddings()
    assert head.weight.data_ptr() == embedding.weight.data_ptr()
    before = AutoModelForCausalLM.from_pretrained(built).get_input_embeddings().weight
    assert not torch.equal(before, embedding.weight)


@pytest.mark.parametrize("built", ["gpt2", "bloom"], indirect=True)
def test_norms_are_trained_and_tied_embeddings_that_peft_would_part_refused(tmp_path, book, built):
    tune(built, tmp_path / "run", recipe(book, {"train_norms": True}))
    live, merged = logits(built, tmp_path / "run/adapter"), logits(tmp_path / "run/merged")
    assert torch.allclose(live, merged, atol=2e-5, rtol=1e-4)
    with pytest.raises(BadInput, match="peft would part"):
        tune(built, tmp_path / "other", recipe(book, {"train_embeddings": True}))


def test_a_checkpoint_without_prefix_and_without_the_flag_that_ties(tmp_path, book):
    """As openai-community/gpt2 is stored: the decoder alone."""
    base = build_not_rotary(tmp_path / "gpt2", "gpt2")
    tensors = load_file(base / "model.safetensors")
    aged = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    save_file(aged, base / "model.safetensors", {"format": "pt"})
    config = json.loads((base / "config.json").read_text())
    config.pop("tie_word_embeddings")
    (base / "config.json").write_text(json.dumps(config))
    for what in ("lora", "full"):
        out = tmp_path / what
        result = tune(base, out, recipe(book, what=what))
        assert set(load_file(out / "merged/model.safetensors")) == set(aged)
        assert not any("tie" in warning for warning in result.warnings)
    live, merged = logits(base, tmp_path / "lora/adapter"), logits(tmp_path / "lora/merged")
    assert torch.allclose(live, merged, atol=2e-5, rtol=1e-4)


def test_an_adapter_is_refused_under_another_table_of_positions(tmp_path, book):
    base = build_not_rotary(tmp_path / "gpt2", "gpt2")
    tune(base, tmp_path / "run", recipe(book))
    tensors = load_file(base / "model.safetensors")
    tensors["transformer.wpe.weight"][100, 3] += 0.5
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    done = run_ctxext("merge", tmp_path / "run/adapter", "--base", base, "-o", tmp_path / "merged")
    assert done.returncode == 2
    assert "trained under another position encoding than gpt2 has" in done.stderr
    other = build_not_rotary(tmp_path / "bloom", "bloom")
    with pytest.raises(BadInput, match="another position encoding"):
        ctxext.merge(tmp_path / "run/adapter", base=str(other), output_dir=tmp_path / "merged")


def test_documents_that_a_class_would_mix_are_refused(tmp_path, book):
    """BLOOM derives its biases from the mask alone: packed documents would read each other."""
    base = build_not_rotary(tmp_path / "bloom", "bloom")
    settings = recipe(book) | {"data": {"source": str(book), "documents": "separate"}}
    with pytest.raises(BadInput, match="reads across documents"):
        tune(base, tmp_path / "run", settings)


@pytest.mark.parametrize("built", ["gpt2", "opt"], indirect=True)
def test_documents_apart_and_positions_spread_where_there_are_positions(tmp_path, book, built):
    apart = recipe(book) | {"data": {"source": str(book), "documents": "separate"}}
    assert tune(built, tmp_path / "apart", apart).steps == 5
    assert tune(built, tmp_path / "spread", recipe(book, pose_target=128)).steps == 5
    with pytest.raises(BadInput, match=r"pose_target 129 is beyond the window"):
        tune(built, tmp_path / "beyond", recipe(book, pose_target=129))
    with pytest.raises(BadInput, match=r"--seq-length 256 is beyond the window"):
        tune(built, tmp_path / "beyond", recipe(book, seq_length=256))


def test_no_positions_are_spread_where_there_are_none(tmp_path, book):
    base = build_not_rotary(tmp_path / "mpt", "mpt")
    with pytest.raises(BadInput, match="is told none"):
        tune(base, tmp_path / "run", recipe(book, pose_target=128))


@pytest.mark.parametrize("name", ["gpt2", "bloom", "jamba"])
def test_every_command_reads_what_a_run_leaves(tmp_path, book, name):
    """Planned, trained, measured, reported, pushed (dry): the commands as they are typed."""
    base, out = build_not_rotary(tmp_path / name, name), tmp_path / "run"
    options = ["--data", book, "--seq-length", 64, "--steps", 2, "--device", "cpu"]
    commands = [
        ["finetune", base, *options, "-o", out, "--dry-run"],
        ["finetune", base, *options, "-o", out],
        ["eval-ppl", base, out / "merged", "--data", book, "--tokens", 600, "--lengths", "64,128",
         "-o", out / "eval"],
        ["eval-retrieval", base, out / "merged", "--tasks", "copy", "--lengths", "128",
         "--samples", 2, "-o", out / "retrieval"],
        ["report", out, "-o", tmp_path / "report.html"],
        ["push", out, "--repo-id", "somebody/tuned", "--dry-run"],
        ["inspect", out / "merged"],
    ]  # fmt: skip
    for command in commands:
        done = run_ctxext(*command)
        assert done.returncode == 0, (command[0], done.stderr)
