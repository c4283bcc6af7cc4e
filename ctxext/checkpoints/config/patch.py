"""Make the new config from a config and a method's result, as a value: nothing is written here."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ctxext.checkpoints.config import families
from ctxext.checkpoints.config.decoder_part import PART, stated_part, with_decoder_part
from ctxext.checkpoints.config.detect import Position
from ctxext.checkpoints.config.extendable import not_by_this
from ctxext.checkpoints.config.rope_forms import form_of
from ctxext.checkpoints.config.rotation import Rope
from ctxext.checkpoints.config.sliding import may_be_off, slides_in_cache_alone, window_words
from ctxext.checkpoints.config.windows import Window
from ctxext.checkpoints.config.write_rope import write_rope
from ctxext.encodings.rope_types import follows_length
from ctxext.engines.notes import engine_notes
from ctxext.errors import BadInput
from ctxext.methods import (
    METHODS,
    Extension,
    Method,
    RopeExtension,
    Scaling,
    Value,
    get_method,
    name_of_scaling,
    pair_by_pair,
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

    @property
    def rope(self) -> RopeExtension | None:
        """The extension, where it is a rope."""
        return self.extension if isinstance(self.extension, RopeExtension) else None


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
    if target is None and factor is None:
        raise BadInput(
            f"neither {flag}target nor {flag}factor says how far to extend",
            f"e.g. --target {original * 4}, 4 times the trained window",
        )
    if target is not None and factor is not None:
        raise BadInput(
            f"give either {flag}target or {flag}factor, not both",
            f"e.g. {flag}target {original * 4}",
        )
    if target is None:
        target = _target_of(original, factor or 0.0, flag)
    if target < original:
        raise BadInput(
            f"{flag}target {target} is below the trained window of {original} tokens",
            "give a larger one",
        )
    if target % 2:
        raise BadInput(f"{flag}target {target} is odd", f"nearest: {target + 1}")
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
    new = dict(stated_part(config, position.part))
    patch_sliding_window(new, position, target, sliding_window, warnings)
    original = position.window.original
    if target == original and not chosen.at_factor_one:
        warnings.append(_unscaled(rope, position.window))
        whole = with_decoder_part(config, position.part, new)
        return Patch(whole, None, method, original, target, tuple(warnings))
    kept = _kept_parameters(chosen, rope, position.window.current, target, parameters)
    asked = _family_parameters(chosen, position, parameters, warnings) | kept
    extension = chosen.rope(rope.spec, target, **asked, **parameters)
    extension = _in_form(extension, position, rope, target, where)
    warnings += extension.notes
    if target < position.window.current:
        warnings.append(
            f"the target of {target} tokens is shorter than the {position.window.current} that the "
            "checkpoint claims to read already"
        )
    beside = extension.beside or any(key in new for key in top_keys())
    if not beside and _rotates_alike(extension, position):
        warnings.append(_only_said(extension, position, method, target, where))
    elif rope.scaled:
        warnings += _replaced(position, method, target, kept)
    warnings += _dropped(new, rope, extension)
    claims_more = families.trained_shorter(position.model_type, original)
    if claims_more and position.window.source != "--original-length":
        warnings.append(claims_more)
    warnings += _kept(chosen, kept)
    write_rope(new, extension, position)
    warnings += engine_notes(method, extension.rope_block, target, position.model_type)
    whole = with_decoder_part(config, position.part, new)
    return Patch(whole, extension, method, original, target, tuple(warnings))


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
    extension: RopeExtension, position: Position, method: str, target: int, where: str
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
            f"give a target beyond {max(target, reached)}; finetune without --target trains it as "
            "it is",
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
    reason = not_by_this(position, method, where)
    if reason is not None:
        raise reason
    rope = position.rope
    if rope is None:
        raise BadInput(f"{where}: the rope of this {position.model_type} is unknown")
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


def _rotates_alike(extension: RopeExtension, position: Position) -> bool:
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


def _dropped(config: Mapping[str, Any], rope: Rope, extension: RopeExtension) -> list[str]:
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


def _family_parameters(
    method: Method, position: Position, given: Mapping[str, Any], warnings: list[str]
) -> dict[str, Value]:
    """List the parameters that a family's class asks of a method.

    Latent attention turns a part of each head only: an attention factor on cos and sin would miss
    the rest. Its classes put the temperature on the whole score where `mscale_all_dim` says so.
    """
    known = method.parameters
    said = {"mscale", "mscale_all_dim", "attention_factor"} & set(given)
    if position.model_type in families.LATENT and "mscale_all_dim" in known and not said:
        return {"mscale": 1.0, "mscale_all_dim": 1.0}
    temperature = form_of(position.model_type).temperature
    if not temperature and "attention_factor" in known and not said:
        warnings.append(f"{position.model_type} reads no attention factor, so it stays 1")
        return {"attention_factor": 1.0}
    return {}


def _in_form(
    extension: RopeExtension, position: Position, rope: Rope, target: int, where: str
) -> RopeExtension:
    """Write pair by pair what a family's class has no name for; the numbers stay the same.

    Raises:
        BadInput: an attention factor, `truncate: false` or a second list, where the class passes
            over it.
    """
    form, model_type = form_of(position.model_type), position.model_type
    lists = [extension.rope_block.get(key) for key in ("short_factor", "long_factor")]
    if form.one_list and lists[0] != lists[1]:
        raise BadInput(
            f"{where}: the class of {model_type} reads short_factor at every length",
            "give short_factor the numbers of long_factor",
        )
    if extension.attention_factor != 1 and not form.temperature:
        raise BadInput(f"{where}: the class of {model_type} reads no attention factor")
    if extension.rope_block.get("truncate") is False and not form.truncate:
        raise BadInput(f"{where}: the class of {model_type} does not read truncate false")
    if form.takes(str(extension.rope_block["rope_type"])):
        return extension
    pairs = pair_by_pair(
        rope.spec, target, extension.inv_freq, {}, attention_factor=extension.attention_factor
    )
    return replace(
        pairs, parameters=extension.parameters, beside=extension.beside, notes=extension.notes
    )


def patch_sliding_window(
    config: dict[str, Any],
    position: Position,
    target: int,
    wanted: int | str | None,
    warnings: list[str],
) -> None:
    """Write what is asked of sliding attention, and warn of what it hides.

    Raises:
        BadInput: it hides the target in every layer, or cannot be switched off.
    """
    sliding = [layer for layer in position.layers if layer.attention == "sliding"]
    alone = slides_in_cache_alone(position.model_type)
    if wanted == "keep":
        short = [layer for layer in sliding if layer.window and layer.window < target]
        if short and len(short) == len(position.layers):
            raise BadInput(
                f"{window_words(position, short[0].window or 0)}, so no rope scaling makes it read "
                f"{target}",
                "add --sliding-window off, or --sliding-window N with a larger N",
            )
        if short and alone:
            warnings.append(window_words(position, short[0].window or 0))
        elif short:
            warnings.append(
                f"{len(short)} of {len(position.layers)} layers attend to the last "
                f"{short[0].window} tokens only"
            )
        return
    if wanted is None:
        if sliding and not may_be_off(position.model_type):
            raise BadInput(
                f"the class of {position.model_type} has no way to switch its windows off",
                f"give one that reaches as far: --sliding-window {target}",
            )
        config["sliding_window"] = None
        if "use_sliding_window" in config:
            config["use_sliding_window"] = False
        if isinstance(config.get("layer_types"), list):
            config["layer_types"] = [
                "full_attention" if t == "sliding_attention" else t for t in config["layer_types"]
            ]
        if sliding and not alone:
            warnings.append("sliding attention is off; the weights were trained with it: measure")
        return
    config["sliding_window"] = wanted
    if isinstance(wanted, int) and wanted < target:
        warnings.append(f"--sliding-window {wanted} is below the target of {target} tokens")


def config_diff(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """List changed keys, each with its value before and after (`(absent)` where none).

    Those of a decoder inside a multimodal config are listed by themselves: `text_config.KEY`.
    """
    keys = list(dict.fromkeys([*before, *after]))
    changed: dict[str, tuple[Any, Any]] = {}
    for key in keys:
        pair = before.get(key, ABSENT), after.get(key, ABSENT)
        if pair[0] == pair[1]:
            continue
        if key == PART and all(isinstance(each, dict) for each in pair):
            changed |= {f"{PART}.{inner}": each for inner, each in config_diff(*pair).items()}
        else:
            changed[key] = pair
    return changed
