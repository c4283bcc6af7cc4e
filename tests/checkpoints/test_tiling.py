"""Tiled MLPs: no more work than without, the same dropout twice, and only where it is exact."""

from functools import partial

import pytest
import torch
import transformers
from torch import nn
from torch.utils.checkpoint import checkpoint

from ctxext.checkpoints.live.tiling import TiledMLP, is_plain_mlp, norm_before_mlp, tile_mlps
from ctxext.runs.recipe.config import LoraConfig
from ctxext.training.memory.recompute import recompute_first
from ctxext.training.model.lora import add_adapters

MLP = ("gate_proj", "up_proj", "down_proj")
SHAPE = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16,
}  # fmt: skip


def adapted(dropout=0.0):
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE))
    lora = LoraConfig(rank=4, targets=MLP, dropout=dropout)
    wrapped = add_adapters(model, lora, "tiny").train()
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    return wrapped


def mlp_of(wrapped):
    return wrapped.get_base_model().model.layers[0].mlp


def test_a_recomputed_layer_computes_its_mlp_twice_not_three_times():
    wrapped = adapted()
    model = wrapped.get_base_model()
    recompute_first(model, None)
    calls = {"mlp": 0, "attention": 0}
    layer = model.model.layers[0]

    def count(name, *_):
        calls[name] += 1

    layer.mlp.down_proj.register_forward_hook(partial(count, "mlp"))
    layer.self_attn.o_proj.register_forward_hook(partial(count, "attention"))
    tile_mlps(wrapped, 8)
    wrapped(input_ids=torch.arange(40)[None], labels=torch.arange(40)[None]).loss.backward()
    assert calls == {"mlp": 2 * 5, "attention": 2}


def test_nothing_as_long_as_the_sequence_times_intermediate_is_kept():
    wrapped = adapted()
    mlp = mlp_of(wrapped)
    x = torch.randn(1, 64, 32, requires_grad=True)

    def kept():
        sizes = []
        pack = lambda t: sizes.append(t.numel()) or t  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            mlp(x)
        return sum(sizes)

    plain = kept()
    mlp.forward = TiledMLP(mlp, 8)
    assert kept() == x.numel() < plain / 4


