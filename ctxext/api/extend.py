"""`ctxext extend`: a checkpoint with a longer window; the weights stay as they are."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Literal

from ctxext.api._arguments import checked, maybe_tokens
from ctxext.api._serving import Written, serving
from ctxext.api.extension_plan import Plan, Wanted, plan_extension, taken_unasked
from ctxext.checkpoints.config.factors import with_factors
from ctxext.checkpoints.config.patch import config_diff, resolve_target
from ctxext.checkpoints.config.rope_block import Dialect
from ctxext.checkpoints.config.taken_back import unscaled
from ctxext.checkpoints.folder import CONFIG
from ctxext.checkpoints.live.check import check_in_transformers, check_window, check_written
from ctxext.checkpoints.live.unchanged import logit_change
from ctxext.checkpoints.opened import Opened, open_checkpoint
from ctxext.checkpoints.provenance import (
    base_terms,
    folded_terms,
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
    restore_lengths,
)
from ctxext.checkpoints.weights.fold import check_folded, write_folded
from ctxext.checkpoints.weights.gguf_file import GgufChange, plan_gguf, write_gguf
from ctxext.checkpoints.weights.table import TableRow, check_table, write_table
from ctxext.choices import check_word
from ctxext.errors import BadInput
from ctxext.methods import get_method, name_of_scaling
from ctxext.runs.json_file import dump_json
from ctxext.runs.output import staged_folder
from ctxext.runs.rows.calibration import Calibrated
from ctxext.runs.rows.inspect import Serving
from ctxext.runs.rows.row import Document, Windows


@dataclass(frozen=True, kw_only=True)
class ExtendResult(Document):
    """What `ctxext extend` did, or would do (`dry_run`).

    `checked_relative_difference` is the largest to transformers' own frequencies, where asked for;
    `checked_logit_change` of another encoding the largest change of a logit within the trained
    window, as a share of the largest logit. `table`: what becomes of a learned table.
    `folded_attention_factor`: what of the attention factor is in the weights; the config's reader
    computes the rest. `gguf`: what was written into a GGUF file. `serving`: what each engine makes
    of the result, and how it is started. `calibration`: what each temperature came to.
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
    checked_logit_change: float | None = None
    folded_attention_factor: float | None = None
    gguf: GgufChange | None = None
    table: TableRow | None = None
    serving: tuple[Serving, ...] = ()
    calibration: tuple[Calibrated, ...] = ()


