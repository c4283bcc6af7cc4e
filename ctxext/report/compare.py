"""Differences between models, and whether they exceed noise.

Standard errors and intervals are taken as independent. Models that scored the same text err alike,
so that this calls too much noise rather than too little.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ctxext.runs.numbers import finite

Rows = Sequence[Mapping[str, Any]]
Z = 1.96  # two-sided 95 %


@dataclass(frozen=True)
class Difference:
    """A model against another at one place.

    Attributes:
        place: what both were measured at: a length, a pair of positions, a task and a length.
        difference: model minus the other, in the unit of what is compared.
        low, high: 95 % interval of it; None where an error is not known.
    """

    model: str
    against: str
    place: tuple[Any, ...]
    difference: float
    low: float | None
    high: float | None

    @property
    def beyond_noise(self) -> bool | None:
        """Whether the interval leaves out 0; None where there is no interval."""
        if self.low is None or self.high is None:
            return None
        return self.low > 0 or self.high < 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"place": list(self.place), "beyond_noise": self.beyond_noise}


def number(value: Any) -> float | None:
    """A finite number, or None for everything else that a document may hold."""
    return finite(value)


def of_means(
    value: float, other: float, stderr: float | None, other_stderr: float | None
) -> tuple[float, float | None, float | None]:
    """Difference of two means, low and high: ± 1.96 sqrt(se1^2 + se2^2)."""
    difference = value - other
    if stderr is None or other_stderr is None:
        return difference, None, None
    margin = Z * math.hypot(stderr, other_stderr)
    return difference, difference - margin, difference + margin


def of_shares(
    share: float, low: float, high: float, other: float, other_low: float, other_high: float
) -> tuple[float, float, float]:
    """Difference of two shares, low and high, from the Wilson interval of each.

    Newcombe's hybrid score interval (Statistics in Medicine 17, 1998, method 10).
    """
    difference = share - other
    return (
        difference,
        difference - math.hypot(share - low, other_high - other),
        difference + math.hypot(high - share, other - other_low),
    )


def nll_differences(rows: Rows, keys: Sequence[str]) -> list[Difference]:
    """Each model's NLL minus the first model's at the same place, nats per token.

    Only where both scored equally many tokens: with other tokens a nat per token is something else.

    Args:
        rows: with `model`, `nll`, `stderr`, `tokens` and the keys.
        keys: what makes a place: `("length",)` or `("start", "end")`.
    """
    found = []
    for row, other, place in _paired(rows, keys):
        value, against = number(row.get("nll")), number(other.get("nll"))
        if value is None or against is None or row.get("tokens") != other.get("tokens"):
            continue
        errors = number(row.get("stderr")), number(other.get("stderr"))
        found.append(
            Difference(row["model"], other["model"], place, *of_means(value, against, *errors))
        )
    return found


def mean_differences(rows: Rows, keys: Sequence[str]) -> list[Difference]:
    """Each model's `value` minus the first model's at the same place; rows with `stderr`."""
    found = []
    for row, other, place in _paired(rows, keys):
        value, against = number(row.get("value")), number(other.get("value"))
        if value is None or against is None:
            continue
        errors = number(row.get("stderr")), number(other.get("stderr"))
        found.append(
            Difference(row["model"], other["model"], place, *of_means(value, against, *errors))
        )
    return found


def accuracy_differences(rows: Rows, keys: Sequence[str]) -> list[Difference]:
    """Each model's accuracy minus the first model's at the same place; rows with `low`, `high`."""
    found = []
    for row, other, place in _paired(rows, keys):
        values = [number(one.get(k)) for one in (row, other) for k in ("accuracy", "low", "high")]
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            continue
        difference = of_shares(*known)
        found.append(Difference(row["model"], other["model"], place, *difference))
    return found


def _paired(
    rows: Rows, keys: Sequence[str]
) -> list[tuple[Mapping[str, Any], Mapping[str, Any], tuple[Any, ...]]]:
    """Rows of all models but the first, each with the first one's row at the same place."""
    if not rows:
        return []
    first = rows[0]["model"]
    base = {tuple(r[k] for k in keys): r for r in rows if r["model"] == first}
    return [
        (row, base[place], place)
        for row in rows
        if row["model"] != first and (place := tuple(row[k] for k in keys)) in base
    ]
