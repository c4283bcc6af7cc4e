"""Where a run begins: at its first row, with what a stage before has trained, or where it stopped.

A step reads as many rows as it did when the run began: with another number of ranks there are more
or fewer passes in it.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from ctxext.errors import BadInput
from ctxext.progress import Note
from ctxext.runs.recipe.config import FinetuneConfig, TrainConfig
from ctxext.runs.rows.training import RunState
from ctxext.training.model.lora import LossModel
from ctxext.training.parallel.mesh import Mesh
from ctxext.training.run.setting import Where
from ctxext.training.run.state import Saved, read_state, restore, start_from

_RANK_SEED = 1_000_003  # apart from the seeds that people choose side by side


def begin_or_resume(
    where: Where,
    config: FinetuneConfig,
    data_sha256: str,
    mesh: Mesh,
    model: LossModel,
    optimizer: torch.optim.Optimizer,
    on_note: Note,
) -> RunState:
    """Put weights, optimizer and randomness where the run begins; all ranks call this together.

    Args:
        model: sharded if it will be, as `optimizer` is.
        on_note: told of a damaged checkpoint that is passed over, and of another number of ranks.

    Raises:
        BadInput: another run's checkpoint, or the rows of a step cannot be shared by these ranks.
    """
    train, launch = config.train, where.launch
    recipe: Mapping[str, Any] = config.to_dict() if where.recipe is None else where.recipe
    rows = train.batch_size * mesh.data_ranks * train.gradient_accumulation
    state = RunState(0, 0, recipe, data_sha256, rows)
    if launch.rank:  # dropout of its own; what was initialised is the same everywhere
        torch.manual_seed(train.seed + _RANK_SEED * launch.rank)
    if where.resume:
        state = _resumed(state, where, mesh, train, model, optimizer, on_note)
    if where.start is not None and state.step == 0:
        start_from(where.start, model, launch)
    return replace(state, ranks=launch.ranks)


def _resumed(
    fresh: RunState,
    where: Where,
    mesh: Mesh,
    train: TrainConfig,
    model: LossModel,
    optimizer: torch.optim.Optimizer,
    on_note: Note,
) -> RunState:
    """Put the newest checkpoint back in place, on as many processes as there are now.

    Raises:
        BadInput: the rows of a step cannot be shared among these ranks.
    """
    launch = where.launch
    box: list[Saved] = []  # rank 0's; the tensors go to the others one by one

    def read() -> tuple[RunState, tuple[str, ...]] | None:
        saved = read_state(where.out, fresh.recipe, fresh.data_sha256, model, train)
        if saved is None:
            return None
        box.append(saved)
        return saved.state, saved.problems

    told = launch.on_main(read)
    if told is None:
        return fresh
    state, problems = told
    for problem in problems if launch.main else ():
        on_note(f"a damaged checkpoint is passed over: {problem}")
    restore(box[0] if box else None, model, optimizer, launch)
    if not state.rows_per_step:  # written by version 0.1, in one process
        state = replace(state, rows_per_step=train.batch_size * train.gradient_accumulation)
    if state.rows_per_step % (train.batch_size * mesh.data_ranks):
        raise BadInput(
            f"--resume: a step of this run reads {state.rows_per_step} rows, which "
            f"{mesh.data_ranks} ranks with train.batch_size {train.batch_size} cannot share",
            "resume on fewer processes, or with a larger --context-parallel",
        )
    if state.ranks != launch.ranks:
        torch.manual_seed(train.seed + _RANK_SEED * (launch.rank + launch.ranks * (state.step + 1)))
        if launch.main:
            on_note(f"the run had {state.ranks} processes and goes on with {launch.ranks}")
    return state
