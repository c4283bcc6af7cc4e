"""Measure a model on rows that it is not trained on: loss by position, and copying from far.

The end of each row is replaced by tokens from its beginning. A model that reads that far goes on
copying after the first few; one pass over a row so tells both what its text costs at each
distance, up to there, and whether far text is used.
"""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ctxext.checkpoints.live.head import decoder_of, head_of, without_peft
from ctxext.runs.recipe.validation_config import ValidationConfig
from ctxext.runs.rows.training import PositionLoss, StepRow, Validation
from ctxext.training.model.batch import Batch, plain_batch
from ctxext.training.model.loss import IGNORED, token_losses
from ctxext.training.parallel.context import context_batch
from ctxext.training.parallel.mesh import Mesh
from ctxext.training.parallel.sharding import evaluated

_BUCKETS = 4
_LONGEST_COPY = 64
_CUE = 8  # tokens of the copy that only say which text comes again


@dataclass(frozen=True)
class ValidationRows:
    """The rows of every measurement of a run.

    Attributes:
        ids: (rows, seq_length) int64, as they stand in the text.
    """

    ids: npt.NDArray[np.int64]

    @property
    def seq_length(self) -> int:
        """Tokens in a row."""
        return int(self.ids.shape[1])

    @property
    def copied(self) -> int:
        """Tokens at the end of a row that come from its beginning; 0 in rows too short for it."""
        tokens = min(_LONGEST_COPY, self.seq_length // 8)
        return tokens if tokens > _CUE else 0

    def batch(self, first: int, count: int) -> tuple[Batch, torch.Tensor]:
        """Make rows `first` .. `first + count - 1` ready to be measured.

        Returns:
            The batch, and for each of its labels where it counts, (count, seq_length): its bucket,
            `_BUCKETS` for a copied token, -1 for none. Rows beyond the last count nowhere.
        """
        rows = [min(row, len(self.ids) - 1) for row in range(first, first + count)]
        ids = torch.from_numpy(self.ids[rows])
        length, copied = self.seq_length, self.copied
        if copied:
            ids[:, length - copied :] = ids[:, length // 16 : length // 16 + copied]
        batch = plain_batch(ids)
        places = bucket_places(length).repeat(count, 1)
        if copied:
            places[:, length - copied - 1 :] = -1  # the label before is of the copy already
            places[:, length - copied + _CUE - 1 : length - 1] = _BUCKETS
        places[batch.labels == IGNORED] = -1
        for index, row in enumerate(range(first, first + count)):
            if row >= len(self.ids):
                places[index] = -1
        return batch, places


def bucket_bounds(length: int) -> list[int]:
    """Divide the positions of a row: an eighth, a quarter and a half of it, and the rest.

    >>> bucket_bounds(4096)
    [0, 512, 1024, 2048, 4096]
    """
    return [0, *(length >> shift for shift in range(_BUCKETS - 1, -1, -1))]


def bucket_places(length: int) -> torch.Tensor:
    """Give the bucket of the token that is predicted at each position, (length,) int64."""
    bounds = torch.tensor(bucket_bounds(length)[1:])
    return torch.bucketize(torch.arange(1, length + 1), bounds, right=True).clamp_(max=_BUCKETS - 1)


@torch.no_grad()
def validate(
    model: Any, rows: ValidationRows, mesh: Mesh, accelerator: Any, *, batch_size: int, chunk: int
) -> Validation:
    """Measure the rows; all ranks call this together, and all get the same.

    Neither weights nor random numbers change.

    Args:
        model: a `LossModel`, as the ranks share it.
        batch_size: rows in a pass.
        chunk: positions whose logits exist at the same time.
    """
    began = time.monotonic()
    training = model.training
    model.eval()
    sums = torch.zeros((_BUCKETS + 1, 3), dtype=torch.float64)  # nats, hits, tokens
    step = batch_size * mesh.data_ranks
    for first in range(0, len(rows.ids), step):
        batch, places = rows.batch(first + mesh.data_rank * batch_size, batch_size)
        if mesh.context_group is not None:
            batch, places = _shared(batch, places, mesh)
        moved = batch.to(accelerator.device)
        with accelerator.autocast():
            nats, hits = evaluated(model, None, lambda inner, read=moved: _read(inner, read, chunk))
        for place in range(_BUCKETS + 1):
            chosen = places == place
            counted = (nats[chosen].sum(), hits[chosen].sum(), chosen.sum())
            sums[place] += torch.stack([torch.as_tensor(n, dtype=torch.float64) for n in counted])
    model.train(training)
    whole = mesh.sum(sums.to(accelerator.device)).cpu() if mesh.launch.ranks > 1 else sums
    return _summary(whole, rows.seq_length, time.monotonic() - began)


def _shared(batch: Batch, places: torch.Tensor, mesh: Mesh) -> tuple[Batch, torch.Tensor]:
    """Cut this rank's part of rows, and of where their labels count."""
    part = context_batch(batch, mesh)
    return part, context_batch(replace(batch, input_ids=places), mesh).input_ids


def _read(model: Any, batch: Batch, chunk: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute for each label its loss, and whether it was the likeliest token, on the CPU."""
    base = without_peft(model)
    states = decoder_of(base)(**batch.decoder_inputs(), use_cache=False).last_hidden_state
    nats, hits = token_losses(states, head_of(base), batch.labels, chunk=chunk)
    return nats.cpu(), hits.cpu()


def _summary(sums: torch.Tensor, length: int, seconds: float) -> Validation:
    bounds = bucket_bounds(length)
    text, (_, hits, copied) = sums[:_BUCKETS], sums[_BUCKETS].tolist()
    return Validation(
        loss=_mean(*text[:, ::2].sum(0).tolist()),
        by_position=tuple(
            PositionLoss(start=bounds[i], end=bounds[i + 1], loss=_mean(nats, tokens))
            for i, (nats, _, tokens) in enumerate(text.tolist())
            if tokens
        ),
        copied=round(hits / copied, 6) if copied else None,
        tokens=int(text[:, 2].sum()),
        seconds=round(seconds, 3),
    )


def _mean(nats: float, tokens: float) -> float | None:
    """Give nats per token; None where that is no number."""
    return round(nats / tokens, 6) if math.isfinite(nats) and tokens else None


class Validator:
    """Measures a run before its first step, every so often, and after its last."""

    def __init__(
        self,
        measure: Callable[[], Validation],
        config: ValidationConfig,
        steps: int,
        keep: Callable[[int], None],
        best: float = float("inf"),
    ) -> None:
        """Prepare to measure a run of so many steps.

        Args:
            keep: told the step when the loss was never so low, where the run keeps its best.
            best: the lowest loss so far, of a run that is gone on with.
        """
        self._measure, self._keep, self._best = measure, keep, best
        self._every, self._last = config.steps_between(steps), steps
        self._keeps = config.keep_best

    def at(self, step: int) -> Validation | None:
        """Measure after step `step`, where it is one to measure at."""
        if step % self._every and step != self._last:
            return None
        measured = self._measure()
        if measured.lowness < self._best:
            self._best = measured.lowness
            if self._keeps:
                self._keep(step)
        return measured


def lowest(lines: Iterable[StepRow]) -> float:
    """Return the lowest validation loss of a log; infinity where there is none."""
    return min((each.validation.lowness for each in lines if each.validation), default=math.inf)
