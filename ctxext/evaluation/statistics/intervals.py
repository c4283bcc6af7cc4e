"""Confidence intervals of proportions: Wilson's of one, Newcombe's of a difference of two."""

import math

Z = 1.959963984540054  # 95 %, two-sided


def wilson(successes: float, samples: int) -> tuple[float, float]:
    """Give the 95 % interval of a proportion (Wilson, 1927); successes may be fractions.

    >>> [round(bound, 3) for bound in wilson(9, 10)]
    [0.596, 0.982]
    """
    if samples == 0:
        return 0.0, 1.0
    share, z2 = successes / samples, Z**2
    middle = (share + z2 / (2 * samples)) / (1 + z2 / samples)
    half = Z * math.sqrt(share * (1 - share) / samples + z2 / (4 * samples**2))
    half /= 1 + z2 / samples
    low = 0.0 if successes <= 0 else max(0.0, middle - half)
    return low, 1.0 if successes >= samples else min(1.0, middle + half)


def newcombe(
    share: float, interval: tuple[float, float], other: float, of_other: tuple[float, float]
) -> tuple[float, float]:
    """Give the 95 % interval of a difference of two proportions from the Wilson interval of each.

    The hybrid score interval (Newcombe, Statistics in Medicine 17, 1998, method 10).

    >>> bounds = newcombe(56 / 70, wilson(56, 70), 48 / 80, wilson(48, 80))
    >>> [round(bound, 4) for bound in bounds]
    [0.0524, 0.3339]
    """
    (low, high), (other_low, other_high) = interval, of_other
    apart = share - other
    return (
        apart - math.sqrt((share - low) ** 2 + (other_high - other) ** 2),
        apart + math.sqrt((high - share) ** 2 + (other - other_low) ** 2),
    )


def newcombe_paired(both: int, first: int, second: int, neither: int) -> tuple[float, float]:
    """Give the 95 % interval of a difference of two proportions of the same things.

    The hybrid score interval for paired data (Newcombe, Statistics in Medicine 17, 1998,
    2635-2650, method 10): the two Wilson intervals, joined by the correlation of the answers.

    Fagerland, Lydersen and Laake (2014) give -0.507 to -0.026 for their example:

    >>> [round(bound, 3) for bound in newcombe_paired(1, 1, 7, 12)]
    [-0.507, -0.026]

    Args:
        both, first, second, neither: things that both, only the first, only the second and
            neither of the two have.
    """
    count = both + first + second + neither
    share, other = (both + first) / count, (both + second) / count
    low, high = wilson(both + first, count)
    other_low, other_high = wilson(both + second, count)
    product: float = both * neither - first * second
    if product > 0:  # the continuity correction of the correlation
        product = max(product - count / 2, 0)
    margins = (both + first) * (second + neither) * (both + second) * (first + neither)
    phi = product / math.sqrt(margins) if margins else 0.0
    down, up = share - low, high - share
    other_down, other_up = other - other_low, other_high - other
    apart = share - other
    return (
        apart - math.sqrt(max(0.0, down**2 - 2 * phi * down * other_up + other_up**2)),
        apart + math.sqrt(max(0.0, up**2 - 2 * phi * up * other_down + other_down**2)),
    )
