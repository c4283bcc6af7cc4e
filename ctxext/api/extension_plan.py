"""Plan an extension: what the new config says, and what has to be written beside it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ctxext.checkpoints.config.detect import Position, detect
from ctxext.checkpoints.config.extendable import not_by_this
from ctxext.checkpoints.config.patch import Patch, resolve_target
from ctxext.checkpoints.config.patch_window import SLOPE_FACTOR, extended_table, plan_extended
from ctxext.checkpoints.config.quantised import refuse_quantised
from ctxext.checkpoints.config.taken_back import plan_taking_back, unscaled
from ctxext.checkpoints.config.temperature import SAID_BY, Split, split_temperature
from ctxext.checkpoints.config.windows import Origin, states_window
from ctxext.checkpoints.folder import CONFIG
from ctxext.checkpoints.live.tokenizer import missing_tokenizer
from ctxext.checkpoints.opened import Opened
from ctxext.checkpoints.provenance import read_record
from ctxext.checkpoints.weights.files import Weights, read_weights
from ctxext.checkpoints.weights.fold import Fold, plan_fold
from ctxext.checkpoints.weights.parted_head import has_parted_head, parted_note
from ctxext.checkpoints.weights.queries import QUERIES
from ctxext.checkpoints.weights.still_queries import find_still_queries
from ctxext.checkpoints.weights.table import TableChange, plan_table
from ctxext.errors import BadInput
from ctxext.methods import METHODS, Method, ScoreExtension, TableExtension, get_method, methods_for
from ctxext.runs.output import MARK
from ctxext.runs.recipe.extend_config import ExtendConfig
from ctxext.runs.rows.record import RunRecord


@dataclass(frozen=True)
class Wanted:
    """How far, and how.

    `flag` is what messages put before the names; `unasked`: the method is the encoding's first.
    """

    method: Method
    target: int | None
    factor: float | None
    parameters: Mapping[str, Any]
    sliding_window: int | str | None
    flag: str
    unasked: bool = False


def taken_unasked(position: Position) -> Method:
    """Choose the method where none is named: the first of the encoding, yarn where that is unknown.

    The refusal of an unknown encoding is the method's.
    """
    return (methods_for(position.encoding) or methods_for("rope"))[0]


@dataclass(frozen=True)
class Plan:
    """What is going to be written, all of it checked.

    Attributes:
        held: the weights, of which nothing but the headers was read.
        after: the new config, as it will be read.
        fold: what of the weights is multiplied; None = nothing.
        table: what of the weights is a longer table of positions; None = nothing.
        temperature: the part of the attention factor that goes into them.
        recorded: the `ctxext.json` beside the base; None = there is none.
    """

    opened: Opened
    held: Weights
    patch: Patch
    after: Position
    fold: Fold | None
    temperature: float | None
    recorded: RunRecord | None
    warnings: tuple[str, ...]
    table: TableChange | None = None


def plan_extension(opened: Opened, wanted: Wanted, *, fold: bool = False) -> Plan:
    """Work out what to write, and check it against the weights' headers.

    Args:
        fold: put what is left of the attention factor into the weights.

    Raises:
        BadInput: as `extend`.
    """
    source = opened.source
    recorded = read_record(source.folder)
    refuse_folded(source.name, recorded)
    if opened.position.doubts:
        raise opened.position.doubts[0]
    held, where = read_weights(source.folder), f"{source.name}/{CONFIG}"
    _refuse_second_table(where, recorded)
    patch = _patch(opened.config, opened.position, wanted, recorded, where=where)
    folded, rest = None, None
    notes: list[str] = []
    if fold:
        refuse_quantised(opened.config, source, "fold", held)
        split = split_temperature(patch, opened.position, where)
        patch, rest = split.patch, split.rest
        folded = plan_fold(held, opened.position, rest)
        notes = [_fold_note(split, folded)]
    elif isinstance(patch.extension, ScoreExtension) and patch.extension.scale != 1:
        refuse_quantised(opened.config, source, "fold", held)
        scale = patch.extension.scale
        queries = find_still_queries(held, opened.position, what=f"--method {patch.method}")
        folded, rest = queries.folded(scale), math.sqrt(scale)
        notes = [f"{len(folded.rows)} tensors of queries are multiplied by {scale:.6g}"]
    elif (
        patch.rope
        and opened.position.model_type in QUERIES
        and SAID_BY & set(patch.rope.rope_block)
    ):
        notes = ["--fold-attention-factor puts the attention factor where none passes over it"]
    if wanted.unasked and patch.rope is None and patch.extension is not None:
        notes.append(_unasked_note(opened.position, wanted.method))
    if has_parted_head(held, opened.config):
        patch = replace(patch, config={**patch.config, "tie_word_embeddings": False})
        notes.append(f"{parted_note(held)}; the flag is set to false")
    warnings = [*opened.warnings, *patch.warnings, *notes, *missing_tokenizer(source)]
    after = position_after(patch, opened.position)
    told = tuple(dict.fromkeys(warnings))
    table = (
        plan_table(held, opened.position, patch.extension)
        if isinstance(patch.extension, TableExtension)
        else None
    )
    return Plan(opened, held, patch, after, folded, rest, recorded, told, table)


def _patch(
    config: Mapping[str, Any],
    position: Position,
    wanted: Wanted,
    recorded: RunRecord | None,
    *,
    where: str,
) -> Patch:
    """Compute the new config: further than before, or back to what it was."""
    if not wanted.method.takes_back:
        if (slopes := unscaled(recorded).get(SLOPE_FACTOR)) is not None:  # the trained ones count
            config = {**config, SLOPE_FACTOR: slopes}
        if (reason := not_by_this(position, wanted.method, where)) is not None:
            raise reason  # before its window is asked for, which it may not have
        _check_window(position, wanted)
        return plan_extended(
            config,
            position,
            wanted.method,
            resolve_target(position, wanted.target, wanted.factor, flag=wanted.flag),
            parameters=wanted.parameters,
            sliding_window=wanted.sliding_window,
            where=where,
        )
    given = {
        "target": wanted.target,
        "factor": wanted.factor,
        "sliding_window": None if wanted.sliding_window == "keep" else True,
    }
    for name, value in given.items():
        if value is not None:
            words = name if wanted.flag != "--" else name.replace("_", "-")
            raise BadInput(
                f"{wanted.flag}{words} decides nothing: method {wanted.method.name} goes back to "
                "what the checkpoint was",
                "leave it out",
            )
    return plan_taking_back(
        config,
        position,
        recorded,
        method=wanted.method.name,
        parameters=wanted.parameters,
        where=where,
    )


def _check_window(position: Position, wanted: Wanted) -> None:
    """Ask for the trained window in the words of a command, or of a recipe.

    Raises:
        BadInput: the config states none.
    """
    try:
        position.window  # noqa: B018
    except BadInput as error:
        name = "--original-length" if wanted.flag == "--" else f"{wanted.flag}original_length"
        raise BadInput(str(error), f"{error.hint}, or say {name}") from error


def _unasked_note(position: Position, method: Method) -> str:
    fitting = [each for each in methods_for(position.encoding) if not each.takes_back]
    others = [
        each.name
        for each in fitting
        if each is not method and not_by_this(position, each, CONFIG) is None
    ]
    also = f" (there is also {', '.join(others)})" if others else ""
    return f"--method {method.name} is taken for position encoding '{position.encoding}'{also}"


def _fold_note(split: Split, fold: Fold) -> str:
    return (
        f"the attention factor of {split.asked:.6g} is {split.asked / split.rest:.6g}, which every "
        f"reader computes, times {split.rest:.6g} in the weights: {len(fold.rows)} tensors of "
        f"queries are multiplied by {fold.scale:.6g}"
    )


def _refuse_second_table(where: str, recorded: RunRecord | None) -> None:
    """Refuse a table that was extended already, which its record tells.

    Raises:
        BadInput: the trained rows are not in it.
    """
    method = METHODS.get(recorded.method or "") if recorded else None
    window = recorded.window if recorded else None
    if window is None or method is None or method.makes is not TableExtension:
        return
    if window.target > window.original:  # at factor 1 every trained row is there
        raise extended_table(where, window.target)


def refuse_folded(name: str, recorded: RunRecord | None) -> None:
    """Refuse a checkpoint whose weights hold a part of an attention factor already.

    Raises:
        BadInput: another extension would come on top of it.
    """
    folded = recorded.folded_attention_factor if recorded else None
    if folded is not None:
        raise BadInput(
            f"{name} has an attention factor of {folded:g} folded into its weights "
            f"({MARK}: folded_attention_factor), on top of which no other belongs",
            "extend the checkpoint that it was made of",
        )


def planned_window(
    config: Mapping[str, Any],
    wanted: ExtendConfig,
    *,
    where: str = CONFIG,
    origin: Origin | None = None,
) -> Position:
    """Tell the window and rope that a checkpoint would have after `extend`; no file is touched.

    Args:
        config: the parsed config.json of the checkpoint; no weights are needed.
        wanted: section `extend` of a recipe.
        where: its path, for messages.
        origin: the unscaled base, where a `ctxext.json` beside the config tells it
            (`checkpoints.provenance.origin_of`).

    Returns:
        As `detect` will read the extended checkpoint: `window.current` is the target.

    Raises:
        BadInput: as `extend`; the keys of the section are named.
    """
    position = detect(config, where=where, original_length=wanted.original_length, origin=origin)
    chosen = taken_unasked(position) if wanted.method is None else get_method(wanted.method)
    asked = Wanted(
        chosen, wanted.target, wanted.factor, wanted.parameters, wanted.sliding, flag="extend."
    )
    patch = _patch(config, position, asked, None, where=where)
    return position_after(patch, position)


def position_after(patch: Patch, position: Position) -> Position:
    """Read a new config as `detect` will, told of the base as the record beside it will tell."""
    rope = position.rope
    after = detect(
        patch.config,
        where=CONFIG,
        original_length=patch.original,
        origin=Origin(patch.original, rope.spec.rope_theta) if rope else None,
    )
    if patch.rope is not None or after.stated_window is None:
        return after
    if states_window(patch.config, after.model_type):
        return after
    return replace(after, stated_window=replace(after.stated_window, current=patch.target))
