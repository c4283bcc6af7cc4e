"""How the windows of a text go through a model: in batches, on several processes, each once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from ctxext.checkpoints.live.load import reset_dynamic_rope
from ctxext.data.tokens import Tokens
from ctxext.errors import CtxextError, is_out_of_memory
from ctxext.evaluation.reading.forecast import Cost, Forecast
from ctxext.evaluation.reading.scoring import Scorer
from ctxext.evaluation.reading.sharing import shared_rows
from ctxext.evaluation.reading.windows import Plan, Window
from ctxext.machine.launch import Launch
from ctxext.progress import Progress, silent
from ctxext.runs.journal import Journal, Rows

Floats = npt.NDArray[np.float64]
_TOKENS_AT_ONCE = 8192  # short windows are batched up to this

Reduce = Callable[[int, Window, Floats], list[float]]
"""(document, window, NLL of its scored tokens) -> the numbers that are kept of it."""


@dataclass
class Reading:
    """A model that is being measured: with whom, what is known already, and who listens.

    Attributes:
        name: what progress calls it.
        identity: what the model's numbers depend on, for the journal.
        journal: measured already, by this process or one that was killed.
        launch: the processes that share the windows.
        bos: a token that stands in place of the first of each window, which is never scored; None =
            windows are read as they are.
        batch_size: windows of the same shape that are read together; None = as many as have 8192
            tokens.
        forecast, cost: how long all that is to be read takes, and what a window costs.
    """

    scorer: Scorer
    name: str = "model"
    identity: str = ""
    journal: Journal = field(default_factory=Journal)
    launch: Launch = field(default_factory=Launch)
    on_progress: Progress = silent
    forecast: Forecast = field(default_factory=Forecast)
    cost: Cost = float
    bos: int | None = None
    batch_size: int | None = None

    def windows(
        self,
        documents: Sequence[Tokens],
        plan: Plan,
        reduce: Reduce,
        *,
        what: str,
        key: str,
        width: Callable[[Window], int],
    ) -> Rows:
        """Read every window of a plan once.

        Args:
            plan: the windows; the same on every process.
            what: the task's name for progress.
            key: what the numbers depend on, the model aside.
            width: how many numbers `reduce` keeps of a window.

        Returns:
            For each window of the plan, in its order, what `reduce` gave; on every process alike.

        Raises:
            CtxextError: memory ran out, on this process or another.
        """
        batches = plan.batches(_TOKENS_AT_ONCE, self.batch_size)
        # What an earlier run kept of a batch is another's where they were cut otherwise.
        key = f"{self.identity} {key}{f' batches of {self.batch_size}' if self.batch_size else ''}"
        # Batches are cut before they are shared out: which process reads one changes no number.
        sizes = [len(batch) for batch in batches]
        costs = [len(batch) * self.cost(batch[0][1].length) for batch in batches]
        heard = self.forecast.listener(f"{self.name} {what}", sizes, costs, self.on_progress)
        reset_dynamic_rope(self.scorer.model)

        rows = shared_rows(
            len(batches), lambda index: self._batch(documents, batches[index], reduce),
            key=key, journal=self.journal, launch=self.launch, on_done=heard,
            fits=lambda index, kept: _widths(kept) == [width(w) for _, w in batches[index]],
        )  # fmt: skip
        return [row for batch in rows for row in batch]

    def _batch(self, documents: Sequence[Tokens], batch: Plan, reduce: Reduce) -> Rows:
        ids = np.stack([documents[d][w.begin : w.end] for d, w in batch]).astype(np.int64)
        if self.bos is not None:
            ids[:, 0] = self.bos
        rows = torch.from_numpy(ids).to(self.scorer.device)
        try:
            nll = self.scorer.nll(rows, batch[0][1].scored).double().numpy()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            smaller = "--prefill-chunk 4096" if len(batch) == 1 else "a smaller --batch-size"
            raise CtxextError(
                f"{self.name}: out of memory at {len(batch)} x {rows.shape[1]} tokens",
                f"{smaller} needs less",
            ) from error
        return [reduce(d, w, row) for (d, w), row in zip(batch, nll, strict=True)]


def _widths(rows: Rows) -> list[int]:
    return [len(row) for row in rows]
