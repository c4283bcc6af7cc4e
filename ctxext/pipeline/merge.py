"""`ctxext merge`: an adapter and the checkpoint it was trained on become one checkpoint."""

import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctxext.checkpoints.adapter import ROPE_KEY, Adapter, read_adapter
from ctxext.checkpoints.carry import base_license, carry_side_files
from ctxext.checkpoints.folder import CONFIG
from ctxext.checkpoints.json_file import dump_json
from ctxext.checkpoints.load import check_dtype
from ctxext.checkpoints.merge import merge_into
from ctxext.checkpoints.output import check_output, staged_folder
from ctxext.checkpoints.weights import read_weights
from ctxext.errors import BadInput
from ctxext.pipeline.opened import Opened, open_checkpoint
from ctxext.progress import Progress, silent
from ctxext.release.provenance import read_record, record, write_record


@dataclass(frozen=True)
class MergeResult:
    """What `ctxext merge` wrote; `to_dict` is its JSON document."""

    output_dir: str
    tensors: int
    merged_tensors: int
    bytes: int
    peak_memory_bytes: int
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": "ctxext.merge/1",
            "output_dir": self.output_dir,
            "tensors": self.tensors,
            "merged_tensors": self.merged_tensors,
            "bytes": self.bytes,
            "peak_memory_bytes": self.peak_memory_bytes,
            "warnings": list(self.warnings),
        }


def merge(
    adapter: str | Path,
    *,
    output_dir: str | Path,
    base: str | None = None,
    dtype: str = "auto",
    revision: str | None = None,
    overwrite: bool = False,
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
        training: summary for ctxext.json.

    Raises:
        BadInput: the adapter cannot be merged exactly, does not fit, or saw another rope.
        CtxextError: corrupt files, non-finite numbers, a full disk.
    """
    kind = check_dtype(dtype)
    loaded = read_adapter(Path(adapter))
    opened = open_checkpoint(_base_of(loaded, base), revision=revision)
    inputs = (opened.source.folder, loaded.folder)
    out = Path(output_dir)
    check_output(out, overwrite=overwrite, inputs=inputs)
    warnings = _check_rope(loaded, opened)
    if base is not None and loaded.base_name not in (None, base, opened.source.name):
        warnings.append(f"the adapter names another base ({loaded.base_name}); --base counts")
    weights = read_weights(opened.source.folder)
    with staged_folder(out, overwrite=overwrite, inputs=inputs, needed_bytes=weights.bytes) as new:
        carry_side_files(opened.source.folder, new, warnings)
        done = merge_into(
            weights,
            loaded,
            new,
            tie_word_embeddings=_tied(opened),
            dtype=kind,
            on_progress=on_progress,
        )
        config = dict(opened.config)
        if done.tied is not None:
            config["tie_word_embeddings"] = done.tied
        for key in ("dtype", "torch_dtype"):
            if kind != "auto" and key in config:
                config[key] = kind
        (new / CONFIG).write_text(dump_json(config), encoding="utf-8")
        write_record(new, _record(opened, loaded, training))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return MergeResult(
        output_dir=str(out),
        tensors=done.tensors,
        merged_tensors=done.merged_tensors,
        bytes=done.bytes,
        peak_memory_bytes=peak if sys.platform == "darwin" else peak * 1024,
        warnings=tuple(dict.fromkeys([*warnings, *done.warnings])),
    )


def _base_of(adapter: Adapter, base: str | None) -> str:
    if base is not None:
        return base
    name = adapter.base_name
    if name is not None and Path(name).is_dir():
        return name
    raise BadInput(
        f"the adapter names {name!r} as its base, which is no folder here",
        "give the extended checkpoint it was trained on with --base",
    )


def _check_rope(adapter: Adapter, base: Opened) -> list[str]:
    trained = adapter.header.metadata.get(ROPE_KEY)
    now = base.position.rope.sha256 if base.position.rope else None
    if trained is None:
        return [
            "the adapter does not say under which rope it was trained; make sure it is this one"
        ]
    if trained != now:
        raise BadInput(
            f"the adapter was trained under another rope than {base.source.name} has",
            "give the extended checkpoint it was trained on with --base",
        )
    return []


def _tied(base: Opened) -> bool:
    """`tie_word_embeddings`, or what transformers assumes for the family (true only for some)."""
    flag = base.config.get("tie_word_embeddings")
    return bool(flag) if flag is not None else False


def _targets(names: str | list[str]) -> list[str]:
    """peft takes a list of names, or one regular expression."""
    return [names] if isinstance(names, str) else sorted(names)


def _record(base: Opened, adapter: Adapter, training: Mapping[str, Any] | None) -> dict[str, Any]:
    """The merged checkpoint's ctxext.json; how the base was extended is told once more."""
    before = read_record(base.source.folder) or {}
    return record(
        "merge",
        base=base.source,
        position=base.position,
        extended_from=before.get("base"),
        method=before.get("method"),
        parameters=before.get("parameters"),
        license=before.get("license") or base_license(base.source.folder),
        config_diff=before.get("config_diff"),
        extend_command=before.get("command"),
        adapter={
            "rank": adapter.config.get("r"),
            "alpha": adapter.config.get("lora_alpha"),
            "targets": _targets(adapter.config.get("target_modules") or []),
            "modules_to_save": adapter.config.get("modules_to_save"),
        },
        training=training,
        evaluations=[],
    )
