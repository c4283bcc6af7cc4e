"""The peak of one pass by the project's own code on fake tensors: a real model's shapes, no memory.

Every storage that an operator allocates is counted from then until it is freed. Autocast on a CPU
casts as on a GPU; in place of a GPU's attention stands a function that allocates what
FlashAttention-2 does (forward: output and log-sum-exp; backward: dq, dk, dv, dq in float32, and dk,
dv for each query head where key heads are shared), and in place of pinned copies one that
gives a layer its input back and fetches the one before. What is counted is tensors, so
fragmentation is not, nor what is inside a kernel.
"""

import weakref
from contextlib import nullcontext
from functools import partial

import torch
import transformers
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from ctxext.checkpoints.live.tiling import tile_mlps
from ctxext.training.memory.recompute import recompute_first
from ctxext.training.model.batch import plain_batch
from ctxext.training.model.lora import LossModel, add_adapters
from ctxext.training.model.precision import narrow_embeddings, share_adapter_inputs

ATTENTION = "fake_attention"  # a name with "flash" in it is looked up elsewhere


class Storages(TorchDispatchMode):
    """Bytes that are alive, and the most there were."""

    def __init__(self, known):
        super().__init__()
        self.alive = {tensor.untyped_storage()._cdata for tensor in known}
        self.now = self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.see(tensor)
        return out

    def see(self, tensor):
        storage = tensor.untyped_storage()
        if storage._cdata in self.alive or not storage.nbytes():
            return
        self.alive.add(storage._cdata)
        self.now += storage.nbytes()
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self.gone, storage._cdata, storage.nbytes())

    def gone(self, key, size):
        self.alive.discard(key)
        self.now -= size


class Flash(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v):
        batch, heads, length, dim = q.shape
        out = q.new_empty(batch, length, heads, dim).transpose(1, 2)
        log_sums = q.new_empty(batch, heads, length, dtype=torch.float32)
        ctx.save_for_backward(q, k, v, out, log_sums)
        return out

    @staticmethod
    def backward(ctx, grad):
        q, k, v, *others = ctx.saved_tensors
        wide = torch.empty_like(q, dtype=torch.float32)
        grads = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        each = [torch.empty_like(q) for _ in range(2 if k.shape[1] < q.shape[1] else 0)]
        del wide, each, others
        return grads


def attention(module, query, key, value, attention_mask, **others):
    assert attention_mask is None
    if not torch.is_autocast_enabled("cpu"):
        return sdpa_attention_forward(module, query, key, value, None, **others)
    # SDPA is on autocast's list.
    out = Flash.apply(*(t.to(torch.bfloat16) for t in (query, key, value)))
    return out.transpose(1, 2).contiguous(), None


class Fetched:
    """A checkpoint function whose inputs are elsewhere: an input comes back when it is needed, and
    the one of the layer before with it."""

    class Away:
        here = None

    def __init__(self):
        self.newest = None

    def park(self, tensor):
        away = self.Away()
        away.like, away.before, self.newest = (tensor.shape, tensor.dtype), self.newest, away
        return away

    def fetch(self, away):
        for wanted in (away, away.before):
            if wanted is not None and wanted.here is None:
                wanted.here = torch.empty(wanted.like[0], dtype=wanted.like[1])
        here, away.here, away.before = away.here, None, None
        return here

    def __call__(self, function, *args):
        with torch.autograd.graph.saved_tensors_hooks(self.park, self.fetch):
            return checkpoint(function, *args, use_reentrant=False)


def to_fake(model):
    """Parameters on the meta device as fake ones on a CPU, with gradients; the shared stay so."""
    made = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and id(parameter) not in made:
                fake = torch.empty(parameter.shape, dtype=parameter.dtype)
                fake = torch.nn.Parameter(fake, requires_grad=parameter.requires_grad)
                fake.grad = torch.zeros_like(fake) if fake.requires_grad else None
                made[id(parameter)] = (fake, parameter)  # held, or its id might come again
            if parameter is not None:
                module._parameters[name] = made[id(parameter)][0]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def fake_peak(config, step, recomputed, *, full=False, lora=None):
    """Most bytes that a pass holds beside parameters, their gradients and the buffers.

    Args:
        config: transformers' config.
        step: `estimate.Pass`; a width of 2 is a bfloat16 base under autocast.
        recomputed: layers, the first ones.
        lora: `LoraConfig`.
    """
    half = step.width == 2
    transformers.AttentionInterface.register(ATTENTION, attention)
    transformers.AttentionMaskInterface.register(ATTENTION, lambda **_: None)
    with torch.device("meta"):
        dtype = torch.bfloat16 if half and not full else torch.float32
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
        wrapped = model if full else add_adapters(model, lora, "fake")
    model.set_attn_implementation(ATTENTION)
    if half:
        share_adapter_inputs(wrapped)
        narrow_embeddings(model)
    loss = LossModel(wrapped, step.loss_chunk).train()
    if step.mlp_tile:
        tile_mlps(wrapped, step.mlp_tile)
    plain = partial(checkpoint, use_reentrant=False)
    recompute_first(wrapped, recomputed, Fetched() if step.offload else plain)
    with FakeTensorMode(allow_non_fake_inputs=True):
        to_fake(wrapped)
        known = [*wrapped.parameters(), *wrapped.buffers()]
        known += [p.grad for p in known if p.grad is not None]
        batch = plain_batch(torch.zeros(step.batch, step.length, dtype=torch.long))
        storages = Storages(known)
        with storages, torch.autocast("cpu", torch.bfloat16) if half else nullcontext():
            loss(batch).backward()
    return storages.most
