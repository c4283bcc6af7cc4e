"""Every memory switch, alone and in pairs, computes what transformers' own forward computes.

The reference is the model called with `labels`: no checkpointing, whole logits, whole MLPs.
"""

import itertools

import pytest
import torch

from ctxext.checkpoints.live.tiling import tile_mlps
from ctxext.runs.recipe.config import LoraConfig
from ctxext.training.attention import windows
from ctxext.training.attention.windows import WINDOWS, use_windows
from ctxext.training.memory.offload import Offloader
from ctxext.training.memory.recompute import recompute_first
from ctxext.training.model.batch import plain_batch
from ctxext.training.model.lora import LossModel
from ctxext.training.model.router_loss import router_loss
from support.adapted import adapted, gradients

SHAPE = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 256,
}  # fmt: skip
FAMILIES = {
    "Llama": {},
    "Mistral": {"sliding_window": 24},
    "Qwen2": {"tie_word_embeddings": True},
    "Gemma2": {"final_logit_softcapping": 3.0, "sliding_window": 24, "query_pre_attn_scalar": 16},
    "Mixtral": {
        "output_router_logits": True, "router_aux_loss_coef": 0.5, "num_local_experts": 4,
        "sliding_window": None,
    },
}  # fmt: skip
MLP = ("gate_proj", "up_proj", "down_proj")
SWITCHES = {
    "loss_chunk": 17,
    "mlp_tile": 19,
    "recompute": None,
    "recompute-some": 2,
    "offload": True,
    "windows": 32,
}
PAIRS = [(), *((s,) for s in SWITCHES), *itertools.combinations(SWITCHES, 2), tuple(SWITCHES)]
IDS = torch.randint(3, 300, (2, 80), generator=torch.Generator().manual_seed(0))


def build(family, everything):
    attention = LoraConfig().targets
    lora = LoraConfig(
        rank=4,
        targets=attention if family == "Mixtral" else attention + MLP,
        train_norms=everything,
        train_embeddings=everything,
    )
    return adapted(family, SHAPE | FAMILIES[family], lora)


def switched(model, switches):
    """The model with switches put on, which of them are, and the loss module over it."""
    offloader = Offloader() if "offload" in switches else None
    count = 2 if "recompute-some" in switches else None
    on = {"recompute", "recompute-some", "offload"} & set(switches)
    recompute_first(model, count if on else 0, offloader)
    for module in model.modules():
        module.__dict__.pop("forward", None)
    base = model.get_base_model()
    if base.config._attn_implementation == WINDOWS:
        base.set_attn_implementation("sdpa")
    if "windows" in switches:  # there is one shorter than the rows, and fused attention
        assert use_windows(base, torch.device("cpu"), IDS.shape[1]) == (
            base.config.model_type == "mistral"
        )
    tiled = 0
    if "mlp_tile" in switches:
        tiled, _ = tile_mlps(model, SWITCHES["mlp_tile"])
    chunk = SWITCHES["loss_chunk"] if "loss_chunk" in switches else 10_000
    return LossModel(model, chunk).train(), offloader, tiled


def assert_same(ours, plain):
    assert ours[0] == pytest.approx(plain[0], rel=1e-5)
    for name, expected in plain[1].items():
        size = expected.norm()
        assert (ours[1][name] - expected).norm() <= 1e-5 * size, name
        assert size > 0, f"{name} has no gradient, so that nothing is compared"


@pytest.mark.parametrize("everything", [False, True], ids=["lora", "lora+norms+embeddings"])
@pytest.mark.parametrize("family", FAMILIES)
def test_switches_change_no_number(family, everything, monkeypatch):
    monkeypatch.setattr(windows, "BLOCK", SWITCHES["windows"])
    model = build(family, everything)
    tokens = IDS.shape[0] * (IDS.shape[1] - 1)
    plain = gradients(model, model(input_ids=IDS, labels=IDS, use_cache=False).loss)
    for switches in PAIRS if not everything else PAIRS[:7] + PAIRS[-1:]:
        if "windows" in switches and len(switches) < len(SWITCHES) and family != "Mistral":
            continue  # nothing would be switched
        loss_model, offloader, tiled = switched(model, switches)
        assert tiled == (3 if "mlp_tile" in switches and family != "Mixtral" else 0)
        value, found = gradients(model, loss_model(plain_batch(IDS)) / tokens)
        assert_same((value, found), plain)
        if offloader:
            layers = 2 if "recompute-some" in switches else 3
            assert offloader.most == layers * IDS.numel() * 64 * 4
            assert offloader.parked == 0


def test_the_auxiliary_loss_is_in_the_reference():
    """Else the matrix would be satisfied by a model that leaves it out on both sides."""
    model = build("Mixtral", False).get_base_model()
    with_it = model(input_ids=IDS, labels=IDS).loss
    out = model(input_ids=IDS, labels=IDS, output_router_logits=False)
    inner = model.model(input_ids=IDS, output_router_logits=True)
    extra = router_loss(model, inner.router_logits)
    assert extra.item() > 0.1
    assert with_it.item() == pytest.approx(out.loss.item() + extra.item(), rel=1e-6)
