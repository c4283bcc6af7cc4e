"""`ctxext merge`: an adapter and the checkpoint it was trained on become one checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any, ClassVar

from ctxext.api._arguments import checked
from ctxext.checkpoints.config.dtype import DtypeName, DtypeWord, check_dtype
from ctxext.checkpoints.config.quantised import read_unquantised
from ctxext.checkpoints.folder import CONFIG
from ctxext.checkpoints.live.tensors import check_tensors
from ctxext.checkpoints.opened import Opened, open_checkpoint, tokenizer_record
from ctxext.checkpoints.provenance import base_terms, read_record, record, sha256_of, write_record
from ctxext.checkpoints.weights.adapter import ROPE_KEY, Adapter, for_family, read_adapter
from ctxext.checkpoints.weights.adapter_tokenizer import other_tokenizer
from ctxext.checkpoints.weights.carry import (
    carry_side_files,
    carry_tokenizer,
    patch_tokenizer,
)
from ctxext.checkpoints.weights.files import (
    stale_weights,
    stray_adapter,
    tied_head,
)
from ctxext.checkpoints.weights.live_names import by_stored_names
from ctxext.checkpoints.weights.merge import check_mergeable, merge_into
from ctxext.checkpoints.weights.merge_check import verify_merge
from ctxext.checkpoints.weights.position_hash import POSITION_KEY, position_sha256
from ctxext.checkpoints.weights.rounding import Rounding
from ctxext.checkpoints.weights.safetensors_file import printable
from ctxext.errors import BadInput
from ctxext.machine.memory import process_peak
from ctxext.masking import masked
from ctxext.progress import Progress, silent
from ctxext.runs.json_file import dump_json
from ctxext.runs.output import check_output, staged_folder
from ctxext.runs.rows.record import RunRecord
from ctxext.runs.rows.row import Document


@dataclass(frozen=True, kw_only=True)
class MergeResult(Document):
    """What `ctxext merge` wrote.

    `rounding` says what storing the merged tensors in their dtype cost; `verified` counts the
    tensors that were read back and compared, None without `verify`.
    """

    schema: ClassVar[str] = "ctxext.merge/1"
    output_dir: str
    tensors: int
    merged_tensors: int
    bytes: int
    peak_memory_bytes: int
    rounding: Rounding
    verified: int | None
    warnings: tuple[str, ...] = ()


@checked
def merge(
    adapter: str | Path,
    *,
    output_dir: str | Path,
    base: str | None = None,
    dtype: DtypeWord = "auto",
    revision: str | None = None,
    tokenizer: str | None = None,
    overwrite: bool = False,
    verify: bool = False,
    training: Mapping[str, Any] | None = None,
    on_progress: Progress = silent,
) -> MergeResult:
    """Merge a LoRA adapter into its base's shards, one tensor in memory at a time.

    Config, tokenizer and side files are the base's, so the rope is the one the adapter was trained
    under; an adapter that carries the hash of another rope is refused.

    Args:
        adapter: folder of a peft adapter.
        output_dir: new folder.
        base: the *extended* checkpoint; default: what the adapter names, if that is a folder here.
        dtype: `auto` keeps each tensor's.
        tokenizer: folder or repository whose tokenizer goes into the output; None = the base's.
        verify: read a sample of the written tensors back and compare them with base + adapter,
            computed again in float64.
        training: summary for ctxext.json.

    Raises:
        BadInput: the adapter cannot be merged exactly, does not fit, or saw another rope.
        CtxextError: corrupt files, non-finite numbers, a full disk, a failed `verify`; nothing is
            left of the output then.
    """
    stored = check_dtype(dtype)
    loaded = read_adapter(Path(adapter))
    opened = open_checkpoint(
        _base_of(loaded, base), revision=revision, tokenizer=tokenizer, decoder=True
    )
    check_output(
        Path(output_dir), overwrite=overwrite, inputs=(opened.source.folder, Path(adapter))
    )
    loaded = for_family(loaded, opened.position.model_type)
    _refuse_twice(loaded, opened)
    warnings = _check_rope(loaded, opened)
    if base is not None and not _names(loaded.base_name, base, opened):
        shown = masked(printable(str(loaded.base_name)))
        warnings.append(f"the adapter names another base ({shown}); --base counts")
    beside = [] if tokenizer else other_tokenizer(Path(adapter), opened.source.folder)
    if beside:
        warnings.append(
            f"the tokenizer beside the adapter differs from the base's ({', '.join(beside)}), and "
            f"the base's is taken; --tokenizer {quote(str(adapter))} takes the adapter's"
        )
    return write_merged(
        opened, loaded, Path(output_dir), adapter=_adapter_record(loaded), dtype=stored,
        overwrite=overwrite, verify=verify, training=training, warnings=warnings,
        on_progress=on_progress,
    )  # fmt: skip


def write_merged(
    opened: Opened,
    changes: Adapter,
    out: Path,
    *,
    adapter: Mapping[str, Any] | None,
    dtype: DtypeName,
    overwrite: bool,
    verify: bool,
    training: Mapping[str, Any] | None,
    warnings: list[str],
    on_progress: Progress,
) -> MergeResult:
    """Write base + changes as a whole checkpoint, config, tokenizer and record included.

    Args:
        opened: the base.
        changes: an adapter, or the tensors of a full fine-tuning (`checkpoints.weights.trained`).
        adapter: what ctxext.json says of the adapter; None = there was none.
        warnings: found so far.

    Raises:
        BadInput, CtxextError: as `merge`.
    """
    inputs = (opened.source.folder, changes.file.parent)
    folder = opened.source.folder
    weights = read_unquantised(opened.source, "merge")
    check_mergeable(weights)
    changes = by_stored_names(changes, weights.tensors)
    if verify and "auto_map" not in opened.config:  # no code is run for a merge
        check_tensors(opened.source)
    warnings += stale_weights(folder)
    if changes.file.parent.resolve() != folder.resolve():
        warnings += stray_adapter(folder)
    verified = None
    with staged_folder(out, overwrite=overwrite, inputs=inputs, needed_bytes=weights.bytes) as new:
        carry_side_files(opened.source.folder, new, warnings)
        if opened.tokenizer is not None:
            carry_tokenizer(opened.tokenizer.folder, new, warnings)
            if (window := opened.position.claimed_tokens) is not None:
                patch_tokenizer(opened.tokenizer.folder, new, window, warnings)
        tied = tied_head(opened.config)
        done = merge_into(
            weights, changes, new, tie_word_embeddings=tied, dtype=dtype, on_progress=on_progress
        )
        config = dict(opened.config)
        if done.tied is not None:
            config["tie_word_embeddings"] = tied = done.tied
        for key in ("dtype", "torch_dtype"):
            if dtype != "auto" and key in config:
                config[key] = dtype
        if verify:
            verified = verify_merge(weights, done.applied, new, dtype=dtype, tied=tied)
        (new / CONFIG).write_text(dump_json(config), encoding="utf-8")
        write_record(new, _record(opened, adapter, training))
    warnings += _lost(done.rounding)
    return MergeResult(
        output_dir=str(out),
        tensors=done.tensors,
        merged_tensors=done.merged_tensors,
        bytes=done.bytes,
        peak_memory_bytes=process_peak(),
        rounding=done.rounding,
        verified=verified,
        warnings=tuple(dict.fromkeys([*warnings, *done.warnings])),
    )


def _lost(rounding: Rounding) -> list[str]:
    """Warn where rounding is much of what training changed."""
    if rounding.of_update <= 0.5:
        return []
    return [
        f"rounding is {rounding.of_update:.0%} of what training changed in {rounding.tensor}; "
        "--dtype float32 (--merge-dtype in finetune) keeps all of it"
    ]


def _base_of(adapter: Adapter, base: str | None) -> str:
    if base is not None:
        return base
    name = adapter.base_name
    try:
        if name is not None and Path(name).is_dir():
            return name
    except (OSError, ValueError):  # too long for a path, or none at all
        pass
    raise BadInput(
        f"the adapter names {masked(printable(str(name)))!r} as its base, which is no folder here",
        "give the extended checkpoint it was trained on with --base",
    )


def _names(name: str | None, base: str, opened: Opened) -> bool:
    """Tell whether an adapter means this base: by its name, or that of what it was extended from.

    Where a recipe's section `extend` made the base, the adapter names the checkpoint before.
    """
    if name is None or name in (base, opened.source.name, f"./{opened.source.name}"):
        return True
    if Path(name) == Path(base):
        return True
    made = read_record(opened.source.folder) or RunRecord()
    before = made.base.id if made.base and made.kind != "merge" else None
    return before is not None and before in (name, Path(name).name)


def _refuse_twice(adapter: Adapter, base: Opened) -> None:
    """Refuse a base into which the same adapter was merged already, as its record tells.

    Raises:
        BadInput: what was trained would be added once more.
    """
    made = read_record(base.source.folder) or RunRecord()
    merged = made.document.get("adapter")
    if isinstance(merged, Mapping) and merged.get("sha256") == sha256_of(adapter.file):
        before = made.base.id if made.base else "its base"
        raise BadInput(
            f"{base.source.name} has this adapter merged in already",
            f"give the checkpoint that it was trained on with --base: {before}",
        )


def _check_rope(adapter: Adapter, base: Opened) -> list[str]:
    """Refuse an adapter that was trained under another position encoding than the base has."""
    position, metadata = base.position, adapter.header.metadata
    trained = metadata.get(ROPE_KEY) or metadata.get(POSITION_KEY)
    what = "rope" if position.rope is not None else "position encoding"
    if trained is None:
        return [
            f"the adapter does not say under which {what} it was trained; make sure it is this one"
        ]
    if trained != position_sha256(position, base.source.folder):
        raise BadInput(
            f"the adapter was trained under another {what} than {base.source.name} has",
            "give the extended checkpoint it was trained on with --base",
        )
    return []


def _targets(names: str | list[str]) -> list[str]:
    """Make a list of what peft takes: names, or one regular expression."""
    return [names] if isinstance(names, str) else sorted(names)


def _adapter_record(adapter: Adapter) -> dict[str, Any]:
    return {
        "sha256": sha256_of(adapter.file),
        "rank": adapter.config.get("r"),
        "alpha": adapter.config.get("lora_alpha"),
        "targets": _targets(adapter.config.get("target_modules") or []),
        "modules_to_save": adapter.config.get("modules_to_save"),
        "rslora": bool(adapter.config.get("use_rslora")),
        "dora": bool(adapter.config.get("use_dora")),
    }


def _record(
    base: Opened, adapter: Mapping[str, Any] | None, training: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Make the merged checkpoint's ctxext.json; how the base was extended is told once more."""
    before = read_record(base.source.folder) or RunRecord()
    return record(
        "merge",
        base=base.source,
        position=base.position,
        extended_from=before.base.to_dict() if before.base else None,
        method=before.method,
        parameters=before.parameters,
        **base_terms(base.source.folder),
        config_diff=before.config_diff,
        unscaled=before.unscaled,
        extend_command=before.command or None,
        adapter=adapter,
        tokenizer=tokenizer_record(base),
        training=training,
        evaluations=[],
    )
