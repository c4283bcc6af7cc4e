"""`ctxext finetune`: LoRA at the target length, then the adapter merged into a checkpoint."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from ctxext.checkpoints.folder import CONFIG
from ctxext.checkpoints.load import check_dtype, load_tokenizer
from ctxext.checkpoints.numbers import whole
from ctxext.checkpoints.output import check_output, locked, write_file
from ctxext.checkpoints.weights import Weights, read_weights
from ctxext.data.packing import PackedRows
from ctxext.data.sources import Source as TextSource
from ctxext.data.tokens import check_vocabulary, tokenize
from ctxext.errors import BadInput
from ctxext.pipeline.merge import merge
from ctxext.pipeline.opened import Opened, open_checkpoint
from ctxext.pipeline.recipe import build
from ctxext.progress import Progress, silent
from ctxext.release.provenance import read_record, record, write_record
from ctxext.training.config import FinetuneConfig

# Loaded when training begins: these import torch.
StartListener = Callable[[Any], None]


@dataclass(frozen=True)
class FinetuneResult:
    """What `ctxext finetune` made; `to_dict` is its JSON document.

    `merged` is None when the run was stopped before its last step, or only planned.
    """

    output_dir: str
    adapter: str | None
    merged: str | None
    steps: int
    tokens: int
    final_loss: float | None
    tokens_per_second: float | None
    peak_memory_bytes: int
    stopped: bool
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": "ctxext.finetune/1",
            "output_dir": self.output_dir,
            "adapter": self.adapter,
            "merged": self.merged,
            "steps": self.steps,
            "tokens": self.tokens,
            "final_loss": self.final_loss,
            "tokens_per_second": self.tokens_per_second,
            "peak_memory_bytes": self.peak_memory_bytes,
            "stopped": self.stopped,
            "warnings": list(self.warnings),
        }


def finetune(
    model: str,
    *,
    output_dir: str | Path,
    recipe: Mapping[str, Any],
    resume: bool = False,
    overwrite: bool = False,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    merge_dtype: str = "auto",
    trust_remote_code: bool = False,
    on_start: StartListener | None = None,
    on_progress: Progress = silent,
) -> FinetuneResult:
    """Train LoRA adapters on an extended checkpoint, at its length, and merge them.

    Leaves `adapter/`, `merged/`, `checkpoints/step-N/`, `log.jsonl`, `recipe.yaml`, `ctxext.json`.

    Args:
        model: an *extended* checkpoint; its window has to reach `train.seq_length`.
        output_dir: new folder, or with `resume` the folder of the run to go on with.
        recipe: sections `data`, `lora`, `train`, `memory`, as in a recipe file.
        dtype: of the frozen weights: `auto` = as stored on a GPU, float32 on a CPU.
        merge_dtype: of the merged checkpoint; `auto` = as stored in the base.
        on_start: told what is trained (`training.finetune.StartReport`) before the first step.

    Raises:
        BadInput: anything the user can mend: recipe, data, window, `--resume` of another run.
        CtxextError: a failed self-check, a loss that is not finite, corrupt files, a full disk.
    """
    config = build(FinetuneConfig, recipe, where="recipe")
    kind = check_dtype(dtype)
    out = Path(output_dir)
    opened = open_checkpoint(model, revision=revision)
    config = _at_length(config, opened)
    if not config.data.source:
        raise BadInput("--data is missing", "e.g. --data book.txt or --data builtin:python")
    check_output(out, overwrite=overwrite or resume, inputs=(opened.source.folder,))
    _check_targets(config.lora.targets, read_weights(opened.source.folder))
    with locked(out):
        return _run(
            opened, config, out, _public_name(model, opened), resume=resume, kind=kind,
            device=device, merge_dtype=merge_dtype, trust_remote_code=trust_remote_code,
            on_start=on_start, on_progress=on_progress,
        )  # fmt: skip


def _run(
    opened: Opened,
    config: FinetuneConfig,
    out: Path,
    base_name: str,
    *,
    resume: bool,
    kind: Any,
    device: str,
    merge_dtype: str,
    trust_remote_code: bool,
    on_start: StartListener | None,
    on_progress: Progress,
) -> FinetuneResult:
    text = TextSource(config.data.source, config.data.field)
    text.check()
    embeddings = whole(opened.config, "vocab_size", f"{opened.source.name}/{CONFIG}")
    tokenizer = load_tokenizer(opened.source, trust_remote_code=trust_remote_code)
    corpus = tokenize(text, tokenizer)
    warnings = list(opened.warnings)
    if corpus.replaced:
        warnings.append(f"--data {corpus.source}: {corpus.replaced} bytes were not UTF-8")
    # Everything that can be known to fail does so here: below, an old run is removed.
    check_vocabulary(corpus, embeddings or 2**31)
    separator = getattr(tokenizer, "eos_token_id", None)
    PackedRows(corpus.stream(separator), config.train.seq_length, config.train.seed)
    if not resume:
        shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    _write_recipe(out, config)
    begun = {"steps": 0, "recipe": _public_recipe(config, corpus.source)}
    write_record(out, _record(opened, begun))

    from ctxext.training.finetune import train_adapter
    from ctxext.training.stop import graceful_stop

    with graceful_stop() as stop:
        trained = train_adapter(
            opened.source,
            opened.position,
            corpus,
            separator,
            config,
            out,
            base_name=base_name,
            dtype=kind,
            device=device,
            trust_remote_code=trust_remote_code,
            resume=resume,
            stop=stop,
            on_start=on_start,
            on_progress=on_progress,
        )
    stopped = trained.state.step < config.train.steps
    last = trained.log[-1] if trained.log else {}
    summary = {
        "steps": trained.state.step,
        "tokens": trained.state.tokens,
        "final_loss": last.get("loss"),
        "recipe": _public_recipe(config, corpus.source),
        "data": {"source": corpus.source, "sha256": corpus.sha256, "tokens": corpus.tokens},
    }
    merged = None
    if not stopped:
        merged = out / "merged"
        merge(
            trained.adapter, base=str(opened.source.folder), output_dir=merged, dtype=merge_dtype,
            overwrite=True, training=summary, on_progress=on_progress,
        )  # fmt: skip
    write_record(out, _record(opened, summary))
    return FinetuneResult(
        output_dir=str(out),
        adapter=str(trained.adapter),
        merged=str(merged) if merged else None,
        steps=trained.state.step,
        tokens=trained.state.tokens,
        final_loss=last.get("loss"),
        tokens_per_second=last.get("tokens_per_second"),
        peak_memory_bytes=max((line["peak_memory_bytes"] for line in trained.log), default=0),
        stopped=stopped,
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _at_length(config: FinetuneConfig, opened: Opened) -> FinetuneConfig:
    """The config with `seq_length` filled in, refused where the rope does not reach it."""
    window = opened.position.window.current
    length = config.train.seq_length or window
    if length > window:
        raise BadInput(
            f"--seq-length {length} is beyond the window of {opened.source.name}, {window} tokens",
            f"extend it first: ctxext extend {opened.source.name} --target {length}",
        )
    return replace(config, train=replace(config.train, seq_length=length))


def _check_targets(targets: Sequence[str], weights: Weights) -> None:
    """Every name in `lora.targets` is a matrix of the checkpoint; `add_adapters` looks closer."""
    parts = [name.split(".") for name, (_, info) in weights.tensors.items() if len(info.shape) == 2]
    known = {part[-2] for part in parts if part[-1] == "weight" and len(part) > 1}
    known -= {"lm_head", "embed_tokens"}
    for target in targets:
        if target not in known:
            raise BadInput(
                f"lora.targets names '{target}', which is no linear layer of this model",
                f"it has: {', '.join(sorted(known))}",
            )


def _public_name(model: str, opened: Opened) -> str:
    """What the adapter calls its base: as typed, but never an absolute path."""
    return opened.source.name if Path(model).is_absolute() else model


def _write_recipe(out: Path, config: FinetuneConfig) -> None:
    head = (
        "# The recipe of this run, with every default filled in; to repeat the run:\n"
        "#   ctxext finetune MODEL --recipe recipe.yaml --output-dir NEW\n"
    )
    write_file(out / "recipe.yaml", head + yaml.safe_dump(config.to_dict(), sort_keys=False))


def _public_recipe(config: FinetuneConfig, source: str) -> dict[str, Any]:
    """The recipe as it may be published: the text by its name, not by where it lies here."""
    recipe = config.to_dict()
    recipe["data"]["source"] = source
    return recipe


def _record(opened: Opened, training: Mapping[str, Any]) -> dict[str, Any]:
    before = read_record(opened.source.folder) or {}
    return record(
        "finetune",
        base=opened.source,
        position=opened.position,
        extended_from=before.get("base"),
        method=before.get("method"),
        parameters=before.get("parameters"),
        license=before.get("license") or {},
        config_diff=before.get("config_diff"),
        extend_command=before.get("command"),
        training=training,
        evaluations=[],
    )
