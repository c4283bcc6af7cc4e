"""Measure one decoder: loss by position, recall by distance, and what the order of tokens does."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from ctxext.lab.rows import Rows, text_rows
from ctxext.lab.setting import LabSetting
from ctxext.lab.short_training import stream
from ctxext.lab.strings import asked_strings

Asked = tuple[int, int]
"""Length of rows and distance, tokens."""
_BATCH_TOKENS = 8192
_UNKNOWN = 2  # letters of a string after which it is known which one comes again


@dataclass(frozen=True)
class Measured:
    """What was measured of one decoder, row by row, so that decoders can be compared in pairs.

    Attributes:
        nll: (windows, buckets) mean negative log-likelihood of the tokens in each range, nats; only
            of the ranges that could be read.
        gains: by (length of the rows, distance), of each row, nats a token.
        copied: by the same, of each row, share of tokens.
    """

    nll: list[list[float]]
    gains: Mapping[Asked, list[float]] = field(default_factory=dict)
    copied: Mapping[Asked, list[float]] = field(default_factory=dict)

    def bucket(self, *which: int) -> list[float]:
        """Average buckets of each window, (windows,)."""
        return [sum(row[i] for i in which) / len(which) for row in self.nll]


def unseen_rows(setting: LabSetting, seed: int, *, calibration: bool = False) -> Rows:
    """Cut the test rows of a seed from text that nothing is trained on.

    Args:
        calibration: other rows, of which something is chosen.

    Returns:
        (windows, longest + 1) uint8.
    """
    rng = np.random.default_rng([seed, 2 if calibration else 1])
    return text_rows(rng, stream(held_out=True), setting.windows, setting.longest + 1)


@torch.no_grad()
def _read(model: Any, rows: Rows, tokens: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield logits (some rows, tokens, vocabulary) of the last tokens of rows, and the tokens."""
    ids = torch.from_numpy(rows.astype(np.int64))
    for some in torch.split(ids, max(1, _BATCH_TOKENS // ids.shape[1])):
        yield model(input_ids=some[:, :-1]).logits[:, -tokens:].float(), some[:, -tokens:]


def _nll(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    nll = cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none")
    return nll.view_as(wanted)


def token_nll(model: Any, rows: Rows) -> torch.Tensor:
    """Compute the negative log-likelihood of every token but the first, (rows, length - 1) nats."""
    return torch.cat([_nll(*read) for read in _read(model, rows, rows.shape[1] - 1)])


def loss_by_position(model: Any, setting: LabSetting, rows: Rows) -> list[list[float]]:
    """Average the loss of each row over the ranges of positions, (rows, buckets) nats.

    Ranges that the rows do not fill are left out.
    """
    nll = token_nll(model, rows)
    read = [(start, end) for start, end in setting.buckets if end <= nll.shape[1]]
    table: list[list[float]] = torch.stack(
        [nll[:, start:end].mean(dim=1) for start, end in read], dim=1
    ).tolist()
    return table


def recall(
    model: Any, setting: LabSetting, seed: int, *, length: int, distance: int
) -> tuple[list[float], list[float]]:
    """Ask for a string that stands `distance` tokens back at the end of rows.

    Returns:
        For each row, the gain (nats a token) and the share of tokens copied, as in `LabRecall`.
    """
    rng = np.random.default_rng([seed, 3, length, distance])
    size = setting.string
    told, other = asked_strings(
        rng, stream(held_out=True), setting.strings, length, distance=distance, size=size
    )
    known, right = _of_strings(model, told, size - _UNKNOWN)
    unknown, _ = _of_strings(model, other, size - _UNKNOWN)
    return (unknown - known).tolist(), right.tolist()


def _of_strings(model: Any, rows: Rows, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Average loss and right answers over the last tokens of each row, (rows,) each."""
    losses, rights = [], []
    for logits, wanted in _read(model, rows, tokens):
        losses.append(_nll(logits, wanted).mean(dim=1))
        rights.append((logits.argmax(-1) == wanted).float().mean(dim=1))
    return torch.cat(losses), torch.cat(rights)


@torch.no_grad()
def order_change(model: Any, setting: LabSetting, seed: int, *, causal: bool) -> list[float]:
    """Permute the tokens before the last one, and see how far its logits move.

    Args:
        causal: False = every token reads every other, so that only an encoding tells their order.

    Returns:
        Of each row, |difference| / |logits|, Euclidean; float64 arithmetic, so that what is exact
        shows.
    """
    rows = unseen_rows(setting, seed)[:, : setting.train_length]
    rng = np.random.default_rng([seed, 4])
    permuted = rows.copy()
    for row in permuted:
        row[:-1] = rng.permutation(row[:-1])
    model.double()
    try:
        before, after = (
            model(input_ids=torch.from_numpy(each.astype(np.int64)), is_causal=causal).logits[:, -1]
            for each in (rows, permuted)
        )
    finally:
        model.float()
    changes: list[float] = ((after - before).norm(dim=-1) / before.norm(dim=-1)).tolist()
    return changes


def measure(
    model: Any, setting: LabSetting, seed: int, *, length: int | None = None, ask: bool = True
) -> Measured:
    """Measure losses by position, and recall in rows of the trained window and of the longest.

    Args:
        length: of the rows at most, tokens; None = the longest of the setting.
        ask: measure recall, too.
    """
    length = length or setting.longest
    nll = loss_by_position(model, setting, unseen_rows(setting, seed)[:, : length + 1])
    asked = {
        (rows, distance): recall(model, setting, seed, length=rows, distance=distance)
        for rows in (dict.fromkeys((setting.train_length, length)) if ask else ())
        for distance in setting.distances(rows)
    }
    return Measured(
        nll,
        {place: gains for place, (gains, _) in asked.items()},
        {place: copied for place, (_, copied) in asked.items()},
    )
