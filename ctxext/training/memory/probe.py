"""Measure this machine at a model's own work: a layer and a piece of its head, for a second."""

import copy
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch

from ctxext.checkpoints.config.decoder_config import decoder_config
from ctxext.checkpoints.folder import Source
from ctxext.checkpoints.live.head import decoder_of, without_peft
from ctxext.checkpoints.live.quiet import quiet_transformers
from ctxext.runs.recipe.config import LoraConfig
from ctxext.training.estimate.flops import Flops, pass_flops
from ctxext.training.estimate.memory import Pass, Shape
from ctxext.training.estimate.rates import Rates
from ctxext.training.model.lora import add_adapters
from ctxext.training.model.loss import summed_nll

_ENOUGH = 0.4  # seconds: of the longest piece of work that is timed
_FEWEST = 128
_HEAD_ROWS, _HEAD_TOKENS = 8192, 512


def measure_model(
    source: Source,
    lora: LoraConfig,
    step: Pass,
    device: torch.device,
    dtype: str,
    *,
    trust_remote_code: bool = False,
) -> Rates:
    """Run `measure_rates` for a checkpoint's model, of which only config.json is read.

    Raises:
        BadInput: transformers cannot make anything of that config.
    """
    with quiet_transformers():
        config = decoder_config(source, trust_remote_code=trust_remote_code)
        return measure_rates(config.get_text_config(), lora, step, device, getattr(torch, dtype))


def measure_rates(
    config: Any, lora: LoraConfig, step: Pass, device: torch.device, dtype: torch.dtype
) -> Rates:
    """Time forward and backward passes of one random layer with adapters, at two lengths.

    The two lengths tell what grows with the row (matrices) from what grows with its square
    (attention). No more than about two seconds, unless the layer is very large.

    Args:
        config: transformers' config of the model.
        step: the pass that is planned; shorter rows are timed.
    """
    shape = Shape.of(config.to_dict())
    layer_shape = replace(shape, layers=1, vocabulary=_FEWEST)
    layer = _one_layer(config, lora, device, dtype)
    timings: list[tuple[Flops, float]] = []
    length = min(_FEWEST, step.length)
    while not timings or (length <= step.length and timings[-1][1] < _ENOUGH):
        ids = torch.zeros((1, length), dtype=torch.long, device=device)
        seconds = _fastest(lambda ids=ids: _forward_backward(layer, ids), device)  # type: ignore[misc]
        timed = replace(step, batch=1, length=length, context=1, offload=False, mlp_tile=0)
        timings.append((pass_flops(layer_shape, timed, 0), seconds))
        length *= 2
    matrices, attention = _two_rates(timings)
    head = _head_rate(shape.hidden, device, dtype)
    return Rates(matrices, attention, head)


def _one_layer(config: Any, lora: LoraConfig, device: torch.device, dtype: torch.dtype) -> Any:
    import transformers

    small = copy.deepcopy(config)
    small.num_hidden_layers, small.vocab_size = 1, _FEWEST
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):  # of a vocabulary that is gone
        setattr(small, name, None)
    if getattr(small, "layer_types", None) and not hasattr(type(small), "layer_types"):
        with suppress(AttributeError):  # another name of what the class derives
            small.layer_types = small.layer_types[:1]
    model = transformers.AutoModelForCausalLM.from_config(small, dtype=dtype).to(device)
    return add_adapters(model, replace(lora, train_embeddings=False), "probe").train()


def _forward_backward(layer: Any, ids: torch.Tensor) -> None:
    base = without_peft(layer)
    embedded = base.get_input_embeddings()(ids).requires_grad_()
    decoder_of(base)(inputs_embeds=embedded, use_cache=False).last_hidden_state.sum().backward()


def _head_rate(hidden: int, device: torch.device, dtype: torch.dtype) -> float:
    head = torch.randn(_HEAD_ROWS, hidden, device=device, dtype=dtype)
    states = torch.randn(1, _HEAD_TOKENS, hidden, device=device, dtype=dtype, requires_grad=True)
    labels = torch.zeros((1, _HEAD_TOKENS), dtype=torch.long, device=device)
    work = 4.0 * _HEAD_TOKENS * _HEAD_ROWS * hidden

    def loss() -> None:
        summed_nll(states, head, labels, chunk=_HEAD_TOKENS).backward()  # type: ignore[no-untyped-call]

    return work / _fastest(loss, device)


def _fastest(work: Callable[[], None], device: torch.device) -> float:
    """Return the seconds of the fastest of three runs, after one that warms up.

    Libraries and kernels of a GPU are loaded by the first, so it never is the only one.
    """
    best = float("inf")
    for run in range(4):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - began
        best = min(best, seconds)
        if run and seconds > _ENOUGH:
            break
    return best


def _two_rates(timings: list[tuple[Flops, float]]) -> tuple[float, float]:
    """Compute the rates of matrices and attention from the last two timings; equal if unclear."""
    work, seconds = timings[-1]
    together = (work.matrices + work.attention) / seconds
    if len(timings) < 2:
        return together, together
    before, earlier = timings[-2]
    slope = work.attention - before.attention * work.matrices / before.matrices
    rest = seconds - earlier * work.matrices / before.matrices
    if slope <= 0 or rest <= 0:
        return together, together
    attention = slope / rest
    left = seconds - work.attention / attention
    return (work.matrices / left, attention) if left > 0 else (together, together)
