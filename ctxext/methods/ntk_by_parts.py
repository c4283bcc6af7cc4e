"""NTK-by-parts: the YaRN paper's own ramp, over turns, and no attention factor."""

from ctxext.encodings.rope import RopeSpec
from ctxext.errors import BadInput
from ctxext.methods._pairs import pair_by_pair
from ctxext.methods._registry import RopeExtension, method
from ctxext.methods.llama3 import llama3_inv_freq


@method(
    formula="inv_freq'[i] = (1 - g) inv_freq[i] / s + g inv_freq[i], "
    "g = clip((turns - alpha) / (beta - alpha), 0, 1)",
    applies_to=("rope", "partial-rope", "mixed"),
    paper="Peng et al., YaRN, arXiv:2309.00071, section 3.2, equations 17 to 19",
    training="200 to 400 steps; usable without",
    rope_type="longrope",
    since="4.51",
    attention="one",
    told_apart=False,
)
def ntk_by_parts(
    spec: RopeSpec, target: int, *, alpha: float = 1.0, beta: float = 32.0
) -> RopeExtension:
    """Keep pairs that turn often, interpolate slow ones, and ramp over turns in between.

        turns[i] = L inv_freq[i] / (2 pi)
        g[i] = clip((turns[i] - alpha) / (beta - alpha), 0, 1)
        inv_freq'[i] = (1 - g[i]) inv_freq[i] / s + g[i] inv_freq[i]

    This is the paper's equation; `yarn` follows the authors' code, which ramps over the index of
    the pair, and has an attention factor. Llama 3's scaling is the same with beta = 4.

    Args:
        spec: trained window L in tokens.
        target: window to reach, tokens; s = target / L.
        alpha, beta: turns in L, beta > alpha > 0.

    Returns:
        `inv_freq` (d/2,), radians per token, float64; `attention_factor` 1.

    Raises:
        BadInput: alpha or beta out of range.
    """
    if not beta > alpha > 0:
        raise BadInput(f"ntk-by-parts needs beta > alpha > 0, and got {beta:g} and {alpha:g}")
    factor = target / spec.original_max_position_embeddings
    inv_freq = llama3_inv_freq(spec, factor, alpha, beta)
    return pair_by_pair(spec, target, inv_freq, {"alpha": float(alpha), "beta": float(beta)})
