"""Leave to a config the attention factor that every reader computes; the rest goes into weights."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from ctxext.checkpoints.config import families
from ctxext.checkpoints.config.decoder_part import stated_part, with_decoder_part
from ctxext.checkpoints.config.detect import Position, detect
from ctxext.checkpoints.config.patch import Patch
from ctxext.checkpoints.config.rope_families import OWN_MSCALE
from ctxext.checkpoints.config.rope_forms import form_of, nested
from ctxext.engines.notes import engine_notes
from ctxext.errors import BadInput

SAID_BY: Final = frozenset(
    {"attention_factor", "mscale", "mscale_all_dim", "short_mscale", "long_mscale"}
)
"""Keys of a rope block that replace the attention factor of its `rope_type`."""


@dataclass(frozen=True)
class Split:
    """A patch whose config says no attention factor of its own.

    Attributes:
        patch: with the attention factor that follows from its `rope_type` alone.
        asked: what cos and sin were to be multiplied by.
        rest: asked / what the config gives: queries have to grow by its square.
    """

    patch: Patch
    asked: float
    rest: float


def split_temperature(patch: Patch, position: Position, where: str) -> Split:
    """Take out of a planned config what several engines pass over.

    m = asked / g, where g is the attention factor that readers compute from the `rope_type` where
    the block has no key for it (yarn: 0.1 ln s + 1). Logits of the dims that turn are (g q) . (g k)
    with q grown by m ** 2, so they are what they were to be.

    Args:
        patch: as planned.
        position: of the base.
        where: its config's path, for messages.

    Raises:
        BadInput: there is nothing to fold, or the family's attention factor is not of this kind.
    """
    extension, model_type = patch.rope, position.model_type
    if extension is None and patch.extension is not None:
        raise BadInput(
            f"--fold-attention-factor: method {patch.method} writes no rope, so there is no factor"
        )
    if extension is None:
        raise BadInput(
            "--fold-attention-factor: the window stays, and so does the rope: there is no factor"
        )
    if model_type in families.LATENT:
        raise BadInput(
            f"--fold-attention-factor: {model_type} has latent attention: its temperature is on "
            "the whole score and stands in mscale_all_dim, which its readers know"
        )
    if model_type in OWN_MSCALE:
        raise BadInput(
            f"--fold-attention-factor: readers of {model_type} take the factor from its long_mscale"
        )
    config = _without_temperature(patch.config, position)
    rope = detect(config, where=where, original_length=patch.original).rope
    if rope is None or rope.attention_factor is None:
        raise BadInput(
            f"--fold-attention-factor: {where}: the rope of this {model_type} is unknown"
        )
    asked, left = extension.attention_factor, rope.attention_factor
    if math.isclose(asked, left, rel_tol=1e-9):
        name = extension.rope_block["rope_type"]
        raise BadInput(
            f"--fold-attention-factor: nothing to fold: readers of {name} compute the attention "
            f"factor {left:.6g} by themselves",
            "leave out the flag, or set another factor: --set attention_factor=N",
        )
    block = _plain(extension.rope_block)
    warnings = _without_notes(patch, position.model_type, extension.rope_block, block)
    new = replace(extension, attention_factor=left, rope_block=block)
    return Split(
        replace(patch, config=config, extension=new, warnings=warnings), asked, asked / left
    )


def _plain(block: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in block.items() if key not in SAID_BY}


def _without_temperature(config: Mapping[str, Any], position: Position) -> dict[str, Any]:
    """Drop the keys from the rope of the layers that were extended, in both dialects."""
    decoder = dict(stated_part(config, position.part))
    layer_type = form_of(position.model_type).layer_type
    for key in ("rope_scaling", "rope_parameters"):
        block = decoder.get(key)
        if not isinstance(block, dict):
            continue
        if layer_type is not None and nested(block):
            decoder[key] = {**block, layer_type: _plain(block[layer_type])}
        else:
            decoder[key] = _plain(block)
    return with_decoder_part(config, position.part, decoder)


def _without_notes(
    patch: Patch, model_type: str, before: Mapping[str, Any], after: Mapping[str, Any]
) -> tuple[str, ...]:
    """Take back what was said of engines that pass over the keys."""
    stale = set(engine_notes(patch.method, before, patch.target, model_type))
    stale -= set(engine_notes(patch.method, after, patch.target, model_type))
    return tuple(warning for warning in patch.warnings if warning not in stale)
