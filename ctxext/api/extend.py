"""`ctxext extend`: a checkpoint with a longer window; the weights stay as they are."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any, ClassVar, Literal

from ctxext.api._arguments import checked, maybe_tokens
from ctxext.api._serving import Written, serving
from ctxext.checkpoints.config.detect import Position, detect
from ctxext.checkpoints.config.factors import with_factors
from ctxext.checkpoints.config.patch import Patch, config_diff, plan_patch, resolve_target
from ctxext.checkpoints.config.rope_block import Dialect
from ctxext.checkpoints.config.taken_back import plan_taking_back, unscaled
from ctxext.checkpoints.config.windows import Origin
from ctxext.checkpoints.folder import CONFIG
from ctxext.checkpoints.live.check import check_in_transformers, check_written
from ctxext.checkpoints.live.tokenizer import missing_tokenizer
from ctxext.checkpoints.opened import Opened, open_checkpoint
from ctxext.checkpoints.provenance import base_terms, read_record, record, write_record
from ctxext.checkpoints.weights.carry import (
    WeightsMode,
    carry_side_files,
    carry_weights,
    listing,
    patch_tokenizer,
    raise_generation_length,
    restore_lengths,
)
from ctxext.checkpoints.weights.files import read_weights
from ctxext.choices import check_word
from ctxext.errors import BadInput
from ctxext.methods import Method, get_method
from ctxext.runs.json_file import dump_json
from ctxext.runs.output import staged_folder
from ctxext.runs.recipe.extend_config import ExtendConfig
from ctxext.runs.rows.inspect import Serving
from ctxext.runs.rows.record import RunRecord
from ctxext.runs.rows.row import Document, Windows


@dataclass(frozen=True, kw_only=True)
class ExtendResult(Document):
    """What `ctxext extend` did, or would do (`dry_run`).

    `checked_relative_difference` is the largest to transformers' own frequencies, where asked for;
    `serving` what each engine makes of the result, and how it is started.
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
    serving: tuple[Serving, ...] = ()


@dataclass(frozen=True)
class _Wanted:
    """How far, and how; `flag` is what messages put before the names."""

    method: Method
    target: int | None
    factor: float | None
    parameters: Mapping[str, Any]
    sliding_window: int | str | None
    flag: str


@checked
def extend(
    model: str,
    *,
    method: str = "yarn",
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
) -> ExtendResult:
    """Write a checkpoint whose position encoding reaches `target` tokens.

    Weights are reflinked, hard-linked or copied; config.json gets both rope dialects; tokenizer,
    chat template, generation config, license and custom files come along. What was written is
    read back and compared with the method's own frequencies.

    Args:
        model: folder or Hub repository id.
        method: a name in `ctxext.METHODS`; `none` takes an earlier extension back.
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
        check: also build the rotary module in transformers and compare (needs torch).

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
    if output_dir is None and not dry_run:
        raise BadInput("--output-dir is missing", "say where to write, or add --dry-run")
    check_word(weights, WeightsMode, "--weights")
    chosen = get_method(method)
    parameters = with_factors(chosen, parameters or {}, Path(factors) if factors else None)
    opened = open_checkpoint(
        model, revision=revision, original_length=original_length, prefer=prefer
    )
    source = opened.source
    if opened.position.doubts:
        raise opened.position.doubts[0]
    held = read_weights(source.folder)
    wanted = _Wanted(chosen, target, factor, parameters, sliding_window, flag="--")
    recorded = read_record(source.folder)
    patch = _planned(
        opened.config, opened.position, wanted, recorded, where=f"{source.name}/{CONFIG}"
    )
    after = _position_after(patch, opened.position)
    warnings = [*opened.warnings, *patch.warnings, *missing_tokenizer(source)]
    planned = ExtendResult(
        output_dir=None,
        method=patch.method,
        parameters=dict(patch.extension.parameters) if patch.extension else {"factor": 1.0},
        window=Windows(original=patch.original, target=patch.target),
        config_diff=config_diff(opened.config, patch.config),
        weights="linked" if weights == "auto" else "copied",
        files=(),
        warnings=tuple(dict.fromkeys(warnings)),
        dry_run=dry_run,
        serving=_serving(patch, after, output_dir),
    )
    if dry_run:
        return planned
    out = Path(output_dir or "")
    needed = held.bytes if weights == "copy" else 0
    with staged_folder(
        out, overwrite=overwrite, inputs=(source.folder,), needed_bytes=needed
    ) as folder:
        carry_side_files(source.folder, folder, warnings)
        how = carry_weights(held, folder, weights)
        planned = replace(planned, warnings=tuple(dict.fromkeys(warnings)))
        extended = _write(folder, opened, patch, after, planned, recorded, check=check)
    return replace(extended, output_dir=str(out), weights=how)


def _serving(patch: Patch, after: Position, output_dir: str | Path | None) -> tuple[Serving, ...]:
    """Say what engines make of the new config."""
    folder = quote(str(output_dir or "OUT"))
    return serving(Written.of(patch.config, after), patch.target, folder, local=True)


def _planned(
    config: Mapping[str, Any],
    position: Position,
    wanted: _Wanted,
    recorded: RunRecord | None,
    *,
    where: str,
) -> Patch:
    """Compute the new config: further than before, or back to what it was."""
    if not wanted.method.takes_back:
        return plan_patch(
            config,
            position,
            method=wanted.method.name,
            target=resolve_target(position, wanted.target, wanted.factor, flag=wanted.flag),
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


def _write(
    folder: Path,
    opened: Opened,
    patch: Patch,
    after: Position,
    planned: ExtendResult,
    recorded: RunRecord | None,
    *,
    check: bool,
) -> ExtendResult:
    """Put what changes into a new folder, read it back, and say what became of it."""
    source, warnings = opened.source, list(planned.warnings)
    (folder / CONFIG).write_text(dump_json(patch.config), encoding="utf-8")
    diff = dict(planned.config_diff) | _mend_lengths(folder, opened, patch, warnings)
    checked = None
    if patch.extension is not None:
        check_written(folder, patch.extension, patch.original)
        if check:
            checked = check_in_transformers(folder, patch.extension, patch.target)
    # What was changed first counts: an extension of an extension is taken back at once.
    before = {key: pair[0] for key, pair in diff.items()} | unscaled(recorded)
    write_record(
        folder,
        record(
            "extend",
            base=source,
            position=after,
            method=planned.method,
            parameters=planned.parameters,
            **base_terms(source.folder),
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
    )


def _mend_lengths(
    folder: Path, opened: Opened, patch: Patch, warnings: list[str]
) -> dict[str, tuple[Any, Any]]:
    """Raise, or set back, the lengths in files beside the config; list what changed."""
    if patch.restored is not None:
        return restore_lengths(folder, patch.restored)
    source, window = opened.source.folder, opened.position.window.current
    return patch_tokenizer(source, folder, patch.target, warnings) | raise_generation_length(
        source, folder, window, patch.target
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
    asked = _Wanted(
        get_method(wanted.method), wanted.target, wanted.factor, wanted.parameters, wanted.sliding,
        flag="extend.",
    )  # fmt: skip
    patch = _planned(config, position, asked, None, where=where)
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
