"""One stage of a fine-tuning run, or all of it: texts read, base extended, adapter trained."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxext.api.extend import extend
from ctxext.checkpoints.config.dtype import DtypeName
from ctxext.checkpoints.folder import CONFIG
from ctxext.checkpoints.opened import Opened, open_checkpoint, tokenizer_of, tokenizer_record
from ctxext.checkpoints.provenance import base_terms, read_record, record, write_record
from ctxext.data.cache import check_cache_folder
from ctxext.data.mixture import Mixture
from ctxext.data.positions import PositionSkips
from ctxext.data.sources import Source
from ctxext.data.store import tokenizer_digest
from ctxext.data.tokens import check_top
from ctxext.evaluation.texts import (
    evaluation_text,
    mixed_rows,
    of_eval_data,
    token_files,
    trained_text,
    training_data,
    unreadable,
    validation_rows,
)
from ctxext.machine.launch import Launch
from ctxext.progress import Note, Progress
from ctxext.report.charts.live import Lines, LossPlot
from ctxext.report.charts.style import chart_title
from ctxext.runs.numbers import whole
from ctxext.runs.output import MARK
from ctxext.runs.recipe.begun import RunModel
from ctxext.runs.recipe.config import FinetuneConfig
from ctxext.runs.rows.record import RunRecord
from ctxext.training.run.stages import (
    EXTENDED,
    Stage,
    counted_on,
    joined_log,
    named,
    to_compare,
    whole_recipe,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ctxext.training.run.stop import StopRequest

LOSS = "loss.png"

# Loaded when training begins: these import torch.
StartListener = Callable[[Any], None]


@dataclass(frozen=True)
class Run:
    """What all stages of a run share: where it comes from and goes, and who is told.

    Attributes:
        asked: the base as typed, before any extension, and how it is loaded; opened, `opened`.
        out: the output folder; the rest is as `finetune` was called.
    """

    launch: Launch
    asked: RunModel
    opened: Opened
    out: Path
    resume: bool
    dtype: DtypeName
    device: str
    merge_dtype: DtypeName
    trust_remote_code: bool
    on_note: Note
    on_start: StartListener | None
    on_progress: Progress

    @property
    def model(self) -> str:
        """The base as typed."""
        return str(self.asked.model)


@dataclass(frozen=True)
class Texts:
    """What a stage reads: rows, what is written down about them, and rows to be measured on."""

    mixture: Mixture
    data: Mapping[str, Any]
    warnings: tuple[str, ...]
    validation: "npt.NDArray[np.int64] | None" = None


def read_texts(run: Run, stages: Sequence[Stage]) -> list[Texts]:
    """Read the rows of every stage; a text that several read is tokenised once.

    Raises:
        BadInput: all that can be wrong with a text; the stage is named.
    """
    source = run.opened.source
    embeddings = whole(run.opened.config, "vocab_size", f"{source.name}/{CONFIG}")
    check_cache_folder()
    tokenizer = tokenizer_of(run.opened, trust_remote_code=run.trust_remote_code)
    separator = getattr(tokenizer, "eos_token_id", None)
    digest = tokenizer_digest(run.opened.tokens_from.folder)
    texts = []
    for stage in stages:
        with named(stage.name):
            config = stage.config
            files = token_files(config.data, tokenizer, digest, separator)
            check_top(max(file.top for file in files), embeddings or 2**31)
            data = training_data(config.data, files)
            mixture = mixed_rows(config, files)
            other = None
            if config.validation.source:
                with of_eval_data():
                    (other,) = token_files(evaluation_text(config), tokenizer, digest, separator)
                    check_top(other.top, embeddings or 2**31)
                if run.launch.main and (twice := trained_text(config, files, other)):
                    run.on_note(twice)
            measured = validation_rows(config, mixture, other)
            warnings = unreadable([*files, *([other] if other else [])])
            texts.append(Texts(mixture, data, tuple(warnings), measured))
    return texts


def train_stage(
    run: Run,
    stage: Stage,
    stages: Sequence[Stage],
    texts: Texts,
    recipe: Mapping[str, Any],
    start: Path | None,
    stop: "StopRequest",
) -> Mapping[str, Any]:
    """Run a stage, or a run without stages, from extending its base to its adapter.

    Args:
        stages: all of them.
        recipe: the whole run's.
        start: what the stage before has trained.

    Returns:
        `steps`, `tokens` and, on rank 0, `final_loss`.
    """
    from accelerate.utils.memory import clear_device_cache

    from ctxext.training.model.batch import TrainingRows
    from ctxext.training.run.setting import Base, Listeners, Where
    from ctxext.training.run.train import train_adapter

    run.launch.on_main(lambda: _extend(run, stage))
    opened = run.launch.agree(lambda: trained_on(run, stage))
    separate = stage.config.data.documents == "separate"
    skips = position_skips(stage.config)
    clear_device_cache(garbage_collection=True)  # of the stage before
    title = chart_title("Training", [run.out.name], str(texts.data["source"]))
    whole_log = _from_the_first(stage, stages)
    with LossPlot(run.out / LOSS, run.on_note, whole=whole_log, title=title) as plot:
        trained = train_adapter(
            Base(opened.source, opened.position, _public_name(run.model, run.opened)),
            TrainingRows(
                texts.mixture, texts.data["tokens_sha256"], separate, skips, texts.validation
            ),
            stage.config,
            Where(
                stage.folder, run.launch, device=run.device, dtype=run.dtype,
                trust_remote_code=run.trust_remote_code, resume=run.resume,
                recipe=to_compare(recipe), start=start, run_name=_run_name(run, stage),
                report_to=run.asked.report_to,
            ),
            Listeners(
                note=run.on_note, start=_numbered(run.on_start, stage, len(stages)),
                log=plot.update, progress=_named_progress(run.on_progress, stage, len(stages)),
            ),
            stop,
        )  # fmt: skip
    summary = {
        "steps": trained.state.step,
        "tokens": trained.state.tokens,
        "final_loss": trained.log[-1].loss if trained.log else None,
    }
    if stage.index is not None:
        run.launch.on_main(lambda: _write_stage(opened, stage, texts, summary))
    return summary


def _run_name(run: Run, stage: Stage) -> str:
    """Name, for a tracker, the run, or this stage of it."""
    return run.out.name + ("" if stage.index is None else f"-stage-{stage.index + 1}")


def _from_the_first(stage: Stage, stages: Sequence[Stage]) -> Callable[[Lines], Lines]:
    """Make what turns the log of a stage into the log of the run."""
    if stage.index is None:
        return tuple
    before = joined_log(stages[: stage.index]) if stage.index else []
    return partial(counted_on, before, stage.index + 1)


def _numbered(listener: StartListener | None, stage: Stage, stages: int) -> StartListener | None:
    """Make a listener that is also told which stage begins."""
    if listener is None or stage.index is None:
        return listener
    note = f"stage {stage.index + 1} of {stages}"
    return lambda report: listener(replace(report, notes=(note, *report.notes)))


def _named_progress(listener: Progress, stage: Stage, stages: int) -> Progress:
    """Make a listener that hears the number of the stage as the task's name."""
    if stage.index is None:
        return listener
    task = f"stage {stage.index + 1} of {stages}"
    return lambda _, *rest: listener(task, *rest)


