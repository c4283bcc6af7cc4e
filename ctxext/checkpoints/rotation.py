"""From a rope block to the numbers that a reader of it computes."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ctxext.checkpoints import families
from ctxext.checkpoints.numbers import real
from ctxext.checkpoints.rope_block import RopeBlock
from ctxext.checkpoints.windows import Origin, Window
from ctxext.encodings.rope import RopeSpec, inv_freq_of
from ctxext.errors import BadInput
from ctxext.methods import METHODS


@dataclass(frozen=True)
class Rope:
    """A rotary encoding as trained (`spec`) and as scaled now.

    `inv_freq` (rotary_dim / 2,) in radians per token and `attention_factor` are None for a
    `rope_type` that ctxext does not know. `sha256` identifies the rotation as it is now.
    """

    spec: RopeSpec
    block: RopeBlock
    head_dim: int
    inv_freq: list[float] | None
    attention_factor: float | None
    sha256: str

    @property
    def scaled(self) -> bool:
        """Whether the config asks for any scaling (static NTK is only seen in `spec`)."""
        return self.block.rope_type != "default" or self.block.rope_theta != self.spec.rope_theta


def read_rope(
    config: Mapping[str, Any],
    block: RopeBlock,
    model_type: str,
    head_dim: int,
    window: Window,
    current: int,
    origin: Origin | None,
    where: str,
) -> Rope:
    fraction = block.numbers.get("partial_rotary_factor")
    for key in ("partial_rotary_factor", "rotary_pct"):
        if fraction is None:
            fraction = real(config, key, where, [])
    if fraction is None:
        fraction = families.PARTIAL_WHEN_ABSENT.get(model_type, 1.0)
    if not 0 < fraction <= 1:
        raise BadInput(f"{where}: partial_rotary_factor is {fraction:g}, and has to be in (0, 1]")
    rotary_dim = int(head_dim * fraction)
    if rotary_dim < 2 or rotary_dim % 2:
        raise BadInput(
            f"{where}: {rotary_dim} rotated dims (head_dim {head_dim} x {fraction:g}); "
            "RoPE turns pairs, so the number has to be even"
        )
    now = RopeSpec(rotary_dim, block.rope_theta, window.original)
    effect = frequencies(block, now, current, where)
    trained = now
    if origin is not None and block.rope_type == "default":
        trained = replace(now, rope_theta=origin.rope_theta)
    return Rope(
        spec=trained,
        block=block,
        head_dim=head_dim,
        inv_freq=effect[0] if effect else None,
        attention_factor=effect[1] if effect else None,
        sha256=rope_hash(block, now, current, where),
    )


def frequencies(
    block: RopeBlock, spec: RopeSpec, max_position_embeddings: int, where: str
) -> tuple[list[float], float] | None:
    """What a reader of this block computes, at the longest length the block is made for.

    Args:
        block: as read from a file.
        spec: rotary dims and *original* window; its `rope_theta` is not used, the block's is.
        max_position_embeddings: the config's, tokens.

    Returns:
        (inv_freq, attention_factor): (rotary_dim / 2,) radians per token, float64; None for a
        `rope_type` that ctxext does not know.

    Raises:
        BadInput: a key that this `rope_type` needs is missing, or a list has the wrong length.
    """
    spec = RopeSpec(spec.rotary_dim, block.rope_theta, spec.original_max_position_embeddings)
    window = spec.original_max_position_embeddings
    if block.rope_type == "default":
        return inv_freq_of(spec), 1.0
    if block.rope_type == "longrope":
        return _longrope(block, spec, max_position_embeddings, where)
    if block.rope_type not in METHODS or block.rope_type == "ntk":
        return None
    factor = block.factor
    if factor is None:
        if block.rope_type != "yarn" or block.original_max_position_embeddings is None:
            raise BadInput(f"{where}: rope_type {block.rope_type} needs a factor")
        factor = max_position_embeddings / window
    known = METHODS[block.rope_type].parameters
    parameters: dict[str, Any] = {k: v for k, v in block.numbers.items() if k in known}
    if "truncate" in known:
        parameters["truncate"] = block.truncate
    # The exact factor of the file counts, so the target may be a fraction of a token here.
    target: Any = window * factor
    extension = METHODS[block.rope_type](spec, target, **parameters)
    return extension.inv_freq, extension.attention_factor


def _longrope(
    block: RopeBlock, spec: RopeSpec, max_position_embeddings: int, where: str
) -> tuple[list[float], float]:
    """inv_freq of the long set, and sqrt(1 + ln s / ln L); LongRoPE, arXiv:2402.13753."""
    pairs = spec.rotary_dim // 2
    for name, factors in (("short_factor", block.short_factor), ("long_factor", block.long_factor)):
        if len(factors) != pairs:
            raise BadInput(
                f"{where}: {name} has {len(factors)} numbers, and {pairs} are needed "
                f"(one for each of {pairs} rotary pairs)"
            )
    window = spec.original_max_position_embeddings
    factor = block.factor or max_position_embeddings / window
    attention = block.numbers.get("attention_factor")
    if attention is None:
        attention = math.sqrt(1 + math.log(factor) / math.log(window)) if factor > 1 else 1.0
    return [f / s for f, s in zip(inv_freq_of(spec), block.long_factor, strict=True)], attention


def rope_hash(block: RopeBlock, spec: RopeSpec, max_position_embeddings: int, where: str) -> str:
    """sha256, as hex, of how a checkpoint rotates: two that rotate alike have the same.

    An adapter carries the hash of the encoding it was trained under, and a merge compares. What
    is hashed is the effect (`inv_freq` and attention factor to nine digits), so a default written
    out or left out, and either dialect, make no difference.
    """
    content: dict[str, Any] = {"rope_type": block.rope_type, "rotary_dim": spec.rotary_dim}
    effect = frequencies(block, spec, max_position_embeddings, where)
    if effect is None:
        content["numbers"] = dict(block.numbers) | {"factor": block.factor}
        content["rope_theta"] = f"{block.rope_theta:.9e}"
    else:
        content["inv_freq"] = [f"{f:.9e}" for f in effect[0]]
        content["attention_factor"] = f"{effect[1]:.9e}"
    if block.rope_type == "dynamic":  # the same at the target can differ on the way there
        content["window"] = max_position_embeddings
    if block.rope_type == "longrope":
        content["short_factor"] = [f"{f:.9e}" for f in block.short_factor]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
