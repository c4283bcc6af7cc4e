"""Flex attention, which GPUs use: its compiler is asked for first, and its numbers are checked."""

import pytest
import torch

from ctxext.api.finetune import finetune
from ctxext.checkpoints.config.detect import Layer
from ctxext.checkpoints.live import load
from ctxext.errors import BadInput, CtxextError
from ctxext.runs.recipe.config import (
    DataConfig,
    FinetuneConfig,
    LoraConfig,
    ParallelConfig,
    TrainConfig,
)
from ctxext.training.attention.documents import separate_documents
from ctxext.training.attention.flex import FLEX, flex_reason
from ctxext.training.memory import compiled
from ctxext.training.model.batch import Batch
from ctxext.training.model.lora import LossModel, add_adapters
from ctxext.training.model.loss import shifted_labels
from ctxext.training.run.self_check import check_loss, plain_loss
from support.checkpoints import build_tiny

FULL = (Layer(0, "rope", "full", None),)
SLIDING = (Layer(0, "rope", "sliding", 4096), *FULL)


def config(length=8192, documents="stream", context=1, **train):
    return FinetuneConfig(
        data=DataConfig(documents=documents),
        train=TrainConfig(seq_length=length, **train),
        parallel=ParallelConfig(context=context),
    )


@pytest.mark.parametrize(
    ("settings", "layers", "device", "reason"),
    [
        ({}, FULL, "cuda", ""),
        ({"documents": "separate"}, FULL, "cuda", "data.documents: separate"),
        ({"documents": "separate"}, FULL, "cpu", ""),
        ({"documents": "separate", "context": 2}, FULL, "cuda", ""),
        ({}, SLIDING, "cuda", "attention in sliding windows"),
        ({}, SLIDING, "cpu", ""),
        ({"length": 2048}, SLIDING, "cuda", ""),
        ({"attention": "s2"}, SLIDING, "cuda", ""),
    ],
)
def test_when_it_is_used(settings, layers, device, reason):
    assert flex_reason(config(**settings), "llama", layers, device) == reason


def test_soft_capped_models_keep_their_own_attention():
    assert flex_reason(config(), "gemma2", SLIDING, "cuda") == ""


@pytest.fixture
def no_compiler(monkeypatch):
    """A GPU whose compiler is missing, and a model that must not be loaded."""
    refused = []

    def check(device, reason="train.compile", instead=""):
        refused.append((device.type, reason))
        raise BadInput(f"{reason}: torch.compile does not work on {device.type} here")

    def fail(*args, **kwargs):
        raise AssertionError("the model was loaded")

    # First, since it imports that module, which must not come by the `device_of` of this test.
    monkeypatch.setattr("ctxext.training.run.train.load_model", fail)
    monkeypatch.setattr(load, "device_of", lambda name, launch: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(compiled, "check_compile", check)
    return refused


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        ({"data": {"documents": "separate"}}, "data.documents: separate"),
        ({"train": {"compile": True}}, "train.compile"),
    ],
)
def test_a_missing_compiler_is_said_first(no_compiler, tiny_llama, book, tmp_path, recipe, reason):
    out = tmp_path / "run"
    whole = {
        "data": {"source": str(book), **recipe.get("data", {})},
        "train": {"seq_length": 64, "steps": 1, **recipe.get("train", {})},
    }
    with pytest.raises(BadInput, match=f"{reason}: torch.compile"):
        finetune(str(tiny_llama), output_dir=out, recipe=whole)
    assert no_compiler == [("cuda", reason)]
    assert not (out / "recipe.yaml").exists()


def packed():
    """A row of three documents."""
    ids = torch.randint(3, 250, (1, 96), generator=torch.Generator().manual_seed(3))
    places = torch.cat([torch.arange(40), torch.arange(30), torch.arange(26)])[None]
    return Batch(ids, shifted_labels(ids), places)


@pytest.mark.parametrize("right", [True, False])
def test_the_self_check_compares_it_with_plain_attention(right, tmp_path, monkeypatch):
    """A kernel that forgets where documents end is found out; one that knows passes."""
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(build_tiny(tmp_path / "base"))
    live = LossModel(add_adapters(model, LoraConfig(rank=4), "tiny"), loss_chunk=50)
    plain = plain_loss(live, packed())
    separate_documents(model, torch.device("cuda"))
    assert model.config._attn_implementation == FLEX
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def kernel(module, query, key, value, attention_mask, **rest):
        mask = attention_mask if right else None
        return sdpa_attention_forward(module, query, key, value, mask, **rest)

    attention, mask = AttentionInterface._global_mapping, AttentionMaskInterface._global_mapping
    monkeypatch.setitem(attention, FLEX, kernel)
    monkeypatch.setitem(mask, FLEX, sdpa_mask)
    if right:
        assert check_loss(live, packed(), plain) < 1e-5
    else:
        with pytest.raises(CtxextError, match="self-check failed"):
            check_loss(live, packed(), plain)
