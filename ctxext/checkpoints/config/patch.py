"""Make the new config from a config and a method's result, as a value: nothing is written here."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ctxext.checkpoints.config import families
from ctxext.checkpoints.config.detect import Position
from ctxext.checkpoints.config.rotation import Rope
from ctxext.checkpoints.config.windows import Window
from ctxext.encodings.rope_types import follows_length, rope_type_facts
from ctxext.engines.notes import engine_notes
from ctxext.errors import BadInput
from ctxext.methods import (
    METHODS,
    Extension,
    Method,
    Scaling,
    Value,
    get_method,
    name_of_scaling,
    top_keys,
)

_ORIGINAL = "original_max_position_embeddings"
ABSENT = "(absent)"


@dataclass(frozen=True)
class Patch:
    """A new config, and how it came about.

    Attributes:
        config: the whole new config.json.
        extension: what the method computed; None when there is nothing to extend (factor 1).
        original, target: windows in tokens.
        restored: {FILE.KEY: (before, values)} of lengths in other files that are set back to
            `before`, where they are one of `values` (None: whatever they are); None = they are
            raised.
    """

    config: dict[str, Any]
    extension: Extension | None
    method: str
    original: int
    target: int
    warnings: tuple[str, ...]
    restored: Mapping[str, tuple[Any, tuple[int, ...] | None]] | None = None


def resolve_target(
    position: Position, target: int | None, factor: float | None, *, flag: str = "--"
) -> int:
    """Work out the window to reach, in tokens, from `--target` or `--factor`.

    Args:
        flag: what messages put before the two names: `extend.` in a recipe.

    Raises:
        BadInput: both or neither given; below the trained window; not a whole, even number of
            tokens; a factor that readers would not get back from the two windows.
    """
    original = position.window.original
    if (target is None) == (factor is None):
        raise BadInput(
            f"give either {flag}target or {flag}factor", f"e.g. {flag}target {original * 4}"
        )
    if target is None:
        target = _target_of(original, factor or 0.0, flag)
    if target % 2:
        raise BadInput(f"{flag}target {target} is odd", f"nearest: {target + 1}")
    if target < original:
        raise BadInput(
            f"{flag}target {target} is below the trained window of {original} tokens",
            "give a larger one",
        )
    if round(original * (target / original)) != target or (target / original) * original != target:
        raise BadInput(
            f"{flag}target {target} / {original} has no exact factor, and some engines compute the "
            "window from the factor",
            f"nearest that works: {flag}target {_nearest(original, target)}",
        )
    return target


def _target_of(original: int, factor: float, flag: str) -> int:
    if not factor >= 1:
        raise BadInput(f"{flag}factor is {factor:g}, and has to be at least 1")
    if factor * original >= 2**31:
        raise BadInput(f"{flag}factor {factor:g} x {original} tokens is beyond 2**31")
    target = round(factor * original)
    if target != factor * original or target % 2:
        raise BadInput(
            f"{flag}factor {factor:g} x {original} is not a whole, even number of tokens",
            f"nearest that works: {flag}target {_nearest(original, factor * original)}",
        )
    return target


def _nearest(original: int, wanted: float) -> int:
    """Find the multiple of a quarter window nearest to `wanted`, not below the window itself."""
    step = max(2, original // 4 // 2 * 2)
    return max(original, round(wanted / step) * step)


def plan_patch(
    config: Mapping[str, Any],
    position: Position,
    *,
    method: str,
    target: int,
    parameters: Mapping[str, Any],
    sliding_window: int | str | None = "keep",
    where: str = "config.json",
) -> Patch:
    """Compute the config of the extended checkpoint.

    A checkpoint that is already scaled is extended from its original window: the old scaling is
    replaced, never stacked, and a warning says so.

    Args:
        config, position: of the base.
        method, target, parameters: as for `ctxext.methods`.
        sliding_window: `"keep"`; None switches it off; a number of tokens replaces it.

    Raises:
        BadInput: the family or its encoding cannot be extended this way, dialects disagree,
            sliding attention hides the target whatever the rope does, or the checkpoint turns
            already as it would.
    """
    chosen = get_method(method)
    method = chosen.name
    rope = extendable_rope(position, chosen, where)
    warnings: list[str] = []
    new = dict(config)
    _patch_sliding_window(new, position, target, sliding_window, warnings)
    original = position.window.original
    if target == original:
        warnings.append(_unscaled(rope, position.window))
        return Patch(new, None, method, original, target, tuple(warnings))
    kept = _kept_parameters(chosen, rope, position.window.current, target, parameters)
    extension = chosen(rope.spec, target, **kept, **parameters)
    warnings += extension.notes
    if target < position.window.current:
        warnings.append(
            f"the target of {target} tokens is shorter than the {position.window.current} that the "
            "checkpoint claims to read already"
        )
    beside = extension.beside or any(key in config for key in top_keys())
    if not beside and _rotates_alike(extension, position):
        warnings.append(_only_said(extension, position, method, target, where))
    elif rope.scaled:
        warnings += _replaced(position, method, target, kept)
    warnings += _dropped(config, rope, extension)
    claims_more = families.trained_shorter(position.model_type, original)
    if claims_more and position.window.source != "--original-length":
        warnings.append(claims_more)
    warnings += _kept(chosen, kept)
    write_rope(new, extension, rope)
    if new.get("head_dim") is None and position.model_type in families.NEEDS_HEAD_DIM:
        new["head_dim"] = position.head_dim
    warnings += engine_notes(method, extension.rope_block, target)
    return Patch(new, extension, method, original, target, tuple(warnings))


def _unscaled(rope: Rope, window: Window) -> str:
    """Write the warning for a target that is the original window.

    Raises:
        BadInput: the checkpoint is scaled, and its weights know that window no more.
    """
    if rope.scaled:
        raise BadInput(
            f"--target {window.original} is the original window of a checkpoint that is already "
            f"scaled to {window.current}",
            "use its unscaled base for that",
        )
    return f"factor 1: {window.original} tokens is the window already, so the rope stays as it is"


def _only_said(
    extension: Extension, position: Position, method: str, target: int, where: str
) -> str:
    """Say what is left to change in a checkpoint that turns as an extension of it would.

    Raises:
        BadInput: nothing is.
    """
    said, reached = position.window.max_position_embeddings, position.window.current
    if not said < extension.max_position_embeddings <= reached:
        raise BadInput(
            f"{where}: nothing was extended: {method} at {target} tokens turns as the checkpoint "
            f"does already, whose window is {reached}",
            f"give a target beyond {max(target, reached)}",
        )
    return (
        "the checkpoint turns so already; what changes is max_position_embeddings, from "
        f"{said} to {target}, where most readers look"
    )


def extendable_rope(position: Position, method: Method, where: str) -> Rope:
    """Return the rope of a checkpoint that a method can extend.

    Raises:
        BadInput: the family, its encoding or its config does not allow it.
    """
    if position.encoding not in method.applies_to:
        raise BadInput(
            f"{where}: position encoding is '{position.encoding}', which {method.name} does not "
            "extend",
            f"{method.name} is for: {', '.join(method.applies_to)}",
        )
    if position.model_type not in families.EXTENDABLE or position.rope is None:
        raise BadInput(
            f"{where}: model_type '{position.model_type}' cannot be extended yet",
            f"supported: {', '.join(sorted(families.EXTENDABLE))}",
        )
    rope = position.rope
    if position.doubts:
        raise position.doubts[0]
    stated = rope.block.original_max_position_embeddings
    if stated is not None and position.window.original > stated and rope.scaled:
        raise BadInput(
            f"--original-length {position.window.original}: {where} computes its "
            f"{rope.block.rope_type} frequencies from a window of {stated}, and a checkpoint that "
            "was trained beyond that was trained with them",
            "leave out --original-length",
        )
    if rope.inv_freq is None:
        raise BadInput(f"{where}: unknown rope_type '{rope.block.rope_type}', so it is not touched")
    if not (rope.block.dialects_agree or rope.block.preferred):
        raise BadInput(
            f"{where}: rope_scaling and rope_parameters disagree; transformers 4 and most engines "
            "read the first, some only the second",
            "say which is right with --prefer rope_scaling or --prefer rope_parameters",
        )
    return rope


def _kept_parameters(
    method: Method, rope: Rope, current: int, target: int, given: Mapping[str, Any]
) -> dict[str, Value]:
    """List what a checkpoint was trained with (at `current` tokens), if its method stays.

    What is `given` counts in its place.
    """
    block = rope.block
    if block.rope_type != method.rope_type or block.factor is None:
        return {}
    scaling = Scaling(block.factor, current, block.numbers, block.truncate, frozenset(given))
    kept = method.keep(scaling, rope.spec, target)
    return {key: value for key, value in kept.items() if key not in given}


def _rotates_alike(extension: Extension, position: Position) -> bool:
    """Tell whether an extension turns every pair as the checkpoint does already, at any length."""
    rope = position.rope
    if rope is None or rope.inv_freq is None or rope.attention_factor is None:
        return False
    if (follows_length(extension.rope_block) or rope.block.follows_length) and (
        extension.rope_block["rope_type"] != rope.block.rope_type
        or extension.max_position_embeddings != position.window.max_position_embeddings
    ):
        return False
    ours = [*extension.inv_freq, extension.attention_factor]
    theirs = [*rope.inv_freq, rope.attention_factor]
    return all(math.isclose(a, b, rel_tol=1e-9) for a, b in zip(ours, theirs, strict=True))


def _replaced(position: Position, method: str, target: int, kept: Mapping[str, Value]) -> list[str]:
    """Write the warnings for a checkpoint whose scaling gives way to another."""
    rope, original = position.rope, position.window.original
    scaling = name_of_scaling("default" if rope is None else rope.block.rope_type)
    counted = (
        f", and the factor {target / original:g} counts from the original window of {original}"
    )
    warnings = [
        f"the checkpoint was scaled before ({scaling}, {original} to {position.window.current} "
        f"tokens); that scaling is replaced{'' if 'factor' in kept else counted}"
    ]
    if scaling != method and rope is not None and rope.block.rope_type != "default":
        known = METHODS.get(scaling)
        less = known is not None and not known.required
        warnings.append(
            f"its weights were trained under {scaling}"
            + (f": --method {scaling}, if it reaches far enough," if less else ", and any other")
            + (" changes less than another method" if less else " method changes what they know")
        )
    return warnings


def _dropped(config: Mapping[str, Any], rope: Rope, extension: Extension) -> list[str]:
    """Warn of what is dropped of the old rope, and of what else of the config acts on positions."""
    numbers = [k for k in rope.block.numbers if "mscale" in k or k == "attention_factor"]
    gone = [k[:40] for k in (*rope.block.other_keys, *numbers) if k not in extension.rope_block]
    warnings = []
    if gone:
        names = ", ".join(dict.fromkeys(gone[:8]))
        warnings.append(f"of the old rope block these keys are dropped: {names}")
    for key in sorted(top_keys()):
        if config.get(key) is not None and key not in extension.beside:
            warnings.append(
                f"{key} is removed: it reaches beyond the original window by other means, and "
                "engines that read it would add them to this scaling"
            )
    return warnings


def _kept(method: Method, kept: Mapping[str, Any]) -> list[str]:
    """Say what the checkpoint's own training decides, where it is not the method's default."""
    words = [f"{k} {v:g}" for k, v in kept.items() if v != method.parameters[k]]
    if not words:
        return []
    return [f"the checkpoint was trained with {method.name}, which decides: {', '.join(words)}"]


def write_rope(config: dict[str, Any], extension: Extension, rope: Rope) -> None:
    """Put both dialects in place, so that transformers 4 and 5 and every engine read the same."""
    fraction = rope.block.numbers.get("partial_rotary_factor")
    if rope.spec.rotary_dim == rope.head_dim:  # a smaller one was ignored, and would count now
        fraction = None
        config.pop("partial_rotary_factor", None)
    block = dict(extension.rope_block)
    rope_type = block.pop("rope_type")
    both = {"rope_type": rope_type, "type": rope_type, **block}
    if fraction is not None:
        both["partial_rotary_factor"] = fraction
    config["max_position_embeddings"] = extension.max_position_embeddings
    config["rope_theta"] = float(extension.rope_theta)
    config["rope_scaling"] = None if rope_type == "default" else both
    config["rope_parameters"] = {**both, "rope_theta": float(extension.rope_theta)}
    if "dtype" in config and "torch_dtype" not in config:
        config["torch_dtype"] = config["dtype"]  # its name in transformers 4
    for key in top_keys():
        config.pop(key, None)
    config.update(extension.beside)
    config.pop(_ORIGINAL, None)
    if rope_type_facts(rope_type).original_at_top:
        config[_ORIGINAL] = block[_ORIGINAL]


def _patch_sliding_window(
    config: dict[str, Any],
    position: Position,
    target: int,
    wanted: int | str | None,
    warnings: list[str],
) -> None:
    sliding = [layer for layer in position.layers if layer.attention == "sliding"]
    if wanted == "keep":
        short = [layer for layer in sliding if layer.window and layer.window < target]
        if short and len(short) == len(position.layers):
            raise BadInput(
                f"every layer attends to the last {short[0].window} tokens only (sliding_window), "
                f"so no rope scaling makes it read {target}",
                "add --sliding-window off, or --sliding-window N with a larger N",
            )
        if short:
            warnings.append(
                f"{len(short)} of {len(position.layers)} layers attend to the last "
                f"{short[0].window} tokens only"
            )
        return
    if wanted is None:
        config["sliding_window"] = None
        if "use_sliding_window" in config:
            config["use_sliding_window"] = False
        if isinstance(config.get("layer_types"), list):
            config["layer_types"] = [
                "full_attention" if t == "sliding_attention" else t for t in config["layer_types"]
            ]
        if sliding:
            warnings.append("sliding attention is off; the weights were trained with it: measure")
        return
    config["sliding_window"] = wanted
    if isinstance(wanted, int) and wanted < target:
        warnings.append(f"--sliding-window {wanted} is below the target of {target} tokens")


def config_diff(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """List changed top-level keys, each with its value before and after (`(absent)` where none)."""
    keys = list(dict.fromkeys([*before, *after]))
    return {
        key: (before.get(key, ABSENT), after.get(key, ABSENT))
        for key in keys
        if before.get(key, ABSENT) != after.get(key, ABSENT)
    }
