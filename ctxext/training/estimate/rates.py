"""How fast a machine is at the parts of a step."""

from dataclasses import dataclass

from ctxext.training.estimate.flops import Flops


@dataclass(frozen=True)
class Rates:
    """Floating-point operations a second, by what is computed (`flops.Flops`)."""

    matrices: float
    attention: float
    head: float

    @classmethod
    def of_peak(cls, operations: float, share: float) -> "Rates":
        """Give all the same share of a device's peak."""
        return cls(*[operations * share] * 3)

    def seconds(self, work: Flops) -> float:
        return (
            work.matrices / self.matrices + work.attention / self.attention + work.head / self.head
        )
