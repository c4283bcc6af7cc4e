"""Write what a config says by its base alone: `rope_theta`, and no scaling beside it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ctxext.encodings.rope import RopeSpec, inv_freq_of
from ctxext.methods._registry import RopeExtension, Value


def by_base(
    spec: RopeSpec,
    window: int,
    rope_theta: float,
    parameters: Mapping[str, Value],
    *,
    beside: Mapping[str, Any] | None = None,
    notes: tuple[str, ...] = (),
) -> RopeExtension:
    """Turn every pair by a base, the trained one or another: inv_freq'[i] = base ** (-2 i / d).

    Args:
        spec: the trained encoding.
        window: what the config claims, tokens.
        parameters: the method's numbers, as reported.
        beside: further keys at the top of the config.
    """
    return RopeExtension(
        parameters=parameters,
        inv_freq=inv_freq_of(replace(spec, rope_theta=rope_theta)),
        attention_factor=1.0,
        rope_theta=rope_theta,
        rope_block={"rope_type": "default"},
        max_position_embeddings=window,
        beside=beside or {},
        notes=notes,
    )