def _extend(run: Run, stage: Stage) -> None:
    """Write the checkpoint that a stage trains on; one that is there since the run began stays."""
    from ctxext.training.run.state import saved_steps

    wanted, folder = stage.config.extend, stage.folder / EXTENDED
    stage.folder.mkdir(parents=True, exist_ok=True)
    if wanted is None or (saved_steps(stage.folder) and (folder / MARK).exists()):
        return
    done = extend(
        run.model,
        **wanted.arguments(),
        output_dir=folder,
        original_length=wanted.original_length,
        revision=run.opened.source.revision,
        overwrite=True,
    )
    for warning in done.warnings:
        if warning not in run.opened.warnings:  # which the result has
            run.on_note(warning)


def trained_on(run: Run, stage: Stage) -> Opened:
    """Open the checkpoint that a stage trains on: what its section `extend` made, or the base."""
    if stage.config.extend is None:
        return run.opened
    return replace(open_checkpoint(str(stage.folder / EXTENDED)), tokenizer=run.opened.tokenizer)


def _write_stage(opened: Opened, stage: Stage, texts: Texts, summary: Mapping[str, Any]) -> None:
    """Write the record of a stage, from which is read that it is done."""
    recipe = _public_config(stage.config, texts.data)
    training = {**summary, "recipe": recipe, "data": texts.data}
    write_record(stage.folder, run_record("stage", opened, training))


def position_skips(config: FinetuneConfig) -> PositionSkips | None:
    """Tell how positions are spread (PoSE), where they are; refuse what cannot be spread."""
    train = config.train
    if not train.pose_target:
        return None
    return PositionSkips(train.seq_length, train.pose_target, train.pose_chunks, train.seed)


def _public_name(model: str, opened: Opened) -> str:
    """Name the adapter's base: a repository, or a folder that cannot be taken for one.

    `runs/ext` as typed would be somebody's repository to all who load the adapter elsewhere, and
    an absolute path is nobody's business; `push` writes what others can load.
    """
    if opened.source.revision is not None:
        return opened.source.name
    path = Path(opened.source.name if Path(model).expanduser().is_absolute() else model)
    return f"./{path.as_posix()}"


def public_recipe(stages: Sequence[Stage], texts: Sequence[Texts]) -> dict[str, Any]:
    """Give the whole recipe as it may be published."""
    configs = [_public_config(s.config, t.data) for s, t in zip(stages, texts, strict=True)]
    return whole_recipe(configs, staged=stages[0].index is not None)


def _public_config(config: FinetuneConfig, data: Mapping[str, Any]) -> dict[str, Any]:
    """Give a config as it may be published: texts by their names, not by where they lie here."""
    recipe = config.to_dict()
    if config.data.source:
        recipe["data"]["source"] = data["source"]
    for entry, public in zip(recipe["data"]["sources"], data.get("sources", ()), strict=True):
        entry["source"] = public["source"]
    if config.validation.source:
        recipe["validation"]["source"] = Source(config.validation.source).name
    return recipe


def run_record(kind: str, opened: Opened, training: Mapping[str, Any]) -> dict[str, Any]:
    """Make the ctxext.json of a run or a stage, which tells once more how its base was extended."""
    before = read_record(opened.source.folder) or RunRecord()
    return record(
        kind,
        base=opened.source,
        position=opened.position,
        extended_from=before.base.to_dict() if before.base else None,
        method=before.method,
        parameters=before.parameters,
        **base_terms(opened.source.folder),
        config_diff=before.config_diff,
        unscaled=before.unscaled,
        extend_command=before.command or None,
        tokenizer=tokenizer_record(opened),
        training=training,
        evaluations=[],
    )
