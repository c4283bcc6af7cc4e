"""How much arithmetic a step is, from shapes alone.

All functions return floating-point operations, a multiplication and an addition counted as two. N
is the number of tokens in one forward pass. A backward pass through a frozen matrix costs as much
as the forward pass (the gradient of its input), through a trained one twice as much (Kaplan et al.,
arXiv:2001.08361, appendix B); fused attention computes its weights again, so its backward pass is
2.5 times the forward one (FlashAttention-2, arXiv:2307.08691, section 4.1).
"""

from dataclasses import dataclass

from ctxext.training.estimate.memory import Pass, Shape, adapter_parameters, layer_parameters

_ATTENTION_BACKWARD = 2.5


@dataclass(frozen=True)
class Flops:
    """Arithmetic of one forward and backward pass, by where it is done."""

    matrices: float
    attention: float
    head: float

    @property
    def total(self) -> float:
        return self.matrices + self.attention + self.head


def mean_context(length: int, window: int | None) -> float:
    """Count the tokens that a token of a row can see on average, itself included.

    >>> mean_context(4, None), mean_context(4, 2)
    (2.5, 1.75)
    """
    if window is None or window >= length:
        return (length + 1) / 2
    return (window * (window + 1) / 2 + (length - window) * window) / length


def layer_forward(shape: Shape, tokens: int, length: int) -> tuple[float, float]:
    """Count (matrices, attention) of one layer's forward pass: 2 N P, and 4 N Q context."""
    attention = 4 * tokens * shape.heads * shape.head_dim * mean_context(length, shape.window)
    return 2.0 * tokens * layer_parameters(shape), attention


def pass_flops(shape: Shape, step: Pass, recomputed: int, *, full: bool = False) -> Flops:
    """Count what one forward and backward pass computes.

    Args:
        step: its `context` ranks share a row; this counts one of them.
        recomputed: layers whose forward pass is done twice, up to the last tensor that the backward
            pass needs: a frozen `down_proj` without adapter is not.
        full: every weight is trained, not adapters.
    """
    tokens = step.tokens
    matrices, attention = layer_forward(shape, tokens, step.length * step.context)
    backward = 2 if full else 1
    again = matrices
    if not full and "down_proj" not in step.targets and shape.experts_used == 1:
        again -= 2.0 * tokens * shape.intermediate * shape.hidden
    adapters = 0.0 if full else 2.0 * tokens * adapter_parameters(shape, step.targets, step.rank)
    head = 2.0 * tokens * shape.vocabulary * shape.hidden * (3 if step.train_head else 2)
    layers = shape.layers
    return Flops(
        matrices=matrices * layers * (1 + backward)
        + again * recomputed
        + adapters * (3 + recomputed / layers),
        attention=attention * (layers * (1 + _ATTENTION_BACKWARD) + recomputed),
        head=head,
    )
