"""The recipe's section `validation`: what a run is measured on while it trains."""

from dataclasses import dataclass

from ctxext.errors import BadInput
from ctxext.runs.build import as_written
from ctxext.runs.fields import bounded, check_bounds

_MOST_STEPS = 10**9
_TIMES = 10  # measurements in a run that does not say how many


@dataclass(frozen=True)
class ValidationConfig:
    """On what, how often, and what for.

    Attributes:
        source: a text of its own, as `data.source`; empty = rows of `data` that are held out.
        every: optimizer steps between measurements; 0 = ten in a run, where `source` is given, and
            none where it is not.
        rows: rows of `train.seq_length` tokens that are read each time; where they are held out of
            several texts, rounded up to as many of each.
        keep_best: the result is what was trained at the lowest validation loss, not at the end.
        field: of `source`, as `data.field`; empty = the same.
    """

    source: str = ""
    every: int = bounded(0, least=0, most=_MOST_STEPS)
    rows: int = bounded(4, least=1, most=4096)
    keep_best: bool = False
    field: str = ""

    def __post_init__(self) -> None:
        as_written(self, "validation")
        check_bounds(self, "validation")
        if self.keep_best and not self.is_wanted:
            raise BadInput(
                "validation.keep_best needs a validation loss",
                "add --eval-every N, which holds out rows of --data, or --eval-data SOURCE",
            )

    @property
    def is_wanted(self) -> bool:
        """Whether anything is measured."""
        return bool(self.source or self.every)

    @property
    def held_out(self) -> int:
        """Rows of `data` that are measured, and not trained on."""
        return self.rows if self.is_wanted and not self.source else 0

    def steps_between(self, steps: int) -> int:
        """Tell the optimizer steps between measurements, in a run of so many."""
        return self.every or max(1, -(-steps // _TIMES))

    def times(self, steps: int) -> int:
        """Count the measurements in a run of so many steps: before it, on the way, at its end."""
        return 1 + -(-steps // self.steps_between(steps)) if self.is_wanted else 0
