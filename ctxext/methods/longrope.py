"""LongRoPE: a factor for every pair, found by a search, read from a file."""

from collections.abc import Sequence
from typing import Final

from ctxext.encodings.rope import RopeSpec, inv_freq_of
from ctxext.errors import BadInput
from ctxext.methods._pairs import longrope_block, standard_attention
from ctxext.methods._registry import RopeExtension, method

# What readers compute with, and no search leaves.
_SMALLEST: Final = 1e-6
_LARGEST: Final = 2.0**31


@method(
    formula="inv_freq'[i] = inv_freq[i] / long_factor[i] beyond L tokens, / short_factor[i] within",
    applies_to=("rope", "partial-rope", "mixed"),
    paper="Ding et al., LongRoPE, arXiv:2402.13753; Shang et al., LongRoPE2, arXiv:2502.20082",
    training="a search for the factors; then 400 to 1000 steps, or 10B tokens (LongRoPE2)",
    rope_type="longrope",
    since="4.51",
)
def longrope(
    spec: RopeSpec,
    target: int,
    *,
    long_factor: Sequence[float],
    short_factor: Sequence[float] | None = None,
    attention_factor: float | None = None,
) -> RopeExtension:
    """Divide the frequency of every pair by a factor of its own, given as a list.

        inv_freq'[i] = inv_freq[i] / long_factor[i]     in texts of more than L tokens
        inv_freq'[i] = inv_freq[i] / short_factor[i]    in shorter ones

    Which list counts depends on the length of the text at hand. The paper also leaves the first
    tokens unscaled, which no config expresses, and its released search does not use.

    Args:
        spec: d = `rotary_dim`; trained window L in tokens.
        target: window to reach, tokens; s = target / L.
        long_factor: d/2 numbers, 1e-6 or more (`ctxext extend --factors FILE` reads
            them).
        short_factor: the same; None: all 1, the encoding as it was trained.
        attention_factor: None: sqrt(1 + ln s / ln L), which every reader computes itself.

    Returns:
        `inv_freq` (d/2,) by the long list, radians per token, float64.

    Raises:
        BadInput: a list of another length, a factor or an attention factor out of range.
    """
    pairs = spec.rotary_dim // 2
    long = _checked("long_factor", long_factor, pairs)
    short = [1.0] * pairs if short_factor is None else _checked("short_factor", short_factor, pairs)
    factor = target / spec.original_max_position_embeddings
    attention = standard_attention(spec, factor) if attention_factor is None else attention_factor
    if not attention > 0:
        raise BadInput(f"attention_factor must be positive, and is {attention:g}")
    return RopeExtension(
        parameters={
            "factor": factor,
            "long_factor": long,
            "short_factor": short,
            "attention_factor": float(attention),
        },
        inv_freq=[f / s for f, s in zip(inv_freq_of(spec), long, strict=True)],
        attention_factor=float(attention),
        rope_theta=spec.rope_theta,
        rope_block=longrope_block(spec, target, short, long, attention),
        max_position_embeddings=target,
    )


def _checked(name: str, factors: Sequence[float], pairs: int) -> list[float]:
    """Give a list as floats.

    Raises:
        BadInput: not one number for each pair, or one out of range.
    """
    if len(factors) != pairs:
        raise BadInput(
            f"{name} has {len(factors)} numbers, and {pairs} are needed, one for each rotary pair"
        )
    for index, factor in enumerate(factors):
        if not _SMALLEST <= factor < _LARGEST:
            raise BadInput(
                f"{name}[{index}] is {factor:g}, and has to be at least {_SMALLEST:g} and below "
                "2**31"
            )
    return [float(factor) for factor in factors]