@checked
def extend(
    model: str,
    *,
    method: str | None = None,
    target: int | str | None = None,
    factor: float | None = None,
    output_dir: str | Path | None = None,
    parameters: Mapping[str, Any] | None = None,
    factors: str | Path | None = None,
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
    calibrate: str | None = None,
) -> ExtendResult:
    """Write a checkpoint whose position encoding reaches `target` tokens.

    Weights are reflinked, hard-linked or copied; config.json gets both rope dialects; tokenizer,
    chat template, generation config, license and custom files come along. What was written is
    read back and compared with the method's own frequencies.

    Args:
        model: folder or Hub repository id.
        method: a name in `ctxext.METHODS`; `none` takes an earlier extension back. None: `yarn` for
            a rope, `interpolate` for a learned table, `extrapolate` for the others.
        target: window to reach, tokens or `128k`; or
        factor: times the original window. One of the two, and neither for `none`.
        output_dir: new folder; not needed for `dry_run`.
        parameters: of the method, e.g. `{"beta_fast": 16}`.
        factors: a file with the factor of every pair, for `longrope`.
        original_length: trained window in tokens, where the config says something else.
        prefer: rope dialect that counts where a config's two disagree.
        sliding_window: `"keep"`; `"off"` or None; or tokens.
        weights: `"copy"` never links.
        overwrite: replace an earlier output of ctxext.
        dry_run: plan and report only.
        check: also build the rotary module in transformers and compare; without a rope load both
            checkpoints and compare their logits within the trained window (needs torch).
        fold_attention_factor: put what the method's attention factor has beyond the one that every
            reader computes by itself into the weights (needs torch).
        gguf: a file that llama.cpp converted, of this checkpoint or its base: the rope is written
            into it as well, or alone without `output_dir`. Without `target` and `factor`: the rope
            that the checkpoint has.
        calibrate: a held-out text, as `data` of `perplexity`: the temperature's `c` is the one of a
            grid with the lowest perplexity there, at the target (needs torch).

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
    named = None if method is None else get_method(method)
    opened = open_checkpoint(
        model, revision=revision, original_length=original_length, prefer=prefer
    )
    chosen = named or taken_unasked(opened.position)
    parameters = with_factors(chosen, parameters or {}, Path(factors) if factors else None)
    file = None if gguf is None else Path(gguf)
    if file is not None:
        if fold_attention_factor:
            raise BadInput("--gguf has a key for the factor: leave out --fold-attention-factor")
        if (target, factor, output_dir) == (None, None, None):
            return _into_gguf(file, opened, dry_run=dry_run)
    wanted = Wanted(
        chosen, target, factor, parameters, sliding_window, flag="--", unasked=named is None
    )
    grid = () if calibrate is None else _calibrated(opened, wanted, calibrate)
    if grid:
        c = min(grid, key=lambda row: row.perplexity).c
        wanted = replace(wanted, parameters={**parameters, "c": c})
    plan = plan_extension(opened, wanted, fold=fold_attention_factor)
    change = None if file is None else plan_gguf(file, plan.after)
    extended = replace(
        _result(plan, weights, change, dry_run=dry_run),
        serving=_serving(plan, output_dir),
        calibration=grid,
    )
    if dry_run:
        return extended if output_dir is None and file is not None else _foreseen(plan, extended)
    if output_dir is not None:
        extended = _written(
            plan, extended, Path(output_dir), mode=weights, overwrite=overwrite, check=check
        )
    if file is not None and change is not None:
        write_gguf(file, change)
    return extended


def _calibrated(opened: Opened, wanted: Wanted, text: str) -> tuple[Calibrated, ...]:
    """Measure the grid of temperatures, after all that is wrong with the extension is said."""
    from ctxext.api.calibration import calibrate as calibrate_on  # which reads texts with numpy

    plan_extension(opened, wanted)
    target = resolve_target(opened.position, wanted.target, wanted.factor)
    return calibrate_on(opened, wanted.method, target, text, wanted.parameters)


def _result(
    plan: Plan, weights: WeightsMode, change: GgufChange | None, *, dry_run: bool
) -> ExtendResult:
    patch, anew = plan.patch, plan.table or plan.fold
    return ExtendResult(
        output_dir=None,
        method=patch.method,
        parameters=dict(patch.extension.parameters) if patch.extension else {"factor": 1.0},
        window=Windows(original=patch.original, target=patch.target),
        config_diff=config_diff(plan.opened.config, patch.config),
        weights="rewritten" if anew else "linked" if weights == "auto" else "copied",
        files=(),
        warnings=tuple(dict.fromkeys([*plan.warnings, *(change.warnings if change else ())])),
        dry_run=dry_run,
        folded_attention_factor=plan.temperature,
        gguf=change,
        table=plan.table.row if plan.table else None,
    )


def _serving(plan: Plan, output_dir: str | Path | None) -> tuple[Serving, ...]:
    """Say what engines make of the new config."""
    written, folder = Written.of(plan.patch.config, plan.after), quote(str(output_dir or "OUT"))
    return serving(written, plan.patch.target, folder, local=True)


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


def _foreseen(plan: Plan, planned: ExtendResult) -> ExtendResult:
    """Add what would become of the files beside the config, tried out on copies of them."""
    warnings = list(planned.warnings)
    with TemporaryDirectory(prefix="ctxext-") as folder:
        carry_side_files(plan.opened.source.folder, Path(folder), warnings)
        changed = _mend_lengths(Path(folder), plan, warnings)
    return replace(
        planned,
        config_diff=dict(planned.config_diff) | changed,
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _written(
    plan: Plan,
    planned: ExtendResult,
    out: Path,
    *,
    mode: WeightsMode,
    overwrite: bool,
    check: bool,
) -> ExtendResult:
    """Write the new folder, weights first."""
    source, held, fold = plan.opened.source, plan.held, plan.fold
    anew = plan.table or fold
    needed = held.bytes if mode == "copy" else anew.new_bytes(held) if anew else 0
    warnings = list(planned.warnings)
    with staged_folder(
        out, overwrite=overwrite, inputs=(source.folder,), needed_bytes=needed
    ) as folder:
        carry_side_files(source.folder, folder, warnings)
        how: Literal["linked", "copied", "rewritten"] = "rewritten"
        if plan.table is not None:
            write_table(held, folder, plan.table, mode)
        elif fold is None:
            how = carry_weights(held, folder, mode)
        else:
            rounding = write_folded(held, folder, fold, mode)
            if rounding.relative:
                warnings.append(f"rounding the queries to their dtype cost {rounding.relative:.1e}")
        planned = replace(planned, warnings=tuple(dict.fromkeys(warnings)))
        extended = _write(folder, plan, planned, check=check)
    return replace(extended, output_dir=str(out), weights=how)


def _write(folder: Path, plan: Plan, planned: ExtendResult, *, check: bool) -> ExtendResult:
    """Put what changes into a new folder, read it back, and say what became of it."""
    opened, patch = plan.opened, plan.patch
    source, warnings = opened.source, list(planned.warnings)
    (folder / CONFIG).write_text(dump_json(patch.config), encoding="utf-8")
    diff = dict(planned.config_diff) | _mend_lengths(folder, plan, warnings)
    checked = None
    change = None
    if patch.rope is not None:
        check_written(folder, patch.rope, patch.original)
        if check:
            checked = check_in_transformers(folder, patch.rope, patch.target)
    elif patch.extension is not None:
        check_window(folder, plan.after)
        if plan.table is not None:
            check_table(plan.held, folder, plan.table)
        if plan.fold is not None:
            check_folded(plan.held, folder, plan.fold)
        if check:
            keeps = get_method(planned.method).keeps_short
            change = logit_change(source.folder, folder, patch.original, keeps=keeps)
    # What was changed first counts: an extension of an extension is taken back at once.
    before = {key: pair[0] for key, pair in diff.items()} | unscaled(plan.recorded)
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
            unscaled={} if patch.restored is not None else before,
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
        checked_logit_change=change,
    )


def _mend_lengths(folder: Path, plan: Plan, warnings: list[str]) -> dict[str, tuple[Any, Any]]:
    """Raise, or set back, the lengths in files beside the config; list what changed."""
    opened, patch = plan.opened, plan.patch
    if patch.restored is not None:
        return restore_lengths(folder, patch.restored)
    source, window = opened.source.folder, opened.position.window.current
    return patch_tokenizer(source, folder, patch.target, warnings) | raise_generation_length(
        source, folder, window, patch.target
    )
