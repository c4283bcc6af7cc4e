"""What reading further than the trained window does to a model's loss, in four steps.

    gains       the loss is lower than inside the window, beyond noise: far text helps
    holds       no difference beyond noise
    loses       the loss is higher, beyond noise
    collapses   surely more than `TOLERANCE` times the perplexity

The model is held to its own loss inside the window, on the same text. What it costs there against
the first model is another matter: one that is of no use inside the window can still gain beyond.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ctxext.report.findings.differences import Apart, nats_apart
from ctxext.report.findings.groups import PerplexityGroup
from ctxext.runs.rows.perplexity import LengthRow, PerplexityRow, PositionRow

TOLERANCE = 1.25  # times the perplexity inside the window; beyond it a model is no use
Step = Literal["gains", "holds", "loses", "collapses"]


@dataclass(frozen=True)
class Change:
    """A model's loss at `at` tokens, less its loss inside the window; None: it has no number.

    Attributes:
        behind: its loss there less the first model's at the same place; None for the first model.
    """

    at: int
    perplexity: float | None
    apart: Apart | None
    behind: Apart | None = None

    @property
    def step(self) -> Step:
        return step_of(self.apart)


def step_of(apart: Apart | None) -> Step:
    """Tell which step a change of the loss is; no number is a collapse."""
    if apart is None:
        return "collapses"
    low = apart.difference if apart.low is None else apart.low
    high = apart.difference if apart.high is None else apart.high
    if low > math.log(TOLERANCE):
        return "collapses"
    return "loses" if low > 0 else "gains" if high < 0 else "holds"


def costs_too_much(cost: Apart | None) -> bool:
    """Tell whether a cost inside the window is what would be a collapse beyond it."""
    return cost is not None and step_of(cost) == "collapses"


@dataclass(frozen=True)
class Inside:
    """What a model is held to: a loss inside the trained window.

    Attributes:
        model: whose; another model's (the first one's) where its own was not measured.
        at: tokens.
        cost: its loss there less the first model's; None for the first model itself.
    """

    model: str
    at: int
    perplexity: float | None
    cost: Apart | None = None


@dataclass(frozen=True)
class FarReading:
    """What is known of a model's loss inside the trained window and beyond, by length.

    Attributes:
        first: the model that others are compared with.
    """

    inside: Inside | None
    changes: tuple[Change, ...]
    first: str | None = None

    @property
    def step(self) -> Step | None:
        """The last step; a collapse anywhere is one. None where nothing beyond was measured."""
        steps = [change.step for change in self.changes]
        if not steps:
            return None
        return "collapses" if "collapses" in steps else steps[-1]

    @property
    def costs_too_much(self) -> bool:
        """Whether the model is useless inside the window already, whatever it reads beyond."""
        return costs_too_much(self.inside.cost if self.inside else None)

    @property
    def holds_to(self) -> int | None:
        """The longest length up to which nothing is lost, tokens; None where nothing is known."""
        if self.inside is None or self.costs_too_much:
            return None
        held = self.inside.at
        for change in self.changes:
            if change.step not in ("gains", "holds"):
                break
            held = change.at
        return held


def read_far(group: PerplexityGroup, model: str) -> FarReading:
    """Compare a model's loss beyond the window with its own inside it.

    By window length, or by position where lengths do not lie on both sides of the window.
    """
    window = group.window or 0
    first = group.models[0]
    readings = [_read(rows, model, first, window) for rows in (group.results, group.by_position)]
    return next((each for each in readings if each.inside and each.changes), readings[0])


def _read(
    rows: Sequence[LengthRow | PositionRow], model: str, first: str, window: int
) -> FarReading:
    def inside(name: str) -> PerplexityRow | None:
        known = [row for row in rows if row.model == name and row.at <= window and row.nll]
        return max(known, key=lambda row: row.at, default=None)

    held, base = inside(model) or inside(first), inside(first)
    if held is None:
        return FarReading(None, ())
    beyond = sorted(
        (row for row in rows if row.model == model and row.at > window), key=lambda row: row.at
    )
    there = {row.place: row for row in rows if row.model == first != model}
    same_place = base is not None and base.at == held.at and held.model != base.model
    return FarReading(
        Inside(
            held.model, held.at, held.perplexity,
            nats_apart(held, base) if base is not None and same_place else None,
        ),
        tuple(
            Change(
                row.at, row.perplexity, nats_apart(row, held),
                nats_apart(row, there[row.place]) if row.place in there else None,
            )
            for row in beyond
        ),
        first,
    )  # fmt: skip
