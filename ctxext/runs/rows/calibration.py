"""What `extend --calibrate` measures."""

from dataclasses import dataclass

from ctxext.runs.rows.row import Row


@dataclass(frozen=True, kw_only=True)
class Calibrated(Row):
    """What one candidate came to: scores times `scale`, and the perplexity of the windows."""

    c: float
    scale: float
    perplexity: float
