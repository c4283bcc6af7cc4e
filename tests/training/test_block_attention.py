"""Attention by blocks against a dense masked softmax in float64, values and gradients."""

import pytest
import torch

from ctxext.training.attention.blocks import Rows, _lower_right, block_attention, documents_of

T, D = 48, 8
CHUNKS = (range(8, 16), range(32, 40))
POSITIONS = torch.cat([torch.arange(11), torch.arange(20), torch.arange(17)])[None].repeat(2, 1)
POSITIONS[1] = torch.cat([torch.arange(30), torch.arange(18)])


def tensors(kv_heads):
    generator = torch.Generator().manual_seed(0)

    def make(heads, length):
        return torch.randn(
            2, heads, length, D, generator=generator, dtype=torch.float64, requires_grad=True
        )

    return make(4, 16), make(kv_heads, T), make(kv_heads, T)


def dense(query, key, value, window, documents):
    """softmax of all logits, with what may not be read at minus infinity."""
    key, value = (x.repeat_interleave(4 // x.shape[1], 1) for x in (key, value))
    at = torch.tensor([i for chunk in CHUNKS for i in chunk])[:, None]
    to = torch.arange(T)[None]
    mask = (to <= at)[None]
    if window:
        mask = mask & (at - to < window)
    if documents is not None:
        mask = mask & (documents[:, at[:, 0], None] == documents[:, None, :])
    logits = (query @ key.mT * 0.3).masked_fill(~mask[:, None], float("-inf"))
    return logits.softmax(-1) @ value


def compare(ours, plain, inputs):
    grad = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1), dtype=ours.dtype)
    assert torch.allclose(ours, plain, rtol=1e-10, atol=1e-12)
    for a, b in zip(
        torch.autograd.grad(ours, inputs, grad),
        torch.autograd.grad(plain, inputs, grad),
        strict=True,
    ):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("block", [3, 8, 1000])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("window", [None, 5, 20])
@pytest.mark.parametrize("packed", [False, True])
def test_equals_dense(block, kv_heads, window, packed):
    inputs = tensors(kv_heads)
    documents = documents_of(POSITIONS) if packed else None
    rows = Rows(CHUNKS, window, documents)
    ours = block_attention(*inputs, rows, scaling=0.3, block=block)
    ids = documents.ids if documents else None
    compare(ours, dense(*inputs, window, ids), inputs)


def test_the_form_for_gpus_is_the_same():
    inputs = tensors(2)
    compare(_lower_right(*inputs, Rows(CHUNKS), 0.3), dense(*inputs, None, None), inputs)


def test_documents_by_hand():
    documents = documents_of(torch.tensor([[0, 1, 2, 0, 1, 0], [0, 1, 7, 8, 0, 1]]))
    assert documents.ids.tolist() == [[0, 0, 0, 1, 1, 2], [0, 0, 0, 0, 1, 1]]
    assert documents.starts.tolist() == [0, 0, 0, 0, 3, 4]
    assert documents_of(torch.tensor([[0, 5, 6], [0, 1, 9]])) is None


def test_no_mask_is_larger_than_a_block_by_what_it_can_read():
    rows = Rows((range(1000), range(7000, 8000)), window=256)
    for _, block, first in rows.blocks(128):
        assert len(block) <= 128
        assert block.stop - first <= 128 + 255
    packed = Rows((range(16),), None, documents_of(torch.arange(4).repeat(4)[None]))
    assert [first for *_, first in packed.blocks(4)] == [0, 4, 8, 12]
