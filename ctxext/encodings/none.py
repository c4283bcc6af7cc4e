"""No encoding: the causal mask alone tells what comes before what.

A token sees as many keys as there are tokens before it, from which a model can count (Kazemnejad
et al., arXiv:2305.19466). At lengths beyond the trained one its attention spreads over more keys
than it ever had; a temperature on the scores sharpens it again (Wang et al., arXiv:2404.12224).
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class WindowSpec:
    """All that there is to say where nothing is added: how far a model was trained.

    Attributes:
        window: trained, tokens.
    """

    window: int


def temperature(c: float, factor: float) -> float:
    """Compute by what scores are multiplied at `factor` times the trained window: 1 + c ln s.

    Source: Gelberg et al., DroPE, arXiv:2512.12167. Times the queries it is the same as times the
    scores, so that it can be put into the weights.

    Args:
        c: chosen on held-out text; 0 leaves the scores alone.
        factor: target / trained window, at least 1.

    >>> temperature(0.5, 1.0)
    1.0
    """
    return 1 + c * math.log(factor)
