"""p-RoPE: the slowest pairs stop turning."""

from ctxext.encodings.rope import RopeSpec, inv_freq_of
from ctxext.errors import BadInput
from ctxext.methods._pairs import pair_by_pair
from ctxext.methods._registry import RopeExtension, method


@method(
    formula="inv_freq'[i] = inv_freq[i] for i < p d/2, and 0 from there",
    applies_to=("rope", "partial-rope", "mixed"),
    paper="Barbero et al., Round and Round We Go, arXiv:2410.06205, section 6",
    training="made for training from scratch; in a trained model it needs long training",
    rope_type="longrope",
    since="4.51",
    attention="one",
    told_apart=False,
)
def p_rope(spec: RopeSpec, target: int, *, p: float = 0.75) -> RopeExtension:
    """Keep the fastest share p of the pairs as they are, and stop the others.

        inv_freq'[i] = inv_freq[i]     i < floor(p d / 2)
        inv_freq'[i] = 0               otherwise, written as a factor of 1e9

    What carries meaning in the slow pairs then holds at any distance. transformers 5 has a
    `rope_type` of this kind, `proportional`, for Gemma 4 alone (with true zeros); other classes
    and engines do not take it, so it is not used here.

    Args:
        spec: d = `rotary_dim`.
        target: window to reach, tokens; no frequency depends on it.
        p: share of the pairs that keep turning, above 0 and at most 1.

    Returns:
        `inv_freq` (d/2,), radians per token, float64; `attention_factor` 1.

    Raises:
        BadInput: p out of range, or no pair left that turns.
    """
    if not 0 < p <= 1:
        raise BadInput(f"p-rope needs p above 0 and at most 1, and got {p:g}")
    kept = int(p * spec.rotary_dim // 2)
    if kept == 0:
        raise BadInput(f"p {p:g} leaves none of {spec.rotary_dim // 2} pairs turning")
    inv_freq = [f if i < kept else 0.0 for i, f in enumerate(inv_freq_of(spec))]
    return pair_by_pair(spec, target, inv_freq, {"p": float(p)})