@pytest.mark.parametrize("around", ["nothing", "checkpoint"])
def test_dropout_is_drawn_the_same_way_in_both_passes(around):
    wrapped = adapted(dropout=0.4)
    mlp = mlp_of(wrapped)
    trained = [p for p in mlp.parameters() if p.requires_grad]
    x = torch.randn(2, 20, 32, requires_grad=True)
    probe = torch.randn(2, 20, 32)

    torch.manual_seed(5)  # the reference: autograd through the same tiles, all kept
    parts = [mlp(part) for part in x.reshape(-1, 32).split(16)]
    expected = torch.cat(parts).reshape(2, 20, 32)
    references = torch.autograd.grad((expected * probe).sum(), [x, *trained])
    after = torch.get_rng_state()

    tiled = TiledMLP(mlp, 16)
    torch.manual_seed(5)
    out = tiled(x) if around == "nothing" else checkpoint(tiled, x, use_reentrant=False)
    assert torch.allclose(out, expected, atol=1e-6)
    found = torch.autograd.grad((out * probe).sum(), [x, *trained])
    for ours, theirs in zip(found, references, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    assert torch.equal(torch.get_rng_state(), after), "the backward pass moved the randomness"


def test_autocast_of_the_forward_pass_holds_in_the_backward_pass():
    wrapped = adapted()
    mlp = mlp_of(wrapped)
    trained = [p for p in mlp.parameters() if p.requires_grad]
    x = torch.randn(20, 32, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = mlp(x)
        out = TiledMLP(mlp, 20 - 1)(x)
    assert out.dtype == expected.dtype == torch.bfloat16
    plain = torch.autograd.grad(expected.float().sum(), [x, *trained])
    found = torch.autograd.grad(out.float().sum(), [x, *trained])
    for ours, theirs in zip(found, plain, strict=True):
        assert (ours - theirs).norm() <= 2e-2 * theirs.norm()
        assert ours.dtype == theirs.dtype


def test_adapters_on_a_frozen_input_get_their_gradients_and_it_gets_none():
    mlp = mlp_of(adapted())
    trained = [p for p in mlp.parameters() if p.requires_grad]
    x = torch.randn(20, 32)
    expected = torch.autograd.grad(mlp(x).square().sum(), trained)
    out = TiledMLP(mlp, 8)(x)
    for ours, theirs in zip(
        torch.autograd.grad(out.square().sum(), trained), expected, strict=True
    ):
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()
    assert x.grad is None


def test_frozen_mlps_on_frozen_inputs_want_no_gradient():
    mlp = mlp_of(adapted()).requires_grad_(False)
    tiled = TiledMLP(mlp, 8)
    assert not tiled(torch.randn(20, 32)).requires_grad
    with torch.no_grad():
        x = torch.randn(20, 32, requires_grad=True)
        assert torch.allclose(tiled(x), mlp(x), atol=1e-6)


def test_blocks_with_experts_are_left_alone_and_named():
    config = transformers.MixtralConfig(**SHAPE, num_local_experts=4)
    model = transformers.MixtralForCausalLM(config)
    assert tile_mlps(model, 8) == (0, ["MixtralSparseMoeBlock"])


def test_an_mlp_that_mixes_positions_is_not_plain():
    class Mixing(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
            self.c = nn.Conv1d(8, 8, 3)

    assert not is_plain_mlp(Mixing())
    assert is_plain_mlp(nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8)))


@pytest.mark.parametrize(
    ("family", "norm"),
    [
        ("Llama", "post_attention_layernorm"),
        ("Mistral", "post_attention_layernorm"),
        ("Qwen3", "post_attention_layernorm"),
        ("Gemma2", "pre_feedforward_layernorm"),
        ("Olmo2", None),  # normalises what its blocks give
        ("Cohere", None),  # attention and MLP read the same norm
    ],
)
def test_the_norm_before_the_mlp(family, norm):
    config = getattr(transformers, f"{family}Config")(**SHAPE, pad_token_id=0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    layer = model.model.layers[0]
    assert norm_before_mlp(layer) is (getattr(layer, norm) if norm else None)


@pytest.mark.parametrize(
    ("lora", "dtype", "share"),
    [({}, torch.bfloat16, 6), ({"train_norms": True}, torch.float32, 5)],
    ids=["frozen", "trained"],
)
def test_a_norm_and_its_mlp_keep_one_tensor(lora, dtype, share):
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE)).to(dtype)
    wrapped = add_adapters(model, LoraConfig(rank=4, **lora), "tiny").train()
    layer = wrapped.get_base_model().model.layers[0]
    x = torch.randn(1, 64, 32, dtype=dtype, requires_grad=True)

    def kept():
        sizes = []
        pack = lambda t: sizes.append(t.nbytes) or t  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            out = layer.mlp(layer.post_attention_layernorm(x))
        return out, sum(sizes)

    plain, before = kept()
    tile_mlps(wrapped, 8)
    tiled, after = kept()
    assert after == x.nbytes < before / share
    trained = [p for p in layer.post_attention_layernorm.parameters() if p.requires_grad]
    assert len(trained) == len(lora)
    for ours, theirs in zip(
        torch.autograd.grad(tiled.float().square().sum(), [x, *trained]),
        torch.autograd.grad(plain.float().square().sum(), [x, *trained]),
        strict=True,
    ):
        assert (ours - theirs).norm() <= (1e-5 if lora else 1e-2) * theirs.norm()


@pytest.mark.parametrize("recomputed", [0, None], ids=["kept", "recomputed"])
def test_adapters_in_the_mlp_alone_get_their_gradients(recomputed):
    """What reaches the first MLP needs no gradient, and has to be there in the backward pass."""
    ids = torch.arange(40)[None]
    found = []
    for tile in (0, 8):
        wrapped = adapted()
        if tile:
            tile_mlps(wrapped, tile)
        recompute_first(wrapped, recomputed)
        wrapped(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        found.append({n: p.grad for n, p in wrapped.named_parameters() if p.requires_grad})
    assert len(found[0]) == 12
    for name, expected in found[0].items():
        assert expected.norm() > 0, name
        assert torch.allclose(found[1][name], expected, rtol=1e-4, atol=1e-7), name
