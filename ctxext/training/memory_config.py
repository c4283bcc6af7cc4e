"""The recipe's section `memory`: what is kept, what is computed again, and what lies elsewhere."""

from dataclasses import dataclass, field

from ctxext.errors import BadInput

_WORDS = ("all", "none", "auto")


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
    offload: str = "none"
    mlp_tile: int = field(default=0, metadata={"unit": "tokens"})
    limit_gib: float = 0.0

    def __post_init__(self) -> None:
        named = isinstance(self.recompute, str) and self.recompute in ("", *_WORDS)
        if not named and not str(self.recompute).isdigit():
            raise BadInput(
                f"memory.recompute is {self.recompute!r}", "there is all, none, auto, or a number"
            )
        if self.offload not in ("none", "activations"):
            raise BadInput(f"memory.offload is {self.offload!r}; there is none and activations")
        if self.mlp_tile < 0:
            raise BadInput(f"memory.mlp_tile is {self.mlp_tile}, and cannot be negative")
        if self.limit_gib < 0:
            raise BadInput(f"memory.limit_gib is {self.limit_gib}, and cannot be negative")
        if self.offload == "activations" and self.recompute in ("none", 0, "0"):
            raise BadInput(
                "memory.offload parks inputs of recomputed layers, and memory.recompute is none",
                "use --recompute all or auto with --offload activations",
            )

    def layers(self, gradient_checkpointing: bool) -> int | str:
        """`all`, `none`, `auto`, or the number of layers that recompute."""
        if self.recompute == "":
            return "all" if gradient_checkpointing or self.offload != "none" else "none"
        return self.recompute if self.recompute in _WORDS else int(self.recompute)
