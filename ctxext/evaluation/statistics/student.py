"""Student's t: how likely a mean of few numbers is so far from 0 by chance."""

import math


def student_p(t: float, freedom: int) -> float:
    """Compute the two-sided p of a t value, for whole degrees of freedom.

    The finite sums of Abramowitz and Stegun, 26.7.3 and 26.7.4.

    >>> [round(student_p(t, n), 4) for t, n in ((12.706, 1), (4.303, 2), (2.776, 4), (2.228, 10))]
    [0.05, 0.05, 0.05, 0.05]

    Raises:
        ValueError: no degree of freedom.
    """
    if freedom < 1:
        raise ValueError(f"{freedom} degrees of freedom")
    if math.isinf(t):
        return 0.0
    theta = math.atan(abs(t) / math.sqrt(freedom))
    cos, sin = math.cos(theta), math.sin(theta)
    odd = freedom % 2
    term, total = (cos if odd else 1.0), 0.0
    # cos + 2/3 cos^3 + (2 4)/(3 5) cos^5 ..., and 1 + 1/2 cos^2 + (1 3)/(2 4) cos^4 ...
    for k in range((freedom - odd) // 2):
        total += term
        term *= cos**2 * ((2 * k + 2) / (2 * k + 3) if odd else (2 * k + 1) / (2 * k + 2))
    inside = 2 / math.pi * (theta + sin * total) if odd else sin * total
    return max(0.0, 1 - inside)
