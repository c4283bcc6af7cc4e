"""float32 stays where it is needed: masters and adapters, not what they read or the hidden states.

Everything here runs under CPU autocast, which casts as a GPU's does.
"""

import weakref

import pytest
import torch

from ctxext.checkpoints.config.dtype import Dtype
from ctxext.checkpoints.live.head import decoder_of, without_peft
from ctxext.checkpoints.live.layers import decoder_layers
from ctxext.checkpoints.live.load import load_model
from ctxext.checkpoints.live.tiling import tile_mlps
from ctxext.checkpoints.opened import open_checkpoint
from ctxext.checkpoints.weights.files import read_weights
from ctxext.errors import BadInput
from ctxext.runs.recipe.config import LoraConfig
from ctxext.training.memory.offload import Offloader
from ctxext.training.memory.recompute import recompute_first
from ctxext.training.model.batch import plain_batch
from ctxext.training.model.full import train_all
from ctxext.training.model.lora import LossModel
from ctxext.training.model.precision import narrow_embeddings, share_adapter_inputs, under_autocast
from ctxext.training.model.run_dtype import run_dtype
from support.adapted import adapted, gradients
from support.checkpoints import build_tiny

SHAPE = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 256,
}  # fmt: skip
ALL = (*LoraConfig().targets, "gate_proj", "up_proj", "down_proj")
IDS = torch.randint(3, 300, (2, 80), generator=torch.Generator().manual_seed(0))


def build(**lora):
    """A bfloat16 base under float32 adapters, as a GPU trains it."""
    model = adapted("Llama", SHAPE, LoraConfig(rank=4, targets=ALL, **lora))
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.bfloat16()
    return model


def loss_and_gradients(model):
    torch.manual_seed(1)  # of dropout
    loss_model = LossModel(model, 33).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return gradients(model, loss_model(plain_batch(IDS)))


def assert_same_bits(ours, plain):
    assert ours[0] == plain[0]
    assert plain[0] > 0
    for name, expected in plain[1].items():
        assert expected.norm() > 0, name
        assert torch.equal(ours[1][name], expected), name


@pytest.mark.parametrize("lora", [{}, {"train_norms": True}, {"train_embeddings": True}])
@pytest.mark.parametrize("sparing", [False, True], ids=["plain", "tiled+recomputed+offloaded"])
def test_shared_inputs_give_the_same_bits(lora, sparing):
    results = []
    for shared in (False, True):
        model = build(**lora)
        if shared:
            assert share_adapter_inputs(model) == 3 * len(ALL)
        if sparing:
            tile_mlps(model, 19)
            recompute_first(model, None, Offloader())
        results.append(loss_and_gradients(model))
    assert_same_bits(results[1], results[0])


def test_adapters_of_a_layer_read_one_bfloat16_tensor():
    model = build()
    share_adapter_inputs(model)
    attention = decoder_layers(model)[1].self_attn
    read = []
    for name in ("q_proj", "k_proj", "v_proj"):
        adapter = getattr(attention, name).lora_A["default"]
        adapter.register_forward_hook(lambda module, inputs, out: read.append(inputs[0]))
    loss_and_gradients(model)
    assert {tensor.dtype for tensor in read} == {torch.bfloat16}
    assert len({tensor.data_ptr() for tensor in read}) == 1


@pytest.mark.parametrize("lora", [{"dropout": 0.1}, {"dora": True}])
def test_adapters_whose_numbers_would_change_are_left_alone(lora):
    untouched, model = loss_and_gradients(build(**lora)), build(**lora)
    assert share_adapter_inputs(model) == 0
    assert_same_bits(loss_and_gradients(model), untouched)


@pytest.mark.parametrize("lora", [{}, {"train_embeddings": True}])
def test_embeddings_without_a_hook_give_the_same_bits(lora):
    """Against transformers' own way, which makes them a leaf that takes a gradient."""
    model = build(**lora)
    without_peft(model).activation_checkpointing_enable({"use_reentrant": False})
    assert without_peft(model)._require_grads_hooks
    plain = loss_and_gradients(model)
    model = build(**lora)
    recompute_first(model, None)
    assert_same_bits(loss_and_gradients(model), plain)


@pytest.mark.parametrize("checkpointer", [None, Offloader()])
def test_embeddings_are_gone_after_the_forward_pass(checkpointer):
    """But for the first layer's checkpoint, which holds them where nothing is offloaded."""
    model, seen = build(), []
    recompute_first(model, None, checkpointer)
    embeddings = without_peft(model).get_input_embeddings()
    embeddings.register_forward_hook(lambda module, inputs, out: seen.append(weakref.ref(out)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = LossModel(model, 33).train()(plain_batch(IDS))
    (embedded,) = seen
    assert (embedded() is None) == (checkpointer is not None)
    assert embedded() is None or not embedded().requires_grad
    loss.backward()
    assert embedded() is None


def hidden_dtypes(model):
    """Of what every layer reads and of the rope's tables."""
    found = set()

    def look(module, args, kwargs):
        found.add(args[0].dtype)
        found.update(table.dtype for table in kwargs["position_embeddings"])

    for layer in decoder_of(without_peft(model)).layers:
        layer.register_forward_pre_hook(look, with_kwargs=True)
    loss_and_gradients(model)
    return found


@pytest.mark.parametrize("tied", [False, True])
def test_trained_embeddings_do_not_widen_the_residual_stream(tied):
    torch.manual_seed(0)
    model = adapted(
        "Llama", SHAPE | {"tie_word_embeddings": tied}, LoraConfig(rank=4, train_embeddings=True)
    )
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.bfloat16()
    embeddings = without_peft(model).get_input_embeddings()
    assert any(p.dtype == torch.float32 for p in embeddings.parameters())
    narrow_embeddings(without_peft(model))
    assert hidden_dtypes(model) == {torch.bfloat16}


def test_masters_do_not_widen_the_residual_stream(tmp_path):
    folder = build_tiny(tmp_path / "base", vocabulary=300)
    opened = open_checkpoint(str(folder))
    model = train_all(load_model(opened.source, opened.position), read_weights(folder))
    narrow_embeddings(model)
    assert hidden_dtypes(model) == {torch.bfloat16}


def test_masters_start_from_what_is_stored_and_not_from_its_rounding():
    full = run_dtype(Dtype("bfloat16", ("said",)), full=True)
    assert (full.load, full.compute, full.notes) == ("float32", "bfloat16", ("said",))
    assert under_autocast(full, torch.float32)
    lora = run_dtype(Dtype("bfloat16"), full=False)
    assert (lora.load, lora.compute) == ("bfloat16", "bfloat16")
    assert not under_autocast(run_dtype(Dtype("float32"), full=True), torch.float32)


def test_float16_is_refused():
    for full in (False, True):
        with pytest.raises(BadInput, match="--dtype float16: small gradients vanish"):
            run_dtype(Dtype("float16"), full=full)
