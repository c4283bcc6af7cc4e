"""Lost in the middle (arXiv:2307.03172): is the middle of a text read worse than both its ends?"""

from collections.abc import Sequence
from dataclasses import dataclass

from ctxext.evaluation.statistics.intervals import newcombe, wilson


@dataclass(frozen=True)
class Middle:
    """Accuracy in the middle third of depths against that at the worse end.

    `difference` = middle - ends, with its 95 % interval; `lost` when it is below 0 beyond noise.
    """

    middle: float
    ends: float
    difference: float
    low: float
    high: float
    lost: bool


def middle_of(cells: Sequence[tuple[float, float, int]]) -> Middle | None:
    """Compare the middle third of the depths with the worse end; None where a third has no cell.

    Args:
        cells: (depth, accuracy, samples) of each.
    """
    low, high = min(depth for depth, _, _ in cells), max(depth for depth, _, _ in cells)
    thirds: list[list[tuple[float, int]]] = [[], [], []]
    for depth, accuracy, samples in cells:
        place = (depth - low) / (high - low) if high > low else 0.5
        thirds[0 if place < 1 / 3 else 2 if place > 2 / 3 else 1].append((accuracy, samples))
    if not all(thirds):
        return None
    right = [sum(accuracy * samples for accuracy, samples in third) for third in thirds]
    asked = [sum(samples for _, samples in third) for third in thirds]
    worse = min((0, 2), key=lambda end: right[end] / asked[end])
    inside, outside = right[1] / asked[1], right[worse] / asked[worse]
    least, most = newcombe(
        inside, wilson(right[1], asked[1]), outside, wilson(right[worse], asked[worse])
    )
    return Middle(inside, outside, inside - outside, least, most, most < 0)
