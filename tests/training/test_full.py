"""Full fine-tuning: transformers' own loss and gradients, float32 masters, written back exactly."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from ctxext.api.finetune import finetune
from ctxext.checkpoints.live.load import load_model
from ctxext.checkpoints.opened import open_checkpoint
from ctxext.checkpoints.weights.files import read_weights
from ctxext.checkpoints.weights.trained import read_trained
from ctxext.errors import BadInput, CtxextError
from ctxext.runs.recipe.config import FinetuneConfig, LoraConfig, TrainConfig
from ctxext.training.model.batch import plain_batch
from ctxext.training.model.full import PREFIX, train_all
from ctxext.training.model.lora import LossModel, trained_tensors
from ctxext.training.run.state import saved_steps, trained_file
from support.checkpoints import build_tiny

IDS = torch.arange(128).reshape(2, 64) % 256


def live(folder, dtype="auto"):
    opened = open_checkpoint(str(folder))
    model = load_model(opened.source, opened.position, dtype=dtype)
    return LossModel(train_all(model, read_weights(folder)), loss_chunk=25).train()


def recipe(book, **train):
    sizes = {"seq_length": 64, "steps": 4, "batch_size": 1, "gradient_accumulation": 1, "lr": 1e-3}
    return {
        "data": {"source": str(book)},
        "train": {**sizes, "save_every": 2, "what": "full", **train},
    }


@pytest.mark.parametrize(("family", "tied"), [("llama", False), ("qwen2", True)])
def test_loss_and_gradients_are_transformers_own(tmp_path, family, tied):
    folder = build_tiny(tmp_path / "base", family, tied=tied)
    ours = live(folder)
    loss = ours(plain_batch(IDS)) / (IDS.numel() - len(IDS))
    loss.backward()
    plain = AutoModelForCausalLM.from_pretrained(folder).train()
    own = plain(input_ids=IDS, labels=IDS).loss
    own.backward()
    assert loss.item() == pytest.approx(own.item(), rel=1e-6)
    grads = {PREFIX + name: p.grad for name, p in plain.named_parameters()}
    mine = trained_tensors(ours)
    assert set(mine) == set(grads)
    for name, parameter in mine.items():
        assert torch.allclose(parameter.grad, grads[name], rtol=1e-4, atol=1e-6), name


def test_masters_are_float32_and_the_rope_stays(tmp_path):
    model = live(build_tiny(tmp_path / "base", dtype="bfloat16"), dtype="bfloat16")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {b.dtype for n, b in model.named_buffers() if "inv_freq" in n} == {torch.float32}


@pytest.mark.parametrize("tied", [False, True])
def test_the_merged_checkpoint_is_the_live_model(tmp_path, book, tied):
    """Four steps; what was saved at the last one is what merged/ holds, in shards like the base."""
    base = build_tiny(tmp_path / "base", "qwen3", tied=tied, shard="60KB")
    out = tmp_path / "run"
    result = finetune(str(base), output_dir=out, recipe=recipe(book), device="cpu", dtype="float32")
    assert result.adapter is None
    assert not (out / "adapter").exists()
    masters = load_file(trained_file(out, 4))
    loaded = AutoModelForCausalLM.from_pretrained(out / "merged")
    own = {PREFIX + name: p for name, p in loaded.named_parameters()}
    assert set(own) == set(masters)
    assert all(torch.equal(own[name], masters[name]) for name in masters)
    before = read_weights(base)
    after = read_weights(out / "merged")
    assert list(after.shards) == list(before.shards)
    changed = [n for n, p in AutoModelForCausalLM.from_pretrained(base).named_parameters()
               if not torch.equal(p, masters[PREFIX + n])]  # fmt: skip
    assert len(changed) == len(masters)
    assert loaded.config.tie_word_embeddings is tied
    document = json.loads((out / "merged" / "ctxext.json").read_text())
    assert document["adapter"] is None
    assert document["training"]["recipe"]["train"]["what"] == "full"


def test_a_bfloat16_base_stays_bfloat16_and_the_rounding_is_said(tmp_path, book):
    """Steps of 1e-6 are kept by the float32 masters and lost when they are stored."""
    base = build_tiny(tmp_path / "base", dtype="bfloat16")
    result = finetune(
        str(base), output_dir=tmp_path / "run", recipe=recipe(book, lr=1e-6), device="cpu"
    )
    merged = load_file(tmp_path / "run" / "merged" / "model.safetensors")
    masters = load_file(trained_file(tmp_path / "run", 4))
    assert all(torch.equal(t, masters[PREFIX + n].bfloat16()) for n, t in merged.items())
    old = load_file(base / "model.safetensors")
    assert any(not torch.equal(old[n].float(), masters[PREFIX + n]) for n in old)
    assert any("of what training changed" in warning for warning in result.warnings)


def test_a_run_cut_in_two_is_the_same_run(tmp_path, book):
    """Stopped after a save, as a kill leaves it, then resumed; with weight decay's two groups."""
    base = build_tiny(tmp_path / "base")
    settings = recipe(book, weight_decay=0.1)
    options = {"device": "cpu", "dtype": "float32", "recipe": settings}
    finetune(str(base), output_dir=tmp_path / "whole", **options)
    finetune(str(base), output_dir=tmp_path / "cut", **options)
    assert saved_steps(tmp_path / "cut") == [2, 4]
    for file in (tmp_path / "cut" / "checkpoints" / "step-4").iterdir():
        file.unlink()  # the newest is lost; step 2 is what a killed run would hold
    again = finetune(str(base), output_dir=tmp_path / "cut", resume=True, **options)
    assert again.steps == 4
    files = [tmp_path / run / "merged" / "model.safetensors" for run in ("whole", "cut")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_what_contradicts_itself_is_refused(tmp_path, book, tiny_llama):
    with pytest.raises(BadInput, match=r"lora\.rank is set"):
        FinetuneConfig(lora=LoraConfig(rank=8), train=TrainConfig(what="full"))
    with pytest.raises(BadInput, match="freezes them in 4 bits"):
        TrainConfig(what="full", quantize="4bit")
    with pytest.raises(BadInput, match=r"train\.what is 'all'"):
        TrainConfig(what="all")
    with pytest.raises(BadInput, match="cuts rows in eight"):
        TrainConfig(attention="s2", seq_length=100)
    opened = open_checkpoint(str(tiny_llama))
    model = load_model(opened.source, opened.position)
    model.model.extra = torch.nn.Linear(2, 2)
    with pytest.raises(BadInput, match=r"model\.extra\.weight"):
        train_all(model, read_weights(tiny_llama))
    other = tiny_llama / "model.safetensors"
    with pytest.raises(CtxextError, match="no trained weight"):
        read_trained(other, "elsewhere.")


@pytest.mark.skipif(torch.cuda.is_available(), reason="here 4 bits may be possible")
def test_4bit_without_a_gpu_names_the_way_out(tmp_path, book, tiny_llama):
    settings = {"data": {"source": str(book)}, "train": {"quantize": "4bit", "seq_length": 64}}
    with pytest.raises(BadInput, match="needs a CUDA device") as caught:
        finetune(str(tiny_llama), output_dir=tmp_path / "run", recipe=settings)
    assert "leave it out" in caught.value.hint
    assert not (tmp_path / "run").exists()
