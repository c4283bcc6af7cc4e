"""`ctxext extend`: a checkpoint with a longer window; the weights stay as they are."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from ctxext.api._arguments import checked, maybe_tokens
from ctxext.checkpoints.config.detect import Position, detect
from ctxext.checkpoints.config.patch import Patch, config_diff, plan_patch, resolve_target
from ctxext.checkpoints.config.quantised import refuse_quantised
from ctxext.checkpoints.config.rope_block import Dialect
from ctxext.checkpoints.config.temperature import SAID_BY, Split, split_temperature
from ctxext.checkpoints.config.windows import Origin
from ctxext.checkpoints.folder import CONFIG, Source
from ctxext.checkpoints.live.check import check_in_transformers, check_written
from ctxext.checkpoints.live.tokenizer import missing_tokenizer
from ctxext.checkpoints.opened import Opened, open_checkpoint
from ctxext.checkpoints.provenance import (
    base_terms,
    folded_terms,
    read_record,
    record,
    write_record,
)
from ctxext.checkpoints.weights.carry import (
    WeightsMode,
    carry_side_files,
    carry_weights,
    listing,
    patch_tokenizer,
    raise_generation_length,
)
from ctxext.checkpoints.weights.files import Weights, read_weights
from ctxext.checkpoints.weights.fold import Fold, plan_fold, write_folded
from ctxext.checkpoints.weights.gguf_file import GgufChange, plan_gguf, write_gguf
from ctxext.checkpoints.weights.queries import QUERIES
from ctxext.choices import check_word
from ctxext.errors import BadInput
from ctxext.methods import get_method, name_of_scaling
from ctxext.runs.json_file import dump_json
from ctxext.runs.output import MARK, staged_folder
from ctxext.runs.recipe.extend_config import ExtendConfig
from ctxext.runs.rows.row import Document, Windows


@dataclass(frozen=True, kw_only=True)
class ExtendResult(Document):
    """What `ctxext extend` did, or would do (`dry_run`).

    `checked_relative_difference` is the largest to transformers' own frequencies, where asked for.
    `folded_attention_factor`: what of the attention factor is in the weights; the config's reader
    computes the rest. `gguf`: what was written into a GGUF file.
    """

    schema: ClassVar[str] = "ctxext.extend/1"
    output_dir: str | None
    method: str
    parameters: Mapping[str, Any]
    window: Windows
    config_diff: Mapping[str, tuple[Any, Any]]
    weights: Literal["linked", "copied", "rewritten"]
    files: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    dry_run: bool
    checked_relative_difference: float | None = None
    folded_attention_factor: float | None = None
    gguf: GgufChange | None = None


@dataclass(frozen=True)
class _Plan:
    """What is going to be written, all of it checked."""

    opened: Opened
    held: Weights
    patch: Patch
    after: Position
    fold: Fold | None
    result: ExtendResult


@checked
def extend(
    model: str,
    *,
    method: str = "yarn",
    target: int | str | None = None,
    factor: float | None = None,
    output_dir: str | Path | None = None,
    parameters: Mapping[str, Any] | None = None,
    original_length: int | str | None = None,
    prefer: Dialect | None = None,
    sliding_window: int | str | None = "keep",
    weights: WeightsMode = "auto",
    revision: str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    check: bool = False,
    fold_attention_factor: bool = False,
    gguf: str | Path | None = None,
) -> ExtendResult:
    """Write a checkpoint whose position encoding reaches `target` tokens.

    Weights are reflinked, hard-linked or copied; config.json gets both rope dialects; tokenizer,
    chat template, generation config, license and custom files come along. What was written is
    read back and compared with the method's own frequencies.

    Args:
        model: folder or Hub repository id.
        method: a name in `ctxext.methods`.
        target: window to reach, tokens or `128k`; or
        factor: times the original window. One of the two.
        output_dir: new folder; not needed for `dry_run`.
        parameters: of the method, e.g. `{"beta_fast": 16}`.
        original_length: trained window in tokens, where the config says something else.
        prefer: rope dialect that counts where a config's two disagree.
        sliding_window: `"keep"`; `"off"` or None; or tokens.
        weights: `"copy"` never links.
        overwrite: replace an earlier output of ctxext.
        dry_run: plan and report only.
        check: also build the rotary module in transformers and compare (needs torch).
        fold_attention_factor: put what the method's attention factor has beyond the one that every
            reader computes by itself into the weights (needs torch).
        gguf: a file that llama.cpp converted, of this checkpoint or its base: the rope is written
            into it as well, or alone without `output_dir`. Without `target` and `factor`: the rope
            that the checkpoint has.

    Raises:
        BadInput: anything the user can mend.
        CtxextError: corrupt weights, a full disk, or a file that does not read back as meant.
    """
    target = maybe_tokens(target, "target")
    original_length = maybe_tokens(original_length, "original_length")
    if sliding_window != "keep":
        sliding_window = None if sliding_window == "off" else maybe_tokens(
            sliding_window, "sliding_window"
        )  # fmt: skip
    if output_dir is None and gguf is None and not dry_run:
        raise BadInput("--output-dir is missing", "say where to write, or add --dry-run")
    check_word(weights, WeightsMode, "--weights")
    get_method(method)
    opened = open_checkpoint(
        model, revision=revision, original_length=original_length, prefer=prefer
    )
    file = None if gguf is None else Path(gguf)
    if file is not None:
        if fold_attention_factor:
            raise BadInput("--gguf has a key for the factor: leave out --fold-attention-factor")
        if (target, factor, output_dir) == (None, None, None):
            return _into_gguf(file, opened, dry_run=dry_run)
    _refuse_folded(opened.source)
    if opened.position.doubts:
        raise opened.position.doubts[0]
    plan = _planned(
        opened,
        {
            "method": method,
            "target": resolve_target(opened.position, target, factor),
            "parameters": parameters or {},
            "sliding_window": sliding_window,
        },
        fold=fold_attention_factor,
        weights=weights,
    )
    change = None if file is None else plan_gguf(file, plan.after)
    told = plan.result.warnings + (change.warnings if change else ())
    plan = replace(plan, result=replace(plan.result, gguf=change, dry_run=dry_run, warnings=told))
    extended = plan.result
    if dry_run:
        return extended
    if output_dir is not None:
        extended = _written(plan, Path(output_dir), mode=weights, overwrite=overwrite, check=check)
    if file is not None and change is not None:
        write_gguf(file, change)
    return extended


def _planned(
    opened: Opened, wanted: Mapping[str, Any], *, fold: bool, weights: WeightsMode
) -> _Plan:
    """Work out what to write, and check it against the weights' headers.

    Args:
        wanted: of `plan_patch`.

    Raises:
        BadInput: as `extend`.
    """
    held, where = read_weights(opened.source.folder), f"{opened.source.name}/{CONFIG}"
    patch = plan_patch(opened.config, opened.position, **wanted, where=where)
    folded, rest, notes = None, None, []
    if fold:
        refuse_quantised(opened.config, opened.source, "fold", held)
        split = split_temperature(patch, opened.position, where)
        patch, rest = split.patch, split.rest
        folded = plan_fold(held, opened.position, rest)
        notes = [_fold_note(split, folded)]
    elif patch.extension and opened.position.model_type in QUERIES:
        said = SAID_BY & set(patch.extension.rope_block)
        notes = (
            ["--fold-attention-factor puts the attention factor where none passes over it"]
            if said
            else []
        )
    warnings = [*opened.warnings, *patch.warnings, *notes, *missing_tokenizer(opened.source)]
    result = ExtendResult(
        output_dir=None,
        method=patch.method,
        parameters=dict(patch.extension.parameters) if patch.extension else {"factor": 1.0},
        window=Windows(original=patch.original, target=patch.target),
        config_diff=config_diff(opened.config, patch.config),
        weights="rewritten" if folded else "linked" if weights == "auto" else "copied",
        files=(),
        warnings=tuple(dict.fromkeys(warnings)),
        dry_run=True,
        folded_attention_factor=rest,
    )
    return _Plan(opened, held, patch, _position_after(patch, opened.position), folded, result)


def _fold_note(split: Split, fold: Fold) -> str:
    return (
        f"the attention factor of {split.asked:.6g} is {split.asked / split.rest:.6g}, which every "
        f"reader computes, times {split.rest:.6g} in the weights: {len(fold.rows)} tensors of "
        f"queries are multiplied by {fold.scale:.6g}"
    )


def _refuse_folded(source: Source) -> None:
    """Refuse a checkpoint whose weights hold a part of an attention factor already.

    Raises:
        BadInput: another extension would come on top of it.
    """
    recorded = read_record(source.folder)
    folded = recorded.folded_attention_factor if recorded else None
    if folded is not None:
        raise BadInput(
            f"{source.name} has an attention factor of {folded:g} folded into its weights "
            f"({MARK}: folded_attention_factor), on top of which no other belongs",
            "extend the checkpoint that it was made of",
        )


def _into_gguf(file: Path, opened: Opened, *, dry_run: bool) -> ExtendResult:
    """Write the rope that a checkpoint has into a GGUF file.

    Raises:
        BadInput: it is not scaled, or as `plan_gguf`.
    """
    rope, window = opened.position.rope, opened.position.window
    if rope is None or not rope.scaled:
        raise BadInput(
            f"--gguf: the rope of {opened.source.name} is not scaled, so there is nothing to write",
            "say how far to extend it: --target or --factor",
        )
    change = plan_gguf(file, opened.position)
    if not dry_run:
        write_gguf(file, change)
    return ExtendResult(
        output_dir=None,
        method=name_of_scaling(rope.block.rope_type),
        parameters={"factor": window.current / window.original},
        window=Windows(original=window.original, target=window.current),
        config_diff={},
        weights="linked",
        files=(),
        warnings=tuple(dict.fromkeys([*opened.warnings, *change.warnings])),
        dry_run=dry_run,
        gguf=change,
    )


def _written(
    plan: _Plan, out: Path, *, mode: WeightsMode, overwrite: bool, check: bool
) -> ExtendResult:
    """Write the new folder, weights first."""
    source, held, fold = plan.opened.source, plan.held, plan.fold
    needed = held.bytes if mode == "copy" else fold.new_bytes(held) if fold else 0
    warnings = list(plan.result.warnings)
    with staged_folder(
        out, overwrite=overwrite, inputs=(source.folder,), needed_bytes=needed
    ) as folder:
        carry_side_files(source.folder, folder, warnings)
        how: Literal["linked", "copied", "rewritten"] = "rewritten"
        if fold is None:
            how = carry_weights(held, folder, mode)
        else:
            rounding = write_folded(held, folder, fold, mode)
            if rounding.relative:
                warnings.append(f"rounding the queries to their dtype cost {rounding.relative:.1e}")
        result = replace(plan.result, warnings=tuple(dict.fromkeys(warnings)))
        extended = _write(folder, replace(plan, result=result), check=check)
    return replace(extended, output_dir=str(out), weights=how)


def _write(folder: Path, plan: _Plan, *, check: bool) -> ExtendResult:
    """Put what changes into a new folder, read it back, and say what became of it."""
    opened, patch, planned = plan.opened, plan.patch, plan.result
    source, warnings = opened.source, list(planned.warnings)
    (folder / CONFIG).write_text(dump_json(patch.config), encoding="utf-8")
    window = opened.position.window.current
    diff = (
        dict(planned.config_diff)
        | patch_tokenizer(source.folder, folder, patch.target, warnings)
        | raise_generation_length(source.folder, folder, window, patch.target)
    )
    checked = None
    if patch.extension is not None:
        check_written(folder, patch.extension, patch.original)
        if check:
            checked = check_in_transformers(folder, patch.extension, patch.target)
    write_record(
        folder,
        record(
            "extend",
            base=source,
            position=plan.after,
            method=planned.method,
            parameters=planned.parameters,
            **base_terms(source.folder),
            **folded_terms(planned.folded_attention_factor),
            config_diff={key: list(pair) for key, pair in diff.items()},
            training=None,
            evaluations=[],
        ),
    )
    return replace(
        planned,
        config_diff=diff,
        files=tuple(listing(folder)),
        warnings=tuple(dict.fromkeys(warnings)),
        checked_relative_difference=checked,
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
    target = resolve_target(position, wanted.target, wanted.factor, flag="extend.")
    patch = plan_patch(
        config,
        position,
        method=wanted.method,
        target=target,
        parameters=wanted.parameters,
        sliding_window=wanted.sliding,
        where=where,
    )
    return _position_after(patch, position)


def _position_after(patch: Patch, position: Position) -> Position:
    """Read a new config as `detect` will, told of the base as the record beside it will tell."""
    rope = position.rope
    return detect(
        patch.config,
        where=CONFIG,
        original_length=patch.original,
        origin=Origin(patch.original, rope.spec.rope_theta) if rope else None,
    )
