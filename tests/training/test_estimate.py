"""Estimates against what torch really keeps, and against the peak of a process."""

import json
import os
import subprocess
import sys

import pytest
import torch
import transformers

from ctxext.checkpoints.live.head import without_peft
from ctxext.checkpoints.live.layers import decoder_layers
from ctxext.checkpoints.live.tiling import tile_mlps
from ctxext.errors import BadInput
from ctxext.runs.recipe.config import LoraConfig
from ctxext.training.attention.windows import use_windows
from ctxext.training.estimate.memory import (
    Pass,
    Shape,
    adapter_parameters,
    auto_loss_chunk,
    checkpoint_bytes,
    kept_bytes,
    layers_to_recompute,
    step_bytes,
)
from ctxext.training.model.lora import add_adapters
from ctxext.training.model.precision import share_adapter_inputs

SIZES = {
    "vocab_size": 300, "hidden_size": 256, "intermediate_size": 672, "num_hidden_layers": 2,
    "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 48, "pad_token_id": 0,
}  # fmt: skip
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
ALL = (*ATTENTION, "gate_proj", "up_proj", "down_proj")


def model_of(family, step, *, dtype, extra):
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**SIZES | extra)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
    lora = LoraConfig(
        rank=step.rank,
        targets=step.targets,
        train_norms=step.train_norms,
        dropout=0.1 if step.dropout else 0.0,
    )
    wrapped = add_adapters(model, lora, "t").train()
    if dtype == torch.bfloat16:
        share_adapter_inputs(wrapped)
    if step.mlp_tile:
        tile_mlps(model, step.mlp_tile)
    use_windows(model, torch.device("cpu"), step.length)
    return wrapped, config


def really_kept(wrapped, ids):
    """Bytes of the storages that one layer's forward pass saves, parameters and rope left out."""
    layer = decoder_layers(wrapped)[1]
    known = {p.untyped_storage().data_ptr() for p in wrapped.parameters()}
    storages, alive, inside = {}, [], []

    def pack(tensor):
        storage = tensor.untyped_storage()
        if inside and storage.data_ptr() not in known:
            storages[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # else a freed address could be counted once for two tensors
        return tensor

    def enter(module, args, kwargs):
        known.update(t.untyped_storage().data_ptr() for t in kwargs["position_embeddings"])
        inside.append(True)

    layer.register_forward_pre_hook(enter, with_kwargs=True)
    layer.register_forward_hook(lambda *_: inside.clear())
    half = without_peft(wrapped).dtype == torch.bfloat16  # which is trained under autocast
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t),
        torch.autocast("cpu", torch.bfloat16, enabled=half),
    ):
        wrapped(input_ids=ids, use_cache=False)
    return sum(storages.values())


@pytest.mark.parametrize(
    ("family", "settings", "dtype", "extra"),
    [
        ("Llama", {}, torch.float32, {}),
        ("Llama", {"targets": ALL, "train_norms": True}, torch.float32, {}),
        ("Llama", {"dropout": True}, torch.float32, {}),
        ("Llama", {"mlp_tile": 100, "targets": ALL}, torch.float32, {}),
        ("Llama", {}, torch.bfloat16, {}),
        ("Llama", {"targets": ALL}, torch.bfloat16, {}),
        ("Llama", {"targets": ALL, "train_norms": True}, torch.bfloat16, {}),
        ("Llama", {"targets": ALL, "dropout": True}, torch.bfloat16, {}),
        ("Llama", {"targets": ALL, "mlp_tile": 100}, torch.bfloat16, {}),
        ("Qwen3", {"train_norms": True}, torch.bfloat16, {}),
        ("Mistral", {}, torch.float32, {"sliding_window": 64}),
        ("Mistral", {}, torch.bfloat16, {"sliding_window": 64}),
        ("Qwen3", {}, torch.float32, {}),
        ("Gemma2", {}, torch.float32, {}),
        ("Mixtral", {}, torch.float32, {"num_local_experts": 4, "sliding_window": None}),
    ],
)
def test_what_a_layer_keeps(family, settings, dtype, extra):
    width = dtype.itemsize
    step = Pass(2, 256, width, **{"targets": ATTENTION, "rank": 8} | settings)
    wrapped, config = model_of(family, step, dtype=dtype, extra=extra)
    ids = torch.randint(3, 300, (step.batch, step.length))
    measured = really_kept(wrapped, ids)
    assert kept_bytes(Shape.of(config.to_dict()), step) == pytest.approx(measured, rel=0.12)


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Gemma2"])
def test_adapter_parameters_are_counted_exactly(family):
    step = Pass(1, 8, 4, ALL, 8)
    wrapped, config = model_of(family, step, dtype=torch.float32, extra={})
    trained = sum(p.numel() for p in wrapped.parameters() if p.requires_grad)
    assert adapter_parameters(Shape.of(config.to_dict()), ALL, 8) == trained


