"""Confidence intervals of proportions: Wilson's of one, Newcombe's of a difference of two."""

import math

_Z = 1.959963984540054  # 95 %, two-sided


def wilson(successes: float, samples: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson, 1927); successes may be fractions.

    >>> [round(bound, 3) for bound in wilson(9, 10)]
    [0.596, 0.982]
    """
    if samples == 0:
        return 0.0, 1.0
    share, z2 = successes / samples, _Z**2
    middle = (share + z2 / (2 * samples)) / (1 + z2 / samples)
    half = _Z * math.sqrt(share * (1 - share) / samples + z2 / (4 * samples**2))
    half /= 1 + z2 / samples
    low = 0.0 if successes <= 0 else max(0.0, middle - half)
    return low, 1.0 if successes >= samples else min(1.0, middle + half)


def newcombe(one: float, of_one: int, other: float, of_other: int) -> tuple[float, float]:
    """95 % interval of one/of_one - other/of_other (Newcombe, 1998, method 10).

    >>> [round(bound, 4) for bound in newcombe(56, 70, 48, 80)]
    [0.0524, 0.3339]
    """
    low1, high1 = wilson(one, of_one)
    low2, high2 = wilson(other, of_other)
    share1, share2 = one / of_one, other / of_other
    apart = share1 - share2
    return (
        apart - math.sqrt((share1 - low1) ** 2 + (high2 - share2) ** 2),
        apart + math.sqrt((high1 - share1) ** 2 + (share2 - low2) ** 2),
    )
