"""Resonance: after YaRN, every wavelength is rounded to whole tokens."""

import math

from ctxext.encodings.rope import RopeSpec
from ctxext.errors import BadInput
from ctxext.methods._pairs import pair_by_pair
from ctxext.methods._registry import RopeExtension, method
from ctxext.methods.yarn import yarn_attention, yarn_inv_freq


@method(
    formula="inv_freq'[i] = 2 pi / round(2 pi / yarn(inv_freq)[i])",
    applies_to=("rope", "partial-rope", "mixed"),
    paper="Wang et al., Resonance RoPE, arXiv:2403.00071, section 4; sheryc/resonance_rope",
    training="as yarn, 200 to 400 steps",
    rope_type="longrope",
    since="4.51",
    attention="own",
    told_apart=False,
)
def resonance(
    spec: RopeSpec,
    target: int,
    *,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    attention_factor: float | None = None,
) -> RopeExtension:
    """Round YaRN's wavelengths to whole tokens, so that fast pairs meet no new angle at all.

        inv_freq'[i] = 2 pi / round(2 pi / inv_freq_yarn[i])

    A pair whose wavelength is a whole number of tokens repeats the same angles for ever; one whose
    is not comes to angles beyond L that training never had. Halves are rounded to even, as the
    authors' torch.round does, and two fast pairs may come to turn alike.

    Args:
        spec: trained window L in tokens.
        target: window to reach, tokens; s = target / L.
        beta_fast, beta_slow: YaRN's, beta_fast > beta_slow > 0.
        attention_factor: None: YaRN's, 0.1 ln s + 1. Written to the file either way, because a
            reader of longrope would take another.

    Returns:
        `inv_freq` (d/2,), radians per token, float64, and `attention_factor`.

    Raises:
        BadInput: betas or attention_factor out of range.
    """
    if not beta_fast > beta_slow > 0:
        raise BadInput(
            f"resonance needs beta_fast > beta_slow > 0, and got {beta_fast:g} and {beta_slow:g}"
        )
    factor = target / spec.original_max_position_embeddings
    attention = yarn_attention(factor) if attention_factor is None else attention_factor
    if not attention > 0:
        raise BadInput(f"attention_factor must be positive, and is {attention:g}")
    turn = 2 * math.pi
    inv_freq = [turn / round(turn / f) for f in yarn_inv_freq(spec, factor, beta_fast, beta_slow)]
    betas = {"beta_fast": float(beta_fast), "beta_slow": float(beta_slow)}
    return pair_by_pair(
        spec, target, inv_freq, betas | {"attention_factor": float(attention)},
        attention_factor=attention,
    )  # fmt: skip
