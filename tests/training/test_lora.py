"""What is trained is what was asked for, and what the model then computes is checked."""

import pytest
import torch

from ctxext.api.extend import extend
from ctxext.checkpoints.live.load import load_model
from ctxext.checkpoints.opened import open_checkpoint
from ctxext.errors import BadInput, CtxextError
from ctxext.runs.recipe.config import LoraConfig
from ctxext.training.model.batch import plain_batch
from ctxext.training.model.lora import LossModel, add_adapters, trained_groups
from ctxext.training.run.self_check import check_loss, check_rope, plain_loss

IDS = torch.arange(256)[None]


def opened_model(folder):
    opened = open_checkpoint(str(folder))
    return load_model(opened.source, opened.position), opened.position


@pytest.mark.parametrize(
    ("settings", "groups"),
    [
        ({}, 8),
        ({"targets": ("q_proj",)}, 2),
        ({"targets": ("q_proj",), "train_norms": True}, 5),
        ({"targets": ("q_proj",), "train_embeddings": True}, 4),
    ],
)
def test_trains_what_was_asked_for(tiny_llama, settings, groups):
    model, _ = opened_model(tiny_llama)
    wrapped = add_adapters(model, LoraConfig(rank=4, **settings), "tiny")
    found = trained_groups(wrapped)
    assert len(found) == groups
    assert all(p.dtype == torch.float32 for p in wrapped.parameters() if p.requires_grad)
    frozen = [n for n, p in wrapped.named_parameters() if not p.requires_grad]
    assert any("q_proj.base_layer" in n for n in frozen)


def test_unknown_target_lists_the_known(tiny_llama):
    model, _ = opened_model(tiny_llama)
    with pytest.raises(BadInput, match="query_key_value") as caught:
        add_adapters(model, LoraConfig(targets=("query_key_value",)), "tiny")
    assert "q_proj" in caught.value.hint
    assert "lm_head" not in caught.value.hint


def test_self_check_passes_and_can_fail(tiny_llama):
    model, position = opened_model(tiny_llama)
    live = LossModel(add_adapters(model, LoraConfig(rank=4), "tiny"), loss_chunk=50)
    check_rope(live, position)
    batch = plain_batch(IDS).first(IDS.shape[1])
    plain = plain_loss(live, batch)
    assert check_loss(live, batch, plain) < 1e-5
    decoder = live.model.get_base_model()
    original = decoder.model.forward
    decoder.model.forward = lambda *a, **k: _halved(original(*a, **k))
    with pytest.raises(CtxextError, match="self-check failed"):
        check_loss(live, batch, plain)


def _halved(out):
    out.last_hidden_state = out.last_hidden_state * 0.5
    return out


def test_rope_check_sees_a_cast_and_another_scaling(tmp_path, tiny_llama):
    extend(str(tiny_llama), method="yarn", target=512, output_dir=tmp_path / "y")
    model, position = opened_model(tmp_path / "y")
    check_rope(model, position)
    with pytest.raises(CtxextError, match="has to be float32"):
        check_rope(model.to(torch.bfloat16), position)
    plain, _ = opened_model(tiny_llama)
    with pytest.raises(CtxextError, match="inv_freq in the model"):
        check_rope(plain, position)
