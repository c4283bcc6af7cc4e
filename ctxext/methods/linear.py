"""Linear, or position interpolation (PI): every pair turns `factor` times more slowly."""

from ctxext.encodings.rope import RopeSpec, inv_freq_of
from ctxext.methods._registry import RopeExtension, method


@method(
    formula="inv_freq'[i] = inv_freq[i] / s",
    applies_to=("rope", "partial-rope", "mixed"),
    paper="Chen et al., Position Interpolation, arXiv:2306.15595, equation 4",
    training="200 to 1000 steps; without training only to about twice the window",
    rope_type="linear",
    since="4.31",
)
def linear(spec: RopeSpec, target: int) -> RopeExtension:
    """Divide every frequency by s, which is the same as dividing every position by s.

        inv_freq'[i] = inv_freq[i] / s

    Args:
        spec: the trained encoding; window L in tokens.
        target: window to reach, tokens; s = target / L >= 1 (the caller has checked).

    Returns:
        `inv_freq` (d/2,), radians per token, float64; `attention_factor` 1.
    """
    factor = target / spec.original_max_position_embeddings
    return RopeExtension(
        parameters={"factor": factor},
        inv_freq=[f / factor for f in inv_freq_of(spec)],
        attention_factor=1.0,
        rope_theta=spec.rope_theta,
        rope_block={"rope_type": "linear", "factor": factor},
        max_position_embeddings=target,
    )
