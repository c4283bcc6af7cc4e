"""The recipe's section `memory`: what is kept, what is computed again, and what lies elsewhere."""

import re
from dataclasses import dataclass

from ctxext.errors import BadInput, shown
from ctxext.runs.build import as_written
from ctxext.runs.fields import MOST_TOKENS, TOKENS, bounded, check_bounds

_WORDS = ("all", "none", "auto")
_LAYERS = re.compile(r"[0-9]{1,6}")


@dataclass(frozen=True)
class MemoryConfig:
    """How a step fits into memory. None of these keys changes what is computed.

    Attributes:
        recompute: layers whose activations are computed again in the backward pass: `all`, `none`,
            `auto` (as many as the memory at hand requires), or how many of the first. Empty: what
            `train.gradient_checkpointing` says, all or none; with `offload`, all.
        offload: `activations` keeps the inputs of recomputed layers in host memory; `none`.
        mlp_tile: positions whose MLP is computed at the same time; 0 = all.
        limit_gib: memory that `recompute: auto` may count on for a step, in GiB, beside weights
            and optimizer; 0 = what is free.
    """

    recompute: str | int = ""
    offload: str = bounded("none", words=("none", "activations"))
    mlp_tile: int = bounded(0, least=0, most=MOST_TOKENS, unit=TOKENS)
    limit_gib: float = bounded(0.0, least=0, most=1e6)

    def __post_init__(self) -> None:
        as_written(self, "memory")
        check_bounds(self, "memory")
        named = isinstance(self.recompute, str) and self.recompute in ("", *_WORDS)
        if not named and not _LAYERS.fullmatch(shown(self.recompute).strip("'")):
            raise BadInput(
                f"memory.recompute is {shown(self.recompute)}",
                "there is all, none, auto, or a number of layers",
            )
        if self.offload == "activations" and self.recompute in ("none", 0, "0"):
            raise BadInput(
                "memory.offload parks inputs of recomputed layers, and memory.recompute is none",
                "use --recompute all or auto with --offload activations",
            )

    def layers(self, gradient_checkpointing: bool) -> int | str:
        """Read which layers recompute: `all`, `none`, `auto`, or how many."""
        if self.recompute == "":
            return "all" if gradient_checkpointing or self.offload != "none" else "none"
        return self.recompute if self.recompute in _WORDS else int(self.recompute)
