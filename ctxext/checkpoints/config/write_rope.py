"""Write a scaled rope into a config, under the keys that the family's class reads."""

from typing import Any, Final

from ctxext.checkpoints.config.detect import Position
from ctxext.checkpoints.config.families import NEEDS_HEAD_DIM, ROPE_WHEN_ABSENT
from ctxext.checkpoints.config.rope_families import (
    LONGROPE_ONLY,
    NEEDS_ORIGINAL,
    OWN_MSCALE,
    PARTIAL_KEY,
    PARTIAL_WHEN_ABSENT,
    THETA_BY_LAYER,
    THETA_KEY,
    TWO_FIELDS,
)
from ctxext.checkpoints.config.rope_forms import form_of, nested
from ctxext.checkpoints.config.rotation import Rope
from ctxext.checkpoints.config.windows import raise_window
from ctxext.encodings.rope_types import rope_type_facts
from ctxext.methods import RopeExtension, top_keys

_ORIGINAL: Final = "original_max_position_embeddings"


def write_rope(config: dict[str, Any], extension: RopeExtension, position: Position) -> None:
    """Put the rope where the family's class reads it, in both dialects where it reads both.

    Args:
        config: of the decoder, changed in place.
    """
    rope, form = position.rope, form_of(position.model_type)
    if rope is None:
        raise ValueError("a checkpoint without a rope is never extended")
    block = dict(extension.rope_block)
    rope_type = form.written_as or block.pop("rope_type")
    block.pop("rope_type", None)
    both = {"rope_type": rope_type, "type": rope_type, **block, **rope.block.own}
    theta = _stated_theta(extension, rope)
    fraction = _fraction(config, position, rope)
    if fraction is not None:
        both["partial_rotary_factor"] = fraction
        if form.layer_type is None:  # transformers 4 looks for it at the top alone
            config[PARTIAL_KEY.get(position.model_type, "partial_rotary_factor")] = fraction
    if position.model_type in NEEDS_ORIGINAL:
        both.setdefault(_ORIGINAL, rope.spec.original_max_position_embeddings)
    if position.model_type in OWN_MSCALE:
        both |= dict.fromkeys(("short_mscale", "long_mscale"), extension.attention_factor)
    said = position.window.max_position_embeddings
    raise_window(config, position.model_type, said, extension.max_position_embeddings)
    blocks = config.get("rope_parameters")
    # What only this class reads there has to stay for transformers 4, scaled or not; and where the
    # class scales by itself, an unscaled rope has to be said.
    own = bool(rope.block.own) or position.model_type in ROPE_WHEN_ABSENT
    old = None if rope_type == "default" and not own else both
    if position.model_type in LONGROPE_ONLY and old is not None and "attention_factor" not in old:
        # transformers 4 takes these three and refuses any other.
        old = {key: old[key] for key in ("type", "short_factor", "long_factor")}
    if position.model_type in TWO_FIELDS and rope_type_facts(rope_type).keys == {"factor"}:
        old = {"type": rope_type, "factor": float(both["factor"])}  # and here these two
    if form.layer_type is None:
        _write_theta(config, theta, position.model_type)
        config["rope_scaling"] = old
        config["rope_parameters"] = {**both, "rope_theta": theta}
    else:
        if form.flat_too:
            _write_theta(config, theta, position.model_type)
            config["rope_scaling"] = old
        else:
            config.pop("rope_scaling", None)
        if isinstance(blocks, dict) and nested(blocks):
            config["rope_parameters"] = {**blocks, form.layer_type: {**both, "rope_theta": theta}}
        elif form.flat_too:  # an empty one, or one for all layers, would count in its place
            config.pop("rope_parameters", None)
    if config.get("head_dim") is None and position.model_type in NEEDS_HEAD_DIM:
        config["head_dim"] = position.head_dim
    if "dtype" in config and "torch_dtype" not in config:
        config["torch_dtype"] = config["dtype"]  # its name in transformers 4
    for key in top_keys():
        config.pop(key, None)
    config.update(extension.beside)
    config.pop(_ORIGINAL, None)
    if rope_type_facts(rope_type).original_at_top:
        config[_ORIGINAL] = block[_ORIGINAL]


def _stated_theta(extension: RopeExtension, rope: Rope) -> float:
    """Return the base as the config states it: of a proportional rope, that of whole heads."""
    if not rope_type_facts(rope.block.rope_type).of_whole_heads:
        return float(extension.rope_theta)
    if extension.rope_theta == rope.spec.rope_theta:
        return rope.block.rope_theta
    return float(extension.rope_theta ** (rope.head_dim / rope.spec.rotary_dim))


def _fraction(config: dict[str, Any], position: Position, rope: Rope) -> float | None:
    """Return the share of a head that turns, where the file or its class would say another."""
    if rope.spec.rotary_dim < rope.head_dim:
        return rope.block.numbers.get("partial_rotary_factor")
    config.pop("partial_rotary_factor", None)  # a smaller one was ignored, and would count now
    return 1.0 if position.model_type in PARTIAL_WHEN_ABSENT else None


def _write_theta(config: dict[str, Any], theta: float, model_type: str) -> None:
    """Write the base at the top, where transformers 4 and engines look, by each of its names."""
    config["rope_theta"] = theta
    key = THETA_KEY.get(model_type)
    if key is not None:
        config[key] = theta
    by_layer = THETA_BY_LAYER.get(model_type)
    if by_layer is not None and isinstance(config.get(by_layer), list):
        config[by_layer] = [theta] * len(config[by_layer])
