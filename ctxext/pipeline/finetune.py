"""`ctxext finetune`: LoRA at the target length, then the adapter merged into a checkpoint."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ctxext.checkpoints.folder import CONFIG
from ctxext.checkpoints.load import check_dtype, load_tokenizer
from ctxext.checkpoints.numbers import whole
from ctxext.checkpoints.output import check_output, locked, write_file
from ctxext.checkpoints.trained import read_trained
from ctxext.checkpoints.weights import Weights, read_weights
from ctxext.data.mixture import Mixture
from ctxext.data.positions import PositionSkips
from ctxext.data.store import TokenFile, tokenizer_digest
from ctxext.data.tokens import check_top
from ctxext.errors import BadInput
from ctxext.launch import Launch, launched, was_launched
from ctxext.pipeline.merge import MergeResult, merge, write_merged
from ctxext.pipeline.opened import Opened, open_checkpoint
from ctxext.pipeline.recipe import build
from ctxext.pipeline.texts import (
    check_texts,
    mixed_rows,
    token_files,
    training_data,
    unreadable,
)
from ctxext.progress import Note, Progress, silent, unheard
from ctxext.release.provenance import read_record, record, write_record
from ctxext.report.live import LossPlot
from ctxext.training.config import ALL_LINEAR, FinetuneConfig

if TYPE_CHECKING:
    from ctxext.training.finetune import Trained

# Loaded when training begins: these import torch.
StartListener = Callable[[Any], None]
LOSS = "loss.png"


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
    report_to: str | None = None,
    on_note: Note = unheard,
    on_start: StartListener | None = None,
    on_progress: Progress = silent,
) -> FinetuneResult:
    """Train LoRA adapters on an extended checkpoint, at its length, and merge them.

    Under `torchrun` or `accelerate launch` all processes call this together: rank 0 alone writes
    and reports, and all return the same.

    Leaves `adapter/`, `merged/`, `checkpoints/step-N/`, `log.jsonl`, `loss.png`, `recipe.yaml`,
    `ctxext.json`.

    Args:
        model: an *extended* checkpoint; its window has to reach `train.seq_length`.
        output_dir: new folder, or with `resume` the folder of the run to go on with.
        recipe: sections `data`, `lora`, `train`, `memory`, `parallel`, as in a recipe file.
        dtype: of the frozen weights: `auto` = as stored on a GPU, float32 on a CPU.
        merge_dtype: of the merged checkpoint; `auto` = as stored in the base.
        report_to: a tracker that accelerate knows and whose package is installed.
        on_note: told when a step is left out, or a damaged checkpoint passed over.
        on_start: told what is trained (`training.finetune.StartReport`) before the first step.

    Raises:
        BadInput: anything the user can mend: recipe, data, window, `--resume` of another run.
        CtxextError: a failed self-check, a loss that is not finite, corrupt files, a full disk.
    """
    config = build(FinetuneConfig, recipe, where="recipe")
    kind = check_dtype(dtype)
    out = Path(output_dir)
    if report_to is not None:
        from ctxext.training.trackers import check_tracker

        check_tracker(report_to)
    with launched(device) as launch, ExitStack() as held:

        def look() -> tuple[Opened, FinetuneConfig]:
            opened = open_checkpoint(model, revision=revision)
            found = _at_length(config, opened)
            found.parallel.check(launch.ranks, found.train.seq_length)
            if not found.data.texts:
                raise BadInput("--data is missing", "e.g. --data book.txt or --data builtin:python")
            if launch.main:
                inputs = (opened.source.folder,)
                check_output(out, overwrite=overwrite or resume, inputs=inputs)
            weights = read_weights(opened.source.folder)
            if found.train.what == "lora" and found.lora.targets != (ALL_LINEAR,):
                _check_targets(found.lora.targets, weights)
            if launch.main:
                held.enter_context(locked(out))
            return opened, found

        opened, config = launch.agree(look)
        return _run(
            launch, opened, config, out, _public_name(model, opened), resume=resume, kind=kind,
            device=device, merge_dtype=merge_dtype, trust_remote_code=trust_remote_code,
            report_to=report_to, on_note=on_note, on_start=on_start, on_progress=on_progress,
        )  # fmt: skip


def _run(
    launch: Launch,
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
    report_to: str | None,
    on_note: Note,
    on_start: StartListener | None,
    on_progress: Progress,
) -> FinetuneResult:
    if config.train.quantize != "none":
        from ctxext.training.quantize import check_quantize

        check_quantize(config.train.quantize)
    if config.train.compile:
        from ctxext.training.compiled import check_compile
        from ctxext.training.finetune import training_device

        launch.agree(lambda: check_compile(training_device(device, launch)))

    def read() -> tuple[Any, list[TokenFile], Mixture]:
        embeddings = whole(opened.config, "vocab_size", f"{opened.source.name}/{CONFIG}")
        check_texts(config.data)
        tokenizer = load_tokenizer(opened.source, trust_remote_code=trust_remote_code)
        separator = getattr(tokenizer, "eos_token_id", None)
        digest = tokenizer_digest(opened.source.folder)
        files = token_files(config.data, tokenizer, digest, separator)
        # Everything that can be known to fail does so here: below, an old run is removed.
        check_top(max(file.top for file in files), embeddings or 2**31)
        return training_data(config.data, files), files, mixed_rows(config, files)

    data, files, mixture = launch.agree(read)
    warnings = [*opened.warnings, *unreadable(files)]

    def begin() -> None:
        if not resume:
            shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True, exist_ok=True)
        _write_recipe(out, config)
        begun = {"steps": 0, "recipe": _public_recipe(config, data)}
        write_record(out, _record(opened, begun))

    launch.on_main(begin)

    from ctxext.training.batch import TrainingRows
    from ctxext.training.finetune import train_adapter
    from ctxext.training.shifted_attention import WARNING
    from ctxext.training.stop import graceful_stop

    if config.train.attention == "s2":
        warnings.append(WARNING)
    separate = config.data.documents == "separate"
    rows = TrainingRows(mixture, data["tokens_sha256"], separate, _skips(config))
    with graceful_stop(launched=was_launched()) as stop, LossPlot(out / LOSS, on_note) as plot:
        trained = train_adapter(
            opened.source,
            opened.position,
            rows,
            config,
            out,
            base_name=base_name,
            dtype=kind,
            device=device,
            trust_remote_code=trust_remote_code,
            resume=resume,
            launch=launch,
            report_to=report_to,
            stop=stop,
            on_note=on_note,
            on_start=on_start,
            on_log=plot.update,
            on_progress=on_progress,
        )
    return launch.on_main(
        lambda: _finish(
            opened, config, out, trained, data, warnings,
            merge_dtype=merge_dtype, on_progress=on_progress,
        )
    )  # fmt: skip


def _finish(
    opened: Opened,
    config: FinetuneConfig,
    out: Path,
    trained: "Trained",
    data: Mapping[str, Any],
    warnings: list[str],
    *,
    merge_dtype: str,
    on_progress: Progress,
) -> FinetuneResult:
    """What comes after the last step, on rank 0: merge, record, result."""
    stopped = trained.state.step < config.train.steps
    last = trained.log[-1] if trained.log else {}
    summary = {
        "steps": trained.state.step,
        "tokens": trained.state.tokens,
        "final_loss": last.get("loss"),
        "recipe": _public_recipe(config, data),
        "data": data,
    }
    merged = None
    if not stopped:
        merged = out / "merged"
        warnings += _merge(opened, trained, merged, merge_dtype, summary, on_progress).warnings
    write_record(out, _record(opened, summary))
    return FinetuneResult(
        output_dir=str(out),
        adapter=str(trained.adapter) if trained.adapter else None,
        merged=str(merged) if merged else None,
        steps=trained.state.step,
        tokens=trained.state.tokens,
        final_loss=last.get("loss"),
        tokens_per_second=last.get("tokens_per_second"),
        peak_memory_bytes=max((line["peak_memory_bytes"] for line in trained.log), default=0),
        stopped=stopped,
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _merge(
    opened: Opened,
    trained: "Trained",
    merged: Path,
    dtype: str,
    summary: Mapping[str, Any],
    on_progress: Progress,
) -> MergeResult:
    """The adapter, or after full fine-tuning every weight, as a checkpoint like the base."""
    if trained.adapter is not None:
        return merge(
            trained.adapter, base=str(opened.source.folder), output_dir=merged, dtype=dtype,
            overwrite=True, training=summary, on_progress=on_progress,
        )  # fmt: skip
    from ctxext.training.full import PREFIX

    return write_merged(
        opened, read_trained(trained.tensors, PREFIX), merged, adapter=None,
        dtype=check_dtype(dtype), overwrite=True, verify=False, training=summary, warnings=[],
        on_progress=on_progress,
    )  # fmt: skip


def _at_length(config: FinetuneConfig, opened: Opened) -> FinetuneConfig:
    """The config with `seq_length` filled in, refused where the rope does not reach it.

    What has to lie in the window is the last position: with PoSE the target's, and a row is as long
    as the window that the checkpoint came with.
    """
    window, train = opened.position.window, config.train
    length = train.seq_length or (window.original if train.pose_target else window.current)
    flag, reach = "--seq-length", length
    if train.pose_target > length:
        flag, reach = "train.pose_target", train.pose_target
    if reach > window.current:
        raise BadInput(
            f"{flag} {reach} is beyond the window of {opened.source.name}, {window.current} tokens",
            f"extend it first: ctxext extend {opened.source.name} --target {reach}",
        )
    config = replace(config, train=replace(train, seq_length=length))
    _skips(config)
    return config


def _skips(config: FinetuneConfig) -> PositionSkips | None:
    train = config.train
    if not train.pose_target:
        return None
    return PositionSkips(train.seq_length, train.pose_target, train.pose_chunks, train.seed)


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


def _public_recipe(config: FinetuneConfig, data: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe as it may be published: texts by their names, not by where they lie here."""
    recipe = config.to_dict()
    if config.data.source:
        recipe["data"]["source"] = data["source"]
    for entry, public in zip(recipe["data"]["sources"], data.get("sources", ()), strict=True):
        entry["source"] = public["source"]
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
