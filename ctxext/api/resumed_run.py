"""What has to be as it was when a run is gone on with: base, dtype, recipe, texts, best step."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ctxext.api.stage_run import Run, Texts
from ctxext.checkpoints.provenance import base_record, read_record
from ctxext.checkpoints.weights.files import sample_sha256
from ctxext.errors import BadInput
from ctxext.runs.log import read_log
from ctxext.runs.recipe.begun import check_same_dtype
from ctxext.runs.rows.record import RunRecord
from ctxext.training.run.stages import LOG, STAGES, Stage


def check_resumed(
    run: Run, stages: Sequence[Stage], texts: Sequence[Texts], recipe: Mapping[str, Any]
) -> None:
    """Check that a run can be gone on with from where it stands.

    Args:
        recipe: as checkpoints hold it (`to_compare`).

    Raises:
        BadInput: what is not as it was, by name.
    """
    check_same_dtype(run.out, run.asked)
    _check_same_base(run, extends=stages[0].config.extend is not None)
    _check_checkpoints(stages, texts, run.out, recipe)


def _check_same_base(run: Run, *, extends: bool) -> None:
    """Check that a run is gone on with from the checkpoint that it was begun from.

    Args:
        extends: the run extends its model first, and once it has ended its record calls what was
            trained the base.

    Raises:
        BadInput: config, weights or their index are others than its record says.
    """
    begun, now = read_record(run.out) or RunRecord(), base_record(run.opened.source)
    bases = [begun.base, begun.extended_from if extends else None]
    known = [base for base in bases if base is not None]
    keys = ("config_sha256", "index_sha256")
    same = [all(getattr(base, key) in (None, now[key]) for key in keys) for base in known]
    if known and not any(same):
        raise BadInput(
            f"--resume with another MODEL: {run.model} is not what the run in {run.out} was begun "
            "from",
            "leave MODEL out, or start a new run",
        )
    weights = begun.training.base_weights if begun.training else None
    if weights not in (None, sample_sha256(run.opened.source.folder)):
        raise BadInput(
            f"--resume: the weights of {run.model} have changed since the run in {run.out} began",
            "what is trained belongs to the old ones: bring them back, or start a new run",
        )


def _check_checkpoints(
    stages: Sequence[Stage], texts: Sequence[Texts], out: Path, recipe: Mapping[str, Any]
) -> None:
    """Check that every checkpoint in the output folder is of this run, and the best step there.

    Raises:
        BadInput: one is not; the differing keys are named.
    """
    from ctxext.training.run.state import check_best, check_same_run, newest_state

    hashes = {s.folder: t.data["tokens_sha256"] for s, t in zip(stages, texts, strict=True)}
    for folder in (out, *sorted((out / STAGES).glob("*"))):
        state = newest_state(folder)
        if state is not None:
            check_same_run(state, recipe, hashes.get(folder, state.data_sha256))
    for stage, after in zip(stages, [*stages[1:], None], strict=True):
        state = newest_state(stage.folder)
        if after is not None and newest_state(after.folder) is not None:
            continue  # which has begun from it
        if state is not None and stage.config.validation.keep_best:
            check_best(stage.folder, read_log(stage.folder / LOG), state.step)
