"""NTK-aware scaling: a larger base, so that fast pairs stay and the slowest is interpolated."""

import math
from dataclasses import replace

from ctxext.encodings.rope import RopeSpec, inv_freq_of
from ctxext.errors import BadInput
from ctxext.methods._registry import Extension, method


def ntk_theta(spec: RopeSpec, scale: float) -> float:
    """Compute rope_theta * scale ** (d / (d - 2)): the last pair is slowed by exactly `scale`.

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
        theta = float(spec.rope_theta * scale ** (d / (d - 2)))
    except OverflowError:
        theta = math.inf
    if theta == math.inf:
        raise BadInput(f"NTK scaling by {scale:g} needs a rope_theta larger than any number")
    return theta


@method(
    applies_to=("rope", "partial-rope", "mixed"),
    paper="bloc97, NTK-aware scaled RoPE, 2023; as in arXiv:2309.00071, section 3.1",
    training="none to 2-4 times the window, where it reads somewhat less than the target",
    rope_type="default",
    since="any",
)
def ntk(spec: RopeSpec, target: int, *, alpha: float | None = None) -> Extension:
    """Raise the base once and for all ("static" NTK).

        rope_theta' = rope_theta * alpha ** (d / (d - 2))
        inv_freq'[i] = rope_theta' ** (-2 i / d)

    Pair 0 is unchanged and the last pair is divided by alpha. Written as a plain bigger
    `rope_theta`, the one form that every engine reads alike.

    Args:
        spec: d = `rotary_dim` >= 4; trained window L in tokens.
        target: window to reach, tokens.
        alpha: the scale; None: target / L. Readable length stays below alpha * L, so people
            who do not train choose it larger.

    Returns:
        `inv_freq` (d/2,), radians per token, float64; `attention_factor` 1.

    Raises:
        BadInput: alpha < 1, or d < 4.
    """
    factor = target / spec.original_max_position_embeddings
    scale = factor if alpha is None else alpha
    if scale < 1:
        raise BadInput(f"alpha is {scale}, and NTK scaling below 1 shortens the window")
    theta = ntk_theta(spec, scale)
    return Extension(
        parameters={"factor": factor, "alpha": scale, "rope_theta": theta},
        inv_freq=inv_freq_of(replace(spec, rope_theta=theta)),
        attention_factor=1.0,
        rope_theta=theta,
        rope_block={"rope_type": "default"},
        max_position_embeddings=target,
    )
