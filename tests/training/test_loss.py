"""The chunked loss against cross_entropy, values and gradients, in float64."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from ctxext.checkpoints.live.head import Head
from ctxext.training.model.loss import IGNORED, shifted_labels, summed_nll


def tensors(train_head, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 13, 8, generator=generator, dtype=dtype, requires_grad=True)
    weight = torch.randn(31, 8, generator=generator, dtype=dtype, requires_grad=train_head)
    ids = torch.randint(0, 31, (2, 13), generator=generator)
    return hidden, weight, ids


@pytest.mark.parametrize("chunk", [1, 5, 26, 1000])
@pytest.mark.parametrize("train_head", [False, True])
def test_equals_cross_entropy(chunk, train_head):
    hidden, weight, ids = tensors(train_head, torch.float32)
    labels = shifted_labels(ids)
    ours = summed_nll(hidden, weight, labels, chunk=chunk)
    (ours * 0.37).backward()
    mine = [hidden.grad.clone(), weight.grad.clone() if train_head else None]
    hidden.grad = weight.grad = None
    logits = hidden @ weight.T
    plain = cross_entropy(
        logits.reshape(-1, 31), labels.reshape(-1), ignore_index=IGNORED, reduction="sum"
    )
    (plain * 0.37).backward()
    assert ours.item() == pytest.approx(plain.item(), rel=1e-6)
    assert torch.allclose(mine[0], hidden.grad, rtol=1e-5, atol=1e-6)
    if train_head:
        assert torch.allclose(mine[1], weight.grad, rtol=1e-5, atol=1e-5)


def test_last_position_is_not_scored():
    hidden, weight, ids = tensors(False)
    assert shifted_labels(ids)[:, -1].tolist() == [IGNORED, IGNORED]
    summed_nll(hidden, weight, shifted_labels(ids), chunk=4).backward()
    assert hidden.grad[:, -1].abs().max() == 0
    assert hidden.grad[:, :-1].abs().min() > 0


def test_without_gradients_nothing_is_kept():
    hidden, weight, ids = tensors(False)
    with torch.no_grad():
        value = summed_nll(hidden, weight, shifted_labels(ids), chunk=4)
    assert value.grad_fn is None


@pytest.mark.parametrize("chunk", [5, 1000])
@pytest.mark.parametrize(("scale", "softcap"), [(1.0, 2.0), (0.3, None), (3.0, 1.5)])
def test_a_head_that_scales_caps_and_shifts_equals_autograd(chunk, scale, softcap):
    hidden, weight, ids = tensors(True, torch.float32)
    bias = torch.randn(31, generator=torch.Generator().manual_seed(1), requires_grad=True)
    labels = shifted_labels(ids)
    labels[0, 3] = IGNORED
    leaves = (hidden, weight, bias)
    ours = summed_nll(hidden, Head(weight, bias, scale, softcap), labels, chunk=chunk)
    mine = torch.autograd.grad(ours * 0.37, leaves)
    logits = (hidden @ weight.T + bias) * scale
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    plain = cross_entropy(
        logits.reshape(-1, 31), labels.reshape(-1), ignore_index=IGNORED, reduction="sum"
    )
    theirs = torch.autograd.grad(plain * 0.37, leaves)
    assert ours.item() == pytest.approx(plain.item(), rel=1e-6)
    for a, b in zip(mine, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-5)
