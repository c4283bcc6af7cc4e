"""NTK-aware scaling: a larger base, so that fast pairs stay and the slowest is interpolated."""

import math

from ctxext.encodings.rope import RopeSpec
from ctxext.errors import BadInput
from ctxext.methods._base import by_base
from ctxext.methods._registry import RopeExtension, Value, method


def ntk_theta(spec: RopeSpec, scale: float, pair: int | None = None) -> float:
    """Compute rope_theta * scale ** (d / 2c): pair c, else the last, is slowed by exactly `scale`.

    Raises:
        BadInput: fewer than two pairs, where the first is also the last; a base beyond float64.
    """
    d = spec.rotary_dim
    if d < 4:
        raise BadInput(
            f"NTK scaling needs at least two rotary pairs, and this checkpoint rotates {d} dims",
            "use --method linear",
        )
    try:
        theta = float(spec.rope_theta * scale ** (d / (2 * (pair or d // 2 - 1))))
    except OverflowError:
        theta = math.inf
    if theta == math.inf:
        raise BadInput(f"NTK scaling by {scale:g} needs a rope_theta larger than any number")
    return theta


def check_pair(spec: RopeSpec, critical_pair: int) -> None:
    """Check the number of a pair that is to be slowed by the whole factor.

    Raises:
        BadInput: there is no such pair, or it is pair 0, whose frequency no base changes.
    """
    last = spec.rotary_dim // 2 - 1
    if not 1 <= critical_pair <= last:
        raise BadInput(
            f"critical_pair is {critical_pair:g}, and the pairs that a base slows down are "
            f"1 to {last}"
        )


@method(
    formula="rope_theta' = rope_theta * s ** (d / 2c), c = d/2 - 1",
    applies_to=("rope", "partial-rope", "mixed"),
    paper="bloc97, NTK-aware scaled RoPE, 2023; as in arXiv:2309.00071, section 3.1",
    training="none to 2-4 times the window, where it reads somewhat less than the target",
    rope_type="default",
    since="any",
)
def ntk(
    spec: RopeSpec, target: int, *, alpha: float | None = None, critical_pair: int | None = None
) -> RopeExtension:
    """Raise the base once and for all ("static" NTK).

        rope_theta' = rope_theta * alpha ** (d / 2c)
        inv_freq'[i] = rope_theta' ** (-2 i / d)

    Pair 0 is unchanged and pair c, by default the last, is divided by alpha. Written as a plain
    bigger `rope_theta`, the one form that every engine reads alike.

    Args:
        spec: d = `rotary_dim` >= 4; trained window L in tokens.
        target: window to reach, tokens.
        alpha: the scale; None: target / L. Readable length stays below alpha * L, so people
            who do not train choose it larger.
        critical_pair: c, 1 .. d/2 - 1; None: d/2 - 1. LongRoPE2 (arXiv:2502.20082) found that the
            pairs which need the whole scale begin earlier than the last that completes a turn: at
            30 for Llama 3 8B (35 by theory), 25 for Phi-3 mini (31).

    Returns:
        `inv_freq` (d/2,), radians per token, float64; `attention_factor` 1.

    Raises:
        BadInput: alpha < 1, critical_pair out of range, or d < 4.
    """
    factor = target / spec.original_max_position_embeddings
    scale = factor if alpha is None else alpha
    if scale < 1:
        raise BadInput(f"alpha is {scale}, and NTK scaling below 1 shortens the window")
    if critical_pair is not None:
        check_pair(spec, critical_pair)
    theta = ntk_theta(spec, scale, critical_pair)
    parameters: dict[str, Value] = {"factor": factor, "alpha": scale, "rope_theta": theta}
    if critical_pair is not None:
        parameters["critical_pair"] = int(critical_pair)
    return by_base(spec, target, theta, parameters)
