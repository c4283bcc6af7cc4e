"""Slopes: ALiBi's slopes are made gentler by the factor, so that no bias is larger than trained."""

from ctxext.encodings.alibi import AlibiSpec
from ctxext.methods._registry import SlopesExtension, method


@method(
    formula="m'[h] = m[h] L / L'",
    applies_to=("alibi",),
    paper="Al-Khateeb et al., Position Interpolation Improves ALiBi Extrapolation, "
    "arXiv:2310.13017",
    training="a few hundred steps; texts within L are read otherwise too",
    writes="alibi_slope_factor",
    runs_in="ctxext's own decoder alone: no other class has a key for it",
)
def slopes(spec: AlibiSpec, target: int) -> SlopesExtension:
    """Divide the slope of every head by s = L' / L: interpolation of positions, for ALiBi.

        bias[h](q, k) = -m[h] (q - k) L / L'

    The bias at the far end of L' is what it was at the far end of L.

    Args:
        spec: trained window L in tokens.
        target: L', window to reach, tokens.

    Returns:
        `factor` s, by which slopes are divided.
    """
    factor = target / spec.window
    return SlopesExtension(
        parameters={"factor": factor}, factor=factor, max_position_embeddings=target
    )
