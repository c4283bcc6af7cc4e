"""What one forward pass reads: ids, labels, and where the tokens sit."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ctxext.data.mixture import Mixture
from ctxext.data.positions import PositionSkips, restarting_positions
from ctxext.errors import CtxextError
from ctxext.training.attention.blocks import Documents
from ctxext.training.model.loss import IGNORED, shifted_labels


@dataclass(frozen=True)
class Batch:
    """One forward pass; tensors are (batch, length), int64.

    Attributes:
        labels: already shifted: the token that follows each position; `loss.IGNORED` where none is
            scored.
        position_ids: None = 0, 1, 2, ... in every row.
        attention_mask: all ones where positions have gaps and attention is not to be cut there:
            without it transformers takes a gap for the start of another document.
        sharded: this is one rank's part of longer rows (`context_parallel.context_batch`), and
        documents: where in those rows documents lie; None when every row is one.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    position_ids: torch.Tensor | None = None
    attention_mask: torch.Tensor | None = None
    sharded: bool = False
    documents: Documents | None = None

    def to(self, device: torch.device) -> "Batch":
        moved: dict[str, Any] = {name: t.to(device) for name, t in self._tensors().items()}
        if self.documents is not None:
            moved["documents"] = Documents(self.documents.ids.to(device), self.documents.starts)
        return replace(self, **moved)

    def decoder_inputs(self) -> dict[str, Any]:
        """Give the arguments of a transformers decoder."""
        inputs: dict[str, Any] = {
            "input_ids": self.input_ids,
            "position_ids": self.position_ids,
            "attention_mask": self.attention_mask,
        }
        return inputs | ({"documents": self.documents} if self.sharded else {})

    def first(self, tokens: int) -> "Batch":
        """Cut out the first `tokens` positions of the first row."""
        cut: dict[str, Any] = {name: t[:1, :tokens] for name, t in self._tensors().items()}
        return replace(self, **cut)

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {name: v for name, v in vars(self).items() if isinstance(v, torch.Tensor)}


def plain_batch(input_ids: torch.Tensor) -> Batch:
    """Make a batch of rows that are one text each: every token but the first is scored."""
    return Batch(input_ids, shifted_labels(input_ids))


@dataclass(frozen=True)
class TrainingRows:
    """The rows of a run as batches, in an order that depends on the rows' numbers only.

    Attributes:
        sha256: of all tokens, so that a resumed run notices another text.
        separate: attention and labels stay inside documents, positions restart with each.
        skips: positions with gaps (PoSE); None = without.
        validation: rows that are measured and not trained on, (rows, seq_length); None = none.
    """

    rows: Mixture
    sha256: str
    separate: bool = False
    skips: PositionSkips | None = None
    validation: npt.NDArray[np.int64] | None = None

    @property
    def seq_length(self) -> int:
        """Tokens in a row."""
        return self.rows.seq_length

    def batch(self, first: int, count: int) -> Batch:
        """Read rows `first` .. `first + count - 1` of the endless order, on the CPU."""
        batch = plain_batch(torch.from_numpy(self.rows.batch(first, count)))
        if self.separate:
            begins = self.rows.begins(first, count)
            # The last token of a document says nothing about the first of the next.
            batch.labels[:, :-1][torch.from_numpy(begins[:, 1:])] = IGNORED
            positions = torch.from_numpy(restarting_positions(begins))
            return replace(batch, position_ids=positions)
        if self.skips is not None:
            positions = torch.from_numpy(self.skips.batch(first, count))
            return replace(batch, position_ids=positions, attention_mask=torch.ones_like(positions))
        return batch

    def targets(self, first: int, count: int) -> int:
        """Count the scored tokens in these rows, without reading their text.

        Every rank counts those of all ranks, so nobody has to ask the others.

        Raises:
            CtxextError: there is none.
        """
        if not self.separate:
            return count * (self.seq_length - 1)
        total = count * self.seq_length - int(self.rows.begins(first, count).sum())
        if not total:
            raise CtxextError(
                f"rows {first} to {first + count - 1} hold documents of one token only, so there "
                "is nothing to predict",
                "give data.min_tokens, or data.documents: stream",
            )
        return total
