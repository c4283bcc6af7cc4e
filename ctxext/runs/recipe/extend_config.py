"""The recipe's section `extend`: how far, and how, a checkpoint is extended before training."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ctxext.errors import BadInput
from ctxext.lengths import parse_length
from ctxext.methods import get_method
from ctxext.runs.build import as_written
from ctxext.runs.fields import MOST_TOKENS, TOKENS, bounded, check_bounds


@dataclass(frozen=True)
class ExtendConfig:
    """What `ctxext extend` would be told.

    Attributes:
        method: a name in `ctxext.methods`; None = what `ctxext extend` takes for the encoding
            where none is named: `yarn` for a rope.
        target: window to reach, tokens; or
        factor: times the original window. One of the two, in the end: neither is fine where the
            stages of a recipe say it.
        parameters: of the method, e.g. {"beta_fast": 32}.
        original_length: trained window in tokens, where the config says something else.
        sliding_window: `keep`, `off` (which YAML reads as false), or a length.
    """

    method: str | None = None
    target: int | None = bounded(None, least=1, most=MOST_TOKENS, unit=TOKENS)
    factor: float | None = bounded(None, above=0, most=1e6)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    original_length: int | None = bounded(None, least=1, most=MOST_TOKENS, unit=TOKENS)
    sliding_window: str | int | bool = "keep"

    def __post_init__(self) -> None:
        as_written(self, "extend")
        if self.method is not None:
            get_method(self.method)
        if self.target is not None and self.factor is not None:
            raise BadInput(
                "extend.target and extend.factor contradict each other", "give one of them"
            )
        check_bounds(self, "extend")
        _ = self.sliding

    def arguments(self) -> dict[str, Any]:
        """Give how far and how, as arguments of `extend`."""
        return {
            "method": self.method,
            "target": self.target,
            "factor": self.factor,
            "parameters": self.parameters,
            "sliding_window": self.sliding,
        }

    @property
    def sliding(self) -> int | str | None:
        """`sliding_window` as `extend` takes it: `"keep"`, None = off, or tokens.

        Raises:
            BadInput: another word.
        """
        value = self.sliding_window
        if value == "keep":
            return value
        if value is False or value == "off":
            return None
        if value is True or (isinstance(value, int) and value < 1):
            raise BadInput(
                f"extend.sliding_window is {value}; there is keep, off, or a length",
                argument="sliding_window",
            )
        try:
            return parse_length(str(value), flag="extend.sliding_window")
        except BadInput as error:
            error.argument = "sliding_window"
            raise
