"""Drop: every pair of the rope stops turning, and position is what the causal mask tells."""

from ctxext.encodings.rope import RopeSpec
from ctxext.methods._pairs import pair_by_pair
from ctxext.methods._registry import RopeExtension, method


@method(
    formula="inv_freq'[i] = 0 for every pair",
    applies_to=("rope", "partial-rope"),
    paper="Gelberg et al., DroPE, arXiv:2512.12167",
    training="useless without: recalibrate it at its own window, with all weights; then a "
    "temperature reads past it",
    rope_type="longrope",
    since="4.51",
    attention="one",
    told_apart=False,
    at_factor_one=True,
)
def drop(spec: RopeSpec, target: int) -> RopeExtension:
    """Stop all pairs, so that attention is told no positions.

        inv_freq'[i] = 0,    written as a factor of 1e9

    A trained model reads nothing then, until it is trained again at the window it had. What it
    learns there holds at any distance, but attention spreads over more tokens than it was trained
    on: `temperature` is for that.

    Args:
        spec: d = `rotary_dim`.
        target: window to claim, tokens; no frequency depends on it.

    Returns:
        `inv_freq` (d/2,), radians per token, float64, 1e-9 of what they were; `attention_factor` 1.
    """
    return pair_by_pair(
        spec,
        target,
        [0.0] * (spec.rotary_dim // 2),
        {},
        notes=(
            f"no pair turns any more: train it at its own window first (ctxext finetune "
            f"--seq-length {spec.original_max_position_embeddings} --train full, or --recipe "
            "drope), then sharpen it: ctxext extend --method temperature",
        ),
    )
