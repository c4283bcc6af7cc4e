"""Llama 3.1's scaling: YaRN's idea with the ramp over turns, and no attention factor."""

import math

from ctxext.encodings.rope import RopeSpec, inv_freq_of
from ctxext.errors import BadInput
from ctxext.methods._registry import RopeExtension, Scaling, Value, method


def llama3_inv_freq(
    spec: RopeSpec, factor: float, low_freq_factor: float, high_freq_factor: float
) -> list[float]:
    """Compute the formula of `llama3` for any positive ends, as transformers does from a file.

    Args:
        spec: trained window L in tokens.
        factor: s, by which the slowest pairs are slowed down.
        low_freq_factor, high_freq_factor: turns in L; a low one that is not below the high one
            leaves no ramp, and decides.

    Returns:
        (d/2,) radians per token, float64.
    """
    low, high = low_freq_factor, high_freq_factor
    inv_freq = []
    for f in inv_freq_of(spec):
        turns = spec.original_max_position_embeddings * f / (2 * math.pi)
        if turns < low:
            inv_freq.append(f / factor)
        elif turns > high or high <= low:
            inv_freq.append(f)
        else:
            m = (turns - low) / (high - low)
            inv_freq.append((1 - m) * f / factor + m * f)
    return inv_freq


def keep_llama3(scaling: Scaling, spec: RopeSpec, target: int) -> dict[str, Value]:
    """Keep the factor up to the window that is reached, and let it grow in proportion beyond."""
    low, high = (scaling.numbers[f"{end}_freq_factor"] for end in ("low", "high"))
    ends: dict[str, Value] = {"low_freq_factor": low, "high_freq_factor": high}
    factor = scaling.factor * max(1.0, target / scaling.reached)
    return {"factor": factor, **(ends if high > low else {})}


@method(
    formula="inv_freq'[i] = (1 - m) inv_freq[i] / s + m inv_freq[i], "
    "m = clip((turns - 1) / (4 - 1), 0, 1)",
    applies_to=("rope", "partial-rope", "mixed"),
    paper="Llama team, The Llama 3 Herd of Models, arXiv:2407.21783; formula in the released code",
    training="made with long training; prefer yarn for short runs",
    rope_type="llama3",
    since="4.43",
    keep=keep_llama3,
)
def llama3(
    spec: RopeSpec,
    target: int,
    *,
    factor: float | None = None,
    low_freq_factor: float = 1.0,
    high_freq_factor: float = 4.0,
) -> RopeExtension:
    """Keep pairs that turn often, slow down those that turn less than once, blend in between.

        turns[i] = L inv_freq[i] / (2 pi)
        m[i] = clip((turns[i] - low_freq_factor) / (high_freq_factor - low_freq_factor), 0, 1)
        inv_freq'[i] = (1 - m[i]) inv_freq[i] / s + m[i] inv_freq[i]

    Args:
        spec: trained window L in tokens.
        target: window to reach, tokens.
        factor: s; None: target / L. It is a number of its own: Llama 3.1 and 3.2 were trained with
            8 and 32 for the same window of 16 L, and a checkpoint that has one keeps it.
        low_freq_factor, high_freq_factor: turns in L, high > low > 0.

    Returns:
        `inv_freq` (d/2,), radians per token, float64; `attention_factor` 1.

    Raises:
        BadInput: factor, low_freq_factor or high_freq_factor out of range.
    """
    if not high_freq_factor > low_freq_factor > 0:
        raise BadInput(
            "llama3 needs high_freq_factor > low_freq_factor > 0, and got "
            f"{high_freq_factor} and {low_freq_factor}"
        )
    window = spec.original_max_position_embeddings
    if factor is None:
        factor = target / window
    elif not 1 <= factor < 2**31:
        raise BadInput(f"llama3 needs a factor of at least 1, and got {factor:g}")
    factor = float(factor)
    inv_freq = llama3_inv_freq(spec, factor, low_freq_factor, high_freq_factor)
    numbers = {
        "factor": factor,
        "low_freq_factor": float(low_freq_factor),
        "high_freq_factor": float(high_freq_factor),
    }
    return RopeExtension(
        parameters=numbers,
        inv_freq=inv_freq,
        attention_factor=1.0,
        rope_theta=spec.rope_theta,
        rope_block={
            "rope_type": "llama3",
            **numbers,
            "original_max_position_embeddings": window,
        },
        max_position_embeddings=target,
    )
