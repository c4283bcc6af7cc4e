"""`ctxext lab`: train short, test long, one decoder for each position encoding."""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ctxext.api._arguments import checked, maybe_lengths, maybe_several, maybe_tokens
from ctxext.api.report import make_report
from ctxext.checkpoints.provenance import SCHEMA, command_line, versions, write_record
from ctxext.errors import BadInput, CtxextError
from ctxext.lab.budget import Planned, minutes, seconds_of
from ctxext.lab.gathered_rows import (
    extension_rows,
    order_rows,
    pair_rows,
    position_rows,
    recall_rows,
    steps_rows,
)
from ctxext.lab.jobs import Trained
from ctxext.lab.laboratory import cores, run_laboratory
from ctxext.lab.setting import LabSetting, chosen, preset as preset_of
from ctxext.lab.statements import Evidence, verdicts
from ctxext.lengths import counted
from ctxext.progress import Note, Progress, silent, unheard
from ctxext.report.charts.lab import plot_lab
from ctxext.runs.json_file import dump_measured
from ctxext.runs.output import staged_folder
from ctxext.runs.rows.lab import LabResult, LabTraining

_MOST_STEPS = 10**6
_MOST_WORKERS = 256


@checked
def run_lab(
    output_dir: str | Path,
    *,
    preset: str = "train-short-test-long",
    encodings: str | Sequence[str] | None = None,
    train_length: int | str | None = None,
    test_lengths: int | str | Sequence[int | str] | None = None,
    seeds: int | None = None,
    steps: int | None = None,
    budget: str | float | None = None,
    workers: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
    on_progress: Progress = silent,
    on_note: Note = unheard,
) -> LabResult:
    """Train small decoders that differ in their position encoding alone, and test them long.

    Every decoder is a checkpoint that all commands take: `OUT/models/ENCODING-SEED`. What was
    measured is in `OUT/lab.json`, with pictures and a report beside it. Decoders are trained in
    processes that import the caller: a script calls it below `if __name__ == "__main__":`.

    Args:
        output_dir: new folder.
        preset: `train-short-test-long`, or `smoke`, which only shows that everything runs.
        encodings: of sinusoidal, learned, rope, alibi, none; None = all.
        train_length: window that they are trained at, tokens; a token is a byte.
        test_lengths: tokens; RoPE is extended to the longest.
        seeds: how many of each; verdicts need two at least.
        steps: of every decoder; None = the preset's, or what the budget leaves.
        budget: `10m`, `90s`, or minutes: fewer seeds and steps, so that it ends in time.
        workers: processes, one thread each; None = one for each core.
        seed: the first of the seeds.

    Raises:
        BadInput: a word that is not known, lengths that do not fit, too small a budget, or
            another process writes to the folder.
        CtxextError: a process was killed.
    """
    began = time.monotonic()
    setting = chosen(
        preset_of(preset),
        tuple(names) if (names := maybe_several(encodings)) is not None else None,
        maybe_tokens(train_length, "train_length"),
        tuple(lengths) if (lengths := maybe_lengths(test_lengths, "test_lengths")) else None,
        seeds,
        seed,
    )
    allowed = seconds_of(budget)
    if steps is not None:
        if allowed is not None:
            raise BadInput("--steps and --budget contradict each other", "give one of them")
        if not 1 <= steps <= _MOST_STEPS:
            raise BadInput(f"--steps {steps} is not between 1 and {_MOST_STEPS}")
        setting = replace(setting, steps=steps, least_steps=min(steps, setting.least_steps))
    if workers is not None and workers < 1:
        raise BadInput(f"--workers {workers} is less than one process")
    if workers is not None and workers > _MOST_WORKERS:
        raise BadInput(f"--workers {workers} is more than {_MOST_WORKERS} processes")
    with staged_folder(Path(output_dir), overwrite=overwrite) as staging:
        planned, trained, evidence = run_laboratory(
            setting,
            allowed,
            staging / "models",
            workers=workers or cores(),
            on_progress=on_progress,
            on_plan=lambda plan: _begin(staging, plan, on_note),
        )
        result = _result(output_dir, preset, planned, trained, evidence)
        result = replace(result, seconds=round(time.monotonic() - began, 1))
        (staging / "lab.json").write_text(dump_measured(result.to_dict()), encoding="utf-8")
        on_note("drawing the pictures and the report")
        plot_lab(staging, result)
    make_report([output_dir], output=Path(output_dir) / "report.html")  # names the folder
    lost = [
        f"{each.encoding}-{each.seed}" for each in trained if not math.isfinite(each.final_loss)
    ]
    if lost:
        raise CtxextError(f"training broke down (its loss is no number): {', '.join(lost)}")
    return result


def _begin(staging: Path, planned: Planned, on_note: Note) -> None:
    """Record what is going to be done, and say how long it takes."""
    write_record(
        staging,
        {"schema": SCHEMA, "kind": "lab", "versions": versions(), "command": command_line()},
    )
    setting = planned.setting
    on_note(
        f"{counted(len(setting.encodings), 'encoding')} x {counted(len(setting.seeds), 'seed')} x "
        f"{counted(planned.steps, 'step')}: about {minutes(planned.seconds)}"
    )
    for note in planned.notes:
        on_note(note)


def _result(
    output_dir: str | Path,
    preset: str,
    planned: Planned,
    trained: Sequence[Trained],
    evidence: Evidence,
) -> LabResult:
    setting = planned.setting
    return LabResult(
        output_dir=str(output_dir),
        preset=preset,
        encodings=setting.encodings,
        train_length=setting.train_length,
        test_lengths=setting.test_lengths,
        seeds=setting.seeds,
        steps=planned.steps,
        tokens_per_step=setting.tokens_per_step,
        parameters=_parameters(setting),
        models=tuple(
            LabTraining(
                encoding=each.encoding, seed=each.seed, final_loss=each.final_loss,
                seconds=round(each.seconds, 1),
            )
            for each in trained
        ),
        by_position=position_rows(evidence),
        recall=recall_rows(evidence),
        order=order_rows(evidence),
        extensions=extension_rows(evidence),
        pairs=pair_rows(evidence),
        steps_to_target=steps_rows(evidence),
        statements=verdicts(evidence),
        notes=planned.notes,
    )  # fmt: skip


def _parameters(setting: LabSetting) -> int:
    """Count the parameters of a decoder without what an encoding adds."""
    from ctxext.lab.short_training import new_decoder

    return sum(p.numel() for p in new_decoder(setting, "none", 0).parameters())
