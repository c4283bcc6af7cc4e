"""What is parked, when it comes back, and that it comes back exactly."""

import itertools
import weakref

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ctxext.training.memory.offload import Offloader


class Layers(nn.Module):
    def __init__(self, run):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
        self.run = run

    def forward(self, x):
        for layer in self.layers:
            x = self.run(lambda y, layer=layer: torch.tanh(layer(y)) * y, x)
        return x


def test_gradients_are_those_of_a_plain_checkpoint():
    results = []
    for run in (lambda f, *a: checkpoint(f, *a, use_reentrant=False), Offloader()):
        x = torch.randn(3, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
        model = Layers(run)
        results.append(torch.autograd.grad(model(x).sum(), [x, *model.parameters()]))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_only_inputs_are_parked_and_they_are_freed_by_the_backward_pass():
    offloader = Offloader()
    model = Layers(offloader)
    x = torch.randn(3, 8, requires_grad=True)
    out = model(x)
    assert offloader.parked == 4 * x.numel() * 4
    out.sum().backward()
    del out
    assert offloader.parked == 0
    assert offloader.most == 4 * x.numel() * 4


def test_the_original_is_not_held():
    """Else nothing would be saved: the layer's input dies once the next layer has read it."""
    offloader = Offloader()
    layer = nn.Linear(8, 8)
    x = torch.randn(3, 8, requires_grad=True) * 1.0
    seen = weakref.ref(x)
    out = offloader(lambda y: layer(y).square(), x)
    del x
    assert seen() is None
    out.sum().backward()
    assert layer.weight.grad is not None


def _noted(order, saved):
    if not isinstance(saved, torch.Tensor):  # an empty one of torch before 2.13
        order.append(saved)


def test_layers_come_back_last_first_and_the_one_before_is_announced():
    """The hook order on which the prefetch of the GPU path rests."""
    offloader, order = Offloader(), []
    fetch = offloader._fetch
    offloader._fetch = lambda saved: _noted(order, saved) or fetch(saved)
    x = torch.randn(3, 8, requires_grad=True)
    Layers(offloader)(x).sum().backward()
    assert len(order) == 4
    for later, earlier in itertools.pairwise(order):
        assert later.before() is earlier


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_bytes_leave_it():
    class Big(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(64, 64, device="cuda") / 8)

        def forward(self, x, run):
            for _ in range(8):
                x = run(lambda y: torch.tanh(y @ self.w) + y, x)
            return x

    peaks, gradients = [], []
    x = torch.randn(200_000, 64, device="cuda", requires_grad=True)
    for run in (lambda f, *a: checkpoint(f, *a, use_reentrant=False), Offloader()):
        torch.manual_seed(0)
        model = Big()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        (grad,) = torch.autograd.grad(model(x, run).sum(), [model.w])
        peaks.append(torch.cuda.max_memory_allocated() - before)
        gradients.append(grad)
    assert torch.equal(*gradients)
    assert peaks[1] < peaks[0] - 3 * x.numel() * 4
