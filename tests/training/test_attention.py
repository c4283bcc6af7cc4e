"""Packed documents: each as if it stood alone; in a stream, and across a PoSE gap, not cut off."""

import pytest
import torch
import transformers
from torch.nn import functional as F

from ctxext.data.documents import choose_documents
from ctxext.data.mixture import Mixture
from ctxext.data.packing import PackedRows
from ctxext.data.positions import PositionSkips
from ctxext.errors import BadInput
from ctxext.runs.recipe.config import LoraConfig
from ctxext.training.attention import documents
from ctxext.training.attention.documents import document_attention, separate_documents
from ctxext.training.attention.windows import Window
from ctxext.training.model.batch import TrainingRows
from ctxext.training.model.lora import LossModel, add_adapters, trained_tensors
from ctxext.training.run.self_check import check_loss, plain_loss
from support.dispatch import Largest

CPU = torch.device("cpu")
LENGTHS = [5, 40, 1, 23, 64, 27]  # of documents: 160 tokens in one row
FAMILIES = {
    "llama": ("Llama", {}),
    "mistral": ("Mistral", {"sliding_window": 16}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2-window": (
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1},
    ),
}


def decoder(family):
    name, extra = FAMILIES[family]
    config = getattr(transformers, f"{name}Config")(
        vocab_size=97, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, **extra,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    for parameter in model.parameters():  # far from zero, so that attention says something
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def trained(family):
    model = add_adapters(decoder(family), LoraConfig(rank=4, train_norms=True), "tiny")
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return LossModel(model, loss_chunk=64)


def rows(length=160, lengths=LENGTHS, **options):
    ends = torch.tensor(lengths).cumsum(0).numpy()
    torch.manual_seed(2)
    ids = torch.randint(0, 97, (int(ends[-1]),)).numpy().astype("uint32")
    mixture = Mixture((PackedRows(choose_documents(ids, ends), length, 0),), (1.0,), 0)
    return TrainingRows(mixture, "", **options)


def gradients(model):
    out = {name: p.grad.clone() for name, p in trained_tensors(model).items()}
    model.zero_grad()
    return out


def close(one, other):
    scale = max(float(t.abs().max()) for t in other.values())
    assert scale > 0
    for name, value in other.items():
        assert float((one[name] - value).abs().max()) <= 1e-5 * scale, name


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("block", [512, 7])
def test_packed_equals_unpacked_document_by_document(family, block, monkeypatch):
    monkeypatch.setattr(documents, "BLOCK", block)
    model = trained(family)
    data = rows(separate=True)
    batch = data.batch(0, 1)
    # The reference: transformers' own attention and loss, one document at a time.
    alone, total, at = [], torch.zeros(()), 0
    for length in LENGTHS:
        ids = batch.input_ids[:, at : at + length]
        at += length
        if length > 1:
            logits = model.model(input_ids=ids, use_cache=False).logits[0, :-1]
            losses = F.cross_entropy(logits, ids[0, 1:], reduction="none")
            alone += losses.tolist()
            total = total + losses.sum()
    total.backward()
    wanted = gradients(model)

    separate_documents(model.model.get_base_model(), CPU)
    base = model.model.get_base_model()
    with torch.no_grad():
        hidden = base.model(
            input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False
        ).last_hidden_state
        packed = F.cross_entropy(
            base.lm_head(hidden)[0], batch.labels[0], reduction="none", ignore_index=-100
        )
    packed = packed[batch.labels[0] != -100]
    assert data.targets(0, 1) == len(packed) == len(alone) == sum(LENGTHS) - len(LENGTHS)
    assert (packed - torch.tensor(alone)).abs().max() < 1e-5
    nll = model(batch)
    assert abs(float(nll.detach() - total.detach())) / float(total.detach()) < 1e-5
    nll.backward()
    close(gradients(model), wanted)


def test_rows_of_a_batch_have_their_own_documents():
    model = trained("llama")
    separate_documents(model.model.get_base_model(), CPU)
    data = rows(length=40, separate=True)
    together = model(data.batch(0, 4))
    alone = sum(model(data.batch(n, 1)) for n in range(4))
    assert float((together - alone).detach().abs()) < 1e-5 * float(alone.detach())
    assert data.targets(0, 4) == sum(data.targets(n, 1) for n in range(4))
    assert data.targets(0, 4) == int((data.batch(0, 4).labels != -100).sum())


def influence(model, batch, source):
    """Of each position's input on the hidden state at the last: (length,), largest gradient."""
    base = model.model.get_base_model()
    embedded = base.model.embed_tokens(batch.input_ids).detach().requires_grad_(True)
    hidden = base.model(
        inputs_embeds=embedded, position_ids=batch.position_ids,
        attention_mask=batch.attention_mask, use_cache=False,
    ).last_hidden_state  # fmt: skip
    (grad,) = torch.autograd.grad(hidden[0, source].square().sum(), embedded)
    return grad[0].abs().amax(-1)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_nothing_crosses_a_document_and_everything_crosses_in_a_stream(family):
    model = trained(family)
    apart = rows(separate=True).batch(0, 1)
    stream = rows().batch(0, 1)
    assert (apart.input_ids == stream.input_ids).all()
    assert (influence(model, stream, 159)[:159] > 0).all()
    separate_documents(model.model.get_base_model(), CPU)
    seen = influence(model, apart, 159)
    assert (seen[: 160 - LENGTHS[-1]] == 0).all()
    assert (seen[160 - LENGTHS[-1] :] > 0).all()


def test_a_gap_in_positions_does_not_cut_attention():
    model = trained("llama")
    skips = PositionSkips(160, 512, 3, seed=0)
    batch = rows(skips=skips).batch(0, 1)
    places = batch.position_ids[0]
    assert int((places.diff() > 1).sum()) == 2
    assert (influence(model, batch, 159) > 0).all()
    # The trap that the mask of ones is there for: without it transformers cuts at the gap.
    bare = type(batch)(batch.input_ids, batch.labels, batch.position_ids)
    last = int((places.diff() > 1).nonzero()[-1]) + 1
    assert (influence(model, bare, 159)[:last] == 0).all()


def test_skipped_positions_are_the_ones_a_long_text_would_have():
    """The same tokens at their places in a long row, all others hidden by a dense mask."""
    model = trained("llama")
    base = model.model.get_base_model()
    batch = rows(skips=PositionSkips(160, 512, 3, seed=0)).batch(0, 1)
    places = batch.position_ids[0]
    long_ids = torch.zeros(1, 512, dtype=torch.long)
    long_ids[0, places] = batch.input_ids[0]
    present = torch.zeros(512, dtype=torch.bool)
    present[places] = True
    mask = present[None] & torch.ones(512, 512, dtype=torch.bool).tril()
    mask |= torch.eye(512, dtype=torch.bool)
    with torch.no_grad():
        ours = base.model(
            input_ids=batch.input_ids, position_ids=batch.position_ids,
            attention_mask=batch.attention_mask, use_cache=False,
        ).last_hidden_state  # fmt: skip
        long = base.model(
            input_ids=long_ids, attention_mask=mask[None, None], use_cache=False
        ).last_hidden_state
    assert (ours[0] - long[0, places]).abs().max() < 1e-4


@pytest.mark.parametrize("window", [None, 64])
def test_no_square_mask_is_ever_made(window, monkeypatch):
    monkeypatch.setattr(documents, "BLOCK", 64)
    length = 2048
    q, k, v = (torch.randn(1, heads, length, 8) for heads in (2, 1, 1))
    positions = torch.cat([torch.arange(700), torch.arange(length - 700)])[None]
    with Largest() as largest:
        out, _ = document_attention(
            torch.nn.Module(), q, k, v, Window(window) if window else None, position_ids=positions
        )
    assert out.shape == (1, length, 2, 8)
    assert largest.elements <= 2 * length * 8


@pytest.mark.parametrize("family", FAMILIES)
def test_the_self_check_compares_with_the_dense_mask(family):
    model, batch = trained(family), rows(separate=True).batch(0, 1)
    plain = plain_loss(model, batch)
    separate_documents(model.model.get_base_model(), CPU)
    assert check_loss(model, batch, plain) < 1e-5
    assert model.model.get_base_model().config._attn_implementation == documents.DOCUMENTS


def test_attention_that_is_not_known_is_refused():
    config = transformers.Gemma2Config(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config)
    with pytest.raises(BadInput, match=r"data\.documents: separate.*soft-capped"):
        separate_documents(model, CPU)
    model = decoder("mistral")
    model.config.attention_dropout = 0.1
    with pytest.raises(BadInput, match=r"data\.documents: separate.*attention_dropout"):
        separate_documents(model, CPU)
    q = torch.zeros(1, 2, 4, 8)
    with pytest.raises(BadInput, match="s_aux"):
        document_attention(torch.nn.Module(), q, q, q, None, s_aux=torch.zeros(2))