PEAK = """
import gc, json, pathlib, sys, warnings
import torch, transformers
from ctxext.runs.recipe.config import LoraConfig
from ctxext.training.estimate.memory import Pass, Shape, step_bytes
from ctxext.training.model.batch import plain_batch
from ctxext.training.model.lora import LossModel, add_adapters
from ctxext.training.memory.recompute import recompute_first
from ctxext.checkpoints.live.tiling import tile_mlps
from ctxext.training.attention.windows import use_windows

def status(key):
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024

for case in json.loads(sys.argv[1]):
    family, length, recomputed, chunk, tile, extra = case
    config = getattr(transformers, family + "Config")(
        hidden_size=256, intermediate_size=704, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=4, head_dim=32, max_position_embeddings=length, pad_token_id=0, **extra)
    targets = ("q_proj", "k_proj", "v_proj", "o_proj")
    model = transformers.AutoModelForCausalLM.from_config(config)
    use_windows(model, torch.device("cpu"), length)
    wrapped = add_adapters(model, LoraConfig(rank=16, targets=targets), "t").train()
    recompute_first(wrapped, recomputed)
    if tile:
        tile_mlps(model, tile)
    loss = LossModel(wrapped, chunk).train()
    loss(plain_batch(torch.randint(3, 300, (1, 64)))).backward()  # gradients exist from here on
    gc.collect()
    ids = torch.randint(3, 300, (1, length))
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    loss(plain_batch(ids)).backward()
    peak = status("VmHWM") - before
    step = Pass(1, length, 4, targets, 16, loss_chunk=chunk, mlp_tile=tile)
    estimate = step_bytes(Shape.of(config.to_dict()), step, recomputed)
    print(json.dumps([case, peak, estimate]), flush=True)
    del loss, wrapped, model
    gc.collect()
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_peaks_of_a_process():
    small, large = {"vocab_size": 2000}, {"vocab_size": 64000}
    cases = [
        ("Llama", 2048, 4, 256, 0, small),
        ("Llama", 2048, 2, 256, 0, small),
        ("Llama", 2048, 0, 256, 0, small),
        ("Llama", 2048, 4, 256, 256, small),
        ("Llama", 1024, 4, 256, 0, large),
        ("Gemma2", 512, 4, 256, 0, small),
        ("Mistral", 1024, 0, 256, 0, small | {"sliding_window": 128}),
        ("Mistral", 2048, 4, 256, 0, small | {"sliding_window": 128}),
    ]
    done = subprocess.run(
        [sys.executable, "-c", PEAK, json.dumps(cases)],
        capture_output=True,
        text=True,
        # Freed blocks go back at once: the peak is that of the tensors, not of malloc's habits.
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == len(cases)
    for case, peak, estimate in rows:
        assert estimate == pytest.approx(peak, rel=0.15), (case, peak, estimate)


LLAMA_8B = Shape(4096, 14336, 32, 32, 8, 128, 128_256)


def test_by_hand():
    """Llama-3-8B at 128k in bfloat16: 32 * 131072 * 4096 * 2 bytes of checkpoints = 32 GiB."""
    step = Pass(1, 131_072, 2, ATTENTION, 16)
    assert checkpoint_bytes(LLAMA_8B, step, 32) == 32 * 2**30
    parked = Pass(1, 131_072, 2, ATTENTION, 16, offload=True)
    assert checkpoint_bytes(LLAMA_8B, parked, 32) == 2 * 2**30
    assert adapter_parameters(LLAMA_8B, ATTENTION, 16) == 13_631_488  # peft says so for r=16
    assert auto_loss_chunk(128_256) == 256


def test_more_memory_recomputes_fewer_layers():
    step = Pass(1, 8192, 2, ATTENTION, 16)
    free = [step_bytes(LLAMA_8B, step, n) for n in (32, 20, 7, 0)]
    assert [layers_to_recompute(LLAMA_8B, step, b) for b in free] == [32, 20, 7, 0]
    assert layers_to_recompute(LLAMA_8B, step, 0) == 32


@pytest.mark.parametrize("name", ["hidden_size", "vocab_size", "num_experts_per_tok"])
@pytest.mark.parametrize("size", [-1, 1e308, "many"])
def test_a_size_that_is_none_is_named(name, size):
    config = transformers.LlamaConfig().to_dict() | {name: size}
    with pytest.raises(BadInput, match=name):
        Shape.of(config)
