"""Windows in blocks against transformers' SDPA with its dense mask: losses and gradients."""

import pytest
import torch
import transformers

import ctxext
from ctxext.runs.recipe.config import LoraConfig
from ctxext.training.attention import windows
from ctxext.training.attention.windows import WINDOWS, use_windows
from ctxext.training.model.batch import Batch, plain_batch
from ctxext.training.model.lora import LossModel, add_adapters, trained_tensors
from ctxext.training.model.loss import shifted_labels
from ctxext.training.run.self_check import check_loss, plain_loss
from support.checkpoints import write_byte_tokenizer

CPU = torch.device("cpu")
T, WINDOW = 96, 16
SHAPE = {
    "vocab_size": 97, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "pad_token_id": 0,
    "max_position_embeddings": 512, "sliding_window": WINDOW,
}  # fmt: skip
MIXED = {"layer_types": ["sliding_attention", "full_attention"]}
FAMILIES = {
    "Mistral": ("Mistral", {}),
    "Qwen2, half of the layers": ("Qwen2", {"use_sliding_window": True} | MIXED),
    "Gemma 3": ("Gemma3Text", MIXED),
    "Qwen2-MoE, which hands no window on": (
        "Qwen2Moe", {"use_sliding_window": True, "num_experts": 4, "moe_intermediate_size": 32}
        | {"layer_types": ["sliding_attention"] * 2},
    ),
}  # fmt: skip


def trained(family, **more):
    name, extra = FAMILIES[family]
    config = getattr(transformers, f"{name}Config")(**SHAPE | extra | more)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():  # far from zero, so that attention says something
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    model = add_adapters(model, LoraConfig(rank=4, train_norms=True), "tiny").train()
    for parameter_name, parameter in model.named_parameters():
        if "lora_B" in parameter_name:
            torch.nn.init.normal_(parameter, std=0.1)
    return LossModel(model, loss_chunk=64)


def loss_and_gradients(model, batch):
    loss = model(batch)
    tensors = trained_tensors(model)
    found = torch.autograd.grad(loss, list(tensors.values()))
    return loss.item(), dict(zip(tensors, found, strict=True))


def assert_same(ours, plain):
    assert ours[0] == pytest.approx(plain[0], rel=1e-5)
    for name, expected in plain[1].items():
        assert expected.norm() > 0, name
        assert (ours[1][name] - expected).norm() <= 1e-5 * expected.norm(), name


def ids_of(rows=2):
    return torch.randint(1, 97, (rows, T), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("block", [7, 32, 256])
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_dense_mask(family, block, monkeypatch):
    monkeypatch.setattr(windows, "BLOCK", block)
    model = trained(family)
    batch = plain_batch(ids_of())
    plain = loss_and_gradients(model, batch)
    assert use_windows(model.model.get_base_model(), CPU, T)
    assert_same(loss_and_gradients(model, batch), plain)


def test_the_window_matters_here():
    """Else all of this would hold for full attention too."""
    batch = plain_batch(ids_of())
    with torch.no_grad():
        narrow, wide = trained("Mistral")(batch), trained("Mistral", sliding_window=T)(batch)
    assert abs(float(narrow - wide)) > 1e-3 * float(wide)


@pytest.mark.parametrize("what", ["gaps in positions", "padding"])
def test_rows_with_a_mask_of_tokens(what):
    model = trained("Mistral")
    ids, ones = ids_of(), torch.ones(2, T, dtype=torch.long)
    places = torch.arange(T) + 100 * (torch.arange(T) >= 40)
    if what == "padding":
        ones[1, :30] = 0
        places = torch.arange(T)
    batch = Batch(ids, shifted_labels(ids), places.expand(2, -1), ones)
    plain = loss_and_gradients(model, batch)
    assert use_windows(model.model.get_base_model(), CPU, T)
    assert_same(loss_and_gradients(model, batch), plain)


def test_the_self_check_compares_with_the_dense_mask():
    model = trained("Mistral")
    base = model.model.get_base_model()
    batch = plain_batch(ids_of()).first(T)
    plain = plain_loss(model, batch)
    assert use_windows(base, CPU, T)
    assert 0 <= check_loss(model, batch, plain) < 1e-5
    assert base.config._attn_implementation == WINDOWS


def test_a_wrong_window_does_not_pass_the_self_check(monkeypatch):
    model = trained("Mistral")
    batch = plain_batch(ids_of()).first(T)
    plain = plain_loss(model, batch)
    assert use_windows(model.model.get_base_model(), CPU, T)
    honest = windows.Rows
    monkeypatch.setattr(windows, "Rows", lambda rows, size: honest(rows, size + 8))
    with pytest.raises(Exception, match="self-check failed"):
        check_loss(model, batch, plain)


@pytest.mark.parametrize(
    ("name", "extra", "length"),
    [
        ("Llama", {"sliding_window": None}, T),
        ("Mistral", {}, WINDOW - 1),
        ("Mistral", {"sliding_window": None}, T),
        ("Mistral", {"attention_dropout": 0.1}, T),
        ("Gemma2", {}, T),  # soft-capped: eager
        ("Qwen2", {"layer_types": ["full_attention"] * 2, "use_sliding_window": True}, T),
        ("Qwen2", {"layer_types": ["sliding_attention", "chunked_attention"]}, T),
    ],
)
def test_other_models_are_left_alone(name, extra, length):
    config = getattr(transformers, f"{name}Config")(**SHAPE | extra)
    model = transformers.AutoModelForCausalLM.from_config(config)
    before = model.config._attn_implementation
    assert not use_windows(model, CPU, length)
    assert model.config._attn_implementation == before


def test_a_window_as_long_as_the_row_takes_the_causal_path():
    model = trained("Mistral", sliding_window=T)
    batch = plain_batch(ids_of())
    plain = loss_and_gradients(model, batch)
    base = model.model.get_base_model()
    assert use_windows(base, CPU, T)
    assert windows.window_mask(
        batch_size=2, q_length=T, kv_length=T, local_size=T, q_offset=0, kv_offset=0
    ) is None  # fmt: skip
    assert_same(loss_and_gradients(model, batch), plain)


def test_finetune_switches_it_on(tmp_path, book, monkeypatch):
    config = transformers.MistralConfig(**SHAPE | {"vocab_size": 256}, bos_token_id=None)
    transformers.MistralForCausalLM(config).save_pretrained(tmp_path / "base")
    write_byte_tokenizer(tmp_path / "base", 512)
    seen = []
    honest = windows.block_attention

    def spy(query, *rest, **more):
        seen.append(query.shape[2])
        return honest(query, *rest, **more)

    monkeypatch.setattr(windows, "block_attention", spy)
    train = {"steps": 1, "gradient_accumulation": 1, "seq_length": 512}
    ctxext.finetune(
        str(tmp_path / "base"), output_dir=tmp_path / "run", device="cpu",
        recipe={"data": {"source": str(book)}, "train": train},
    )  # fmt: skip
    # Each layer in the self-check, then in the step and when it is computed again.
    assert seen == [256] * 2 + [512] * 4
