"""Write what no config has a name for: a factor for every pair, as a `longrope` block."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ctxext.encodings.rope import RopeSpec, inv_freq_of
from ctxext.methods._registry import RopeExtension, Value

STOPPED: Final = 1e9
"""The factor of a pair that no longer turns: a full turn in more than 6e9 tokens."""


def standard_attention(spec: RopeSpec, factor: float) -> float:
    """Compute sqrt(1 + ln s / ln L), which readers of `longrope` take where no factor is said."""
    window = spec.original_max_position_embeddings
    if factor <= 1 or window <= 1:
        return 1.0
    return math.sqrt(1 + math.log(factor) / math.log(window))


def longrope_block(
    spec: RopeSpec,
    target: int,
    short: Sequence[float],
    long: Sequence[float],
    attention_factor: float,
) -> dict[str, Any]:
    """Make the block, which says an attention factor only where readers would take another.

    vLLM and SGLang read `short_mscale` and `long_mscale` where transformers reads
    `attention_factor`, so a factor is said in both ways.
    """
    factor = target / spec.original_max_position_embeddings
    block: dict[str, Any] = {
        "rope_type": "longrope",
        "factor": factor,
        "original_max_position_embeddings": spec.original_max_position_embeddings,
    }
    if attention_factor != standard_attention(spec, factor):
        keys = ("attention_factor", "short_mscale", "long_mscale")
        block |= dict.fromkeys(keys, float(attention_factor))
    return block | {"short_factor": list(short), "long_factor": list(long)}


def pair_by_pair(
    spec: RopeSpec,
    target: int,
    inv_freq: Sequence[float],
    parameters: Mapping[str, Value],
    *,
    attention_factor: float = 1.0,
    notes: tuple[str, ...] = (),
) -> RopeExtension:
    """Write frequencies as longrope factors, the same at every length.

        short_factor[i] = long_factor[i] = inv_freq[i] / inv_freq'[i]

    Args:
        spec: the trained encoding; its base is written as it is, so that the checkpoint can be
            extended anew from what it was trained with.
        target: window to reach, tokens.
        inv_freq: (d/2,) radians per token that the pairs are to have; 0 = it stops turning, written
            as a factor of `STOPPED`.
        parameters: the method's numbers beside the factor, as reported.
        attention_factor: of cos and sin.

    Returns:
        `inv_freq` (d/2,) as a reader computes it from the factors.
    """
    trained = inv_freq_of(spec)
    factors = [
        min(STOPPED, before / after) if after > 0 else STOPPED
        for before, after in zip(trained, inv_freq, strict=True)
    ]
    factor = target / spec.original_max_position_embeddings
    block = longrope_block(spec, target, factors, factors, attention_factor)
    # Said even where it is the readers' own, so that nobody takes the block for one that changes
    # with the length of the text.
    block.setdefault("attention_factor", float(attention_factor))
    return RopeExtension(
        parameters={"factor": factor, **parameters},
        inv_freq=[f / s for f, s in zip(trained, factors, strict=True)],
        attention_factor=float(attention_factor),
        rope_theta=spec.rope_theta,
        rope_block=block,
        max_position_embeddings=target,
        notes=notes,
    )
