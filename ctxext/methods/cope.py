"""CoPE: a larger base, and a soft clip of the slowest pairs."""

import math
from dataclasses import replace

from ctxext.encodings.rope import RopeSpec, inv_freq_of
from ctxext.errors import BadInput
from ctxext.methods._pairs import pair_by_pair
from ctxext.methods._registry import RopeExtension, method
from ctxext.methods.abf import base_for


@method(
    formula="inv_freq'[d/2 - n + j] = 0.5 (1 + cos(pi j / (n - 1))) abf(inv_freq)[d/2 - n + j]",
    applies_to=("rope", "partial-rope", "mixed"),
    paper="Li et al., CoPE, arXiv:2602.05258; hrlics/CoPE, modeling_cope.py",
    training="long training (the authors': 5000 steps of 16M tokens)",
    rope_type="longrope",
    since="4.51",
    attention="one",
    told_apart=False,
)
def cope(
    spec: RopeSpec, target: int, *, n: int | None = None, rope_theta: float | None = None
) -> RopeExtension:
    """Slow the last n pairs down on a cosine, the very last to a stop, on top of a larger base.

        inv_freq'[i] = rope_theta' ** (-2 i / d)                                 i < d/2 - n
        inv_freq'[i] = rope_theta' ** (-2 i / d) * 0.5 (1 + cos(pi j / (n - 1))),   j = i - d/2 + n

    The authors train with a base raised for the target first (1e7 for Llama 3 at 64k), and so do
    we: `rope_theta` is `abf`'s. Give the present one to leave it as it is. Their n is 20 of 64
    pairs; which pairs are slow depends on window and base, so the default is the paper's reason:
    the pairs that do not complete a turn in L. Base and clip are both written as factors of the
    trained base; the stopped pair has a factor of 1e9.

    Args:
        spec: trained window L in tokens.
        target: window to reach, tokens.
        n: pairs to clip, 2 .. d/2; None: those that do not complete a turn in L at the trained
            base, none where there are fewer than two.
        rope_theta: the new base, at least the present one; None: as `abf` chooses it.

    Returns:
        `inv_freq` (d/2,), radians per token, float64; `attention_factor` 1.

    Raises:
        BadInput: n or rope_theta out of range.
    """
    pairs = spec.rotary_dim // 2
    if n is None:
        window = spec.original_max_position_embeddings
        clipped = sum(window * f < 2 * math.pi for f in inv_freq_of(spec))
    elif not 2 <= n <= pairs:
        raise BadInput(f"cope clips 2 to {pairs} pairs of this checkpoint, and n is {n}")
    else:
        clipped = int(n)
    theta, notes = base_for(spec, target, rope_theta, "cope")
    inv_freq = inv_freq_of(replace(spec, rope_theta=theta))
    if clipped >= 2:
        for j in range(clipped):
            mask = 0.5 * (1 + math.cos(math.pi * j / (clipped - 1)))
            inv_freq[pairs - clipped + j] *= mask
    return pair_by_pair(spec, target, inv_freq, {"n": clipped, "rope_theta": theta}, notes=notes)
