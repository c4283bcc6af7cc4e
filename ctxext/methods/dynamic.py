"""Dynamic NTK: the base grows with the length of the sequence at hand."""

from dataclasses import replace

from ctxext.encodings.rope import RopeSpec, inv_freq_of
from ctxext.methods._registry import RopeExtension, method
from ctxext.methods.ntk import ntk_theta


def dynamic_theta(spec: RopeSpec, factor: float, length: float) -> float:
    """Compute the base for a sequence of `length` tokens: unchanged inside the window."""
    window = spec.original_max_position_embeddings
    if length <= window:
        return spec.rope_theta
    return ntk_theta(spec, factor * length / window - (factor - 1))


@method(
    formula="rope_theta(l) = rope_theta * (s l / L - (s - 1)) ** (d / (d - 2)) for l > L tokens",
    applies_to=("rope", "partial-rope", "mixed"),
    paper="emozilla, Dynamically scaled RoPE, 2023; as in arXiv:2309.00071, section 3.3",
    training="none, it is made for use without training; short texts are untouched",
    rope_type="dynamic",
    since="4.31",
)
def dynamic(spec: RopeSpec, target: int) -> RopeExtension:
    """Raise the base as NTK scaling does, by a scale that follows the current length l > L.

        rope_theta(l) = rope_theta * (s l / L - (s - 1)) ** (d / (d - 2))

    `max_position_embeddings` stays L: it is the L of the formula for every reader, so engines
    that take their limit from it will not offer the target (they need their own flag).

    Args:
        spec: d = `rotary_dim` >= 4; trained window L in tokens.
        target: window to reach, tokens; s = target / L.

    Returns:
        `inv_freq` (d/2,) at l = target, radians per token, float64; `attention_factor` 1.

    Raises:
        BadInput: d < 4.
    """
    factor = target / spec.original_max_position_embeddings
    at_target = replace(spec, rope_theta=dynamic_theta(spec, factor, target))
    return RopeExtension(
        parameters={"factor": factor},
        inv_freq=inv_freq_of(at_target),
        attention_factor=1.0,
        rope_theta=spec.rope_theta,
        rope_block={"rope_type": "dynamic", "factor": factor},
        max_position_embeddings=spec.original_max_position_embeddings,
    )
