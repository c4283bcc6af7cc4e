"""S2-Attn against one that is written out token by token, and only where it belongs: training."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from ctxext.errors import BadInput
from ctxext.training.attention.shifted import shifted_attention, use_shifted_attention
from support.checkpoints import build_tiny


def slow(query, key, value, scaling):
    """One query at a time, float64: the groups of a head, by the paper's section 3.2."""
    batch, heads, length, dim = query.shape
    group = length // 4
    out = torch.zeros(batch, heads, length, dim, dtype=torch.float64)
    repeat = heads // key.shape[1]
    for head in range(heads):
        shift = group // 2 if head >= heads // 2 else 0
        for token in range(length):
            own = (token + shift) // group
            seen = [t for t in range(token + 1) if (t + shift) // group == own]
            for row in range(batch):
                k = key[row, head // repeat, seen].double()
                weights = torch.softmax(k @ query[row, head, token].double() * scaling, dim=0)
                out[row, head, token] = weights @ value[row, head // repeat, seen].double()
    return out


@pytest.mark.parametrize(("heads", "kv", "length"), [(4, 4, 16), (4, 2, 32), (6, 1, 40), (3, 3, 8)])
def test_equals_the_slow_one(heads, kv, length):
    torch.manual_seed(0)
    q = torch.randn(2, heads, length, 8)
    k, v = torch.randn(2, kv, length, 8), torch.randn(2, kv, length, 8)
    for scaling in (None, 0.5):
        got = shifted_attention(q, k, v, scaling=scaling)
        want = slow(q, k, v, scaling or 8**-0.5)
        assert got.shape == q.shape
        assert torch.allclose(got.double(), want, atol=1e-6)


def test_no_token_reads_a_later_one_and_shifted_heads_cross_the_borders():
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 32, 4, requires_grad=True) for _ in range(3))
    out = shifted_attention(q, k, v)
    for token in range(32):
        (grad,) = torch.autograd.grad(out[0, :, token].sum(), v, retain_graph=True)
        reach = grad[0].abs().sum(-1) > 0
        assert not reach[:, token + 1 :].any()
        first = [int(row.nonzero()[0]) for row in reach]
        assert first == [token // 8 * 8, max((token + 4) // 8 * 8 - 4, 0)]


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_training_is_sparse_and_evaluation_is_full(tmp_path, family):
    folder = build_tiny(tmp_path / "base", family)
    ids = torch.arange(64)[None]
    plain = AutoModelForCausalLM.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    use_shifted_attention(model)
    with torch.no_grad():
        full = plain.eval()(input_ids=ids).logits
        assert torch.equal(model.eval()(input_ids=ids).logits, full)
        sparse = model.train()(input_ids=ids).logits
        assert torch.allclose(sparse[:, :8], full[:, :8], atol=1e-5)  # no border before these
        assert (sparse[:, 16:] - full[:, 16:]).abs().max() > 0.1
        assert torch.equal(plain.train()(input_ids=ids).logits, full)
    model.save_pretrained(tmp_path / "saved")
    assert "ctxext_s2" not in (tmp_path / "saved" / "config.json").read_text()


def test_a_whole_layer_equals_eager_attention_under_the_mask(tmp_path):
    """transformers' own eager attention, given S2's mask head by head, is the same layer."""
    folder = build_tiny(tmp_path / "base", "llama")
    ids = torch.arange(64)[None]
    model = AutoModelForCausalLM.from_pretrained(folder)
    use_shifted_attention(model)
    with torch.no_grad():
        got = model.train()(input_ids=ids).logits
    position = torch.arange(64)
    mask = torch.full((1, 4, 64, 64), float("-inf"))
    for head in range(4):
        group = (position + (8 if head >= 2 else 0)) // 16
        allowed = (group[:, None] == group) & (position[:, None] >= position)
        mask[0, head][allowed] = 0.0
    eager = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    with torch.no_grad():
        want = eager(input_ids=ids, attention_mask=mask).logits
    assert torch.allclose(got, want, atol=2e-5, rtol=1e-5)


def test_what_it_cannot_do_is_refused(tmp_path):
    with pytest.raises(BadInput, match="multiple of 8"):
        shifted_attention(*(torch.zeros(1, 2, 12, 4) for _ in range(3)))
    config = AutoConfig.from_pretrained(build_tiny(tmp_path / "base", "mistral"))
    config.sliding_window = 24
    model = AutoModelForCausalLM.from_config(config)
    use_shifted_attention(model)
    with pytest.raises(BadInput, match="mask"):
        model.train()(input_ids=torch.arange(64)[None])
    with pytest.raises(BadInput, match="mask"):  # padding
        model(input_ids=torch.arange(16)[None], attention_mask=torch.tensor([[0] * 4 + [1] * 12]))
    model._supports_attention_backend = False  # as falcon and gptj say of themselves
    with pytest.raises(BadInput, match="not to be had with MistralForCausalLM"):
        use_shifted_attention(model)
