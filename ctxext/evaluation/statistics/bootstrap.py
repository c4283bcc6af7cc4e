"""Standard errors of a mean over windows that stand side by side in a text.

Neighbouring windows speak of the same thing, so they vary together: blocks of them are drawn, not
single ones (circular block bootstrap: Politis and Romano, 1992), and every resample is a text of
the same number of windows.
"""

import numpy as np
import numpy.typing as npt

_RESAMPLES = 1000
_SEED = 0  # the same numbers give the same error

Floats = npt.NDArray[np.float64]


def block_length(windows: int) -> int:
    """Compute the windows in a block: the cube root of all, the rate of Hall et al. (1995).

    >>> [block_length(n) for n in (1, 7, 8, 1000)]
    [1, 1, 2, 10]
    """
    return max(1, int(np.cbrt(windows) + 1e-9))


def ratio_stderr(sums: Floats, counts: Floats) -> float | None:
    """Estimate the standard error of sums.sum() / counts.sum(), by 1000 resamples of blocks.

    Args:
        sums, counts: (windows,) in the order of the text, counts >= 0.

    Returns:
        None for fewer than two blocks: one says nothing about the spread.
    """
    windows = len(sums)
    size = block_length(windows)
    drawn = windows // size
    if drawn < 2:
        return None
    of_sums, of_counts = _circular(sums, size), _circular(counts, size)
    rng = np.random.default_rng(_SEED)
    means = np.empty(_RESAMPLES)
    for index in range(_RESAMPLES):
        starts = rng.integers(windows, size=drawn)
        total = of_counts[starts].sum()
        means[index] = of_sums[starts].sum() / total if total else np.nan
    means = means[~np.isnan(means)]
    if len(means) < 2:
        return None
    # Resamples of n things spread by sqrt((n - 1) / n) too little.
    return float(means.std(ddof=1) * np.sqrt(drawn / (drawn - 1)))


def _circular(values: Floats, size: int) -> Floats:
    """Sum the `size` values from each place on, the end joined to the beginning."""
    total = np.concatenate([[0.0], np.cumsum(np.concatenate([values, values[: size - 1]]))])
    sums: Floats = total[size:] - total[:-size]
    return sums
