"""Send each decoder layer through torch.compile (`train.compile`), layers alike compiled once.

Recomputation and offloading stay outside: they run the compiled layer once more. What is not plain
tensor code (tiled MLPs, our own attention) runs between the compiled parts as it is.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch

from ctxext.checkpoints.live.attention import never_compile
from ctxext.checkpoints.live.head import without_peft
from ctxext.checkpoints.live.layers import decoder_layers
from ctxext.checkpoints.live.tiling import TiledMLP
from ctxext.errors import BadInput
from ctxext.training.memory.recompute import Checkpointer


def check_compile(
    device: torch.device, reason: str = "train.compile", instead: str = "leave out --compile"
) -> None:
    """Compile a sum, forward and backward, where training will compile layers or attention.

    Args:
        reason: what asks for it.
        instead: what to do without a compiler.

    Raises:
        BadInput: that fails, mostly for want of a C++ compiler (on a GPU: of Triton).
    """
    from torch._dynamo.exc import TorchDynamoException

    def total(x: torch.Tensor) -> torch.Tensor:
        return (x * x).sum()

    try:
        value = torch.compile(total, dynamic=False)(torch.ones(4, device=device).requires_grad_())
        value.backward()  # type: ignore[no-untyped-call]
    except (TorchDynamoException, RuntimeError, ImportError, OSError, AssertionError) as error:
        words = " ".join(str(error).split())
        raise BadInput(
            f"{reason}: torch.compile does not work on {device.type} here: {words[:200]}",
            f"install a C++ compiler (g++, or name one in CXX; on a GPU also triton), or {instead}",
        ) from error


def compile_layers(model: Any, backend: str = "inductor") -> int:
    """Let torch.compile each decoder layer when it is first called; the model is changed in place.

    Args:
        model: with adapters, after all other switches, in the mode in which it stays: each way of
            calling a layer is compiled for itself.

    Returns:
        How many layers.

    Raises:
        BadInput: the layers of this model are not known one by one.
    """
    base = without_peft(model)
    layers = decoder_layers(model)
    if not layers:
        raise BadInput(
            f"train.compile: the layers of {type(base).__name__} are not known one by one",
            "leave out --compile",
        )
    never_compile(str(base.config.get_text_config()._attn_implementation))
    disable: Any = torch.compiler.disable
    base.get_input_embeddings().register_forward_hook(_wanting_a_gradient)

    @cache  # layers share their class's function, and so what was compiled
    def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        return torch.compile(function, dynamic=False, backend=backend)

    for layer in layers:
        for module in layer.modules():
            if isinstance(module.forward, TiledMLP):
                module.forward = disable(module.forward)
        if layer.gradient_checkpointing:
            layer._gradient_checkpointing_func = _of_compiled(
                layer._gradient_checkpointing_func, compiled
            )
        else:
            layer.compile(dynamic=False, backend=backend)
    return len(layers)


class _Anchored(torch.autograd.Function):
    """Passes a tensor on as one that takes a gradient, and drops that gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, anchor: torch.Tensor) -> torch.Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> Any:
        return None, None


def _wanting_a_gradient(module: Any, inputs: Any, embedded: torch.Tensor) -> torch.Tensor:
    """Let the first layer read what the others do; else it is compiled apart."""
    if embedded.requires_grad or not torch.is_grad_enabled():
        return embedded
    anchor = embedded.new_empty(0).requires_grad_()
    return _Anchored.apply(embedded, anchor)  # type: ignore[no-untyped-call, no-any-return]


def _of_compiled(run: Checkpointer, compiled: Callable[..., Any]) -> Checkpointer:
    """Tell `run` to compile what it runs: it cannot be compiled itself with all it may do."""

    def checkpointer(layer: partial[Any], *inputs: Any) -> Any:
        return run(partial(compiled(layer.func), *layer.args, **layer.keywords), *inputs)

    return checkpointer
