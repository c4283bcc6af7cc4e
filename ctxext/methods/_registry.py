"""What a method is, and the table of all of them."""

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ctxext.choices import suggestion
from ctxext.encodings.kinds import PositionEncoding
from ctxext.encodings.rope import RopeSpec
from ctxext.encodings.rope_types import RopeType, rope_type_facts
from ctxext.errors import BadInput

Value = float | int | bool | None


@dataclass(frozen=True)
class Extension:
    """A rotary encoding that reaches further, and how a config file says so.

    Attributes:
        parameters: the method's numbers, as reported to the user.
        inv_freq: (rotary_dim / 2,) radians per token, float64, at the full target.
        attention_factor: multiplies cos and sin, so attention logits grow by its square.
        rope_theta: what the config's `rope_theta` has to be.
        rope_block: the config's rope keys beside `rope_theta`, `rope_type` first.
        max_position_embeddings: what the config has to say for readers to compute this `inv_freq`.
    """

    parameters: Mapping[str, Value]
    inv_freq: list[float]
    attention_factor: float
    rope_theta: float
    rope_block: Mapping[str, Any]
    max_position_embeddings: int


Extend = Callable[..., Extension]


@dataclass(frozen=True)
class Scaling:
    """What a checkpoint is scaled by already, where that is the method's own `rope_type`.

    Attributes:
        factor: of the block.
        reached: tokens that the checkpoint claims to read.
        numbers: the block's other numeric keys.
        truncate: yarn's flag.
    """

    factor: float
    reached: int
    numbers: Mapping[str, float]
    truncate: bool = True


def keep_nothing(scaling: Scaling, spec: RopeSpec, target: int) -> dict[str, Value]:
    """Start from the defaults, whatever the checkpoint was trained with."""
    return {}


Keep = Callable[[Scaling, RopeSpec, int], dict[str, Value]]


@dataclass(frozen=True)
class Method:
    """A registered way to extend a rotary encoding.

    Attributes:
        name: its file's name and the `--method` value.
        applies_to: position encodings it can extend.
        training: what it needs before it can be trusted, one phrase.
        rope_type: what its result is written as.
        since: the first transformers release that computes it rightly; `any` for all.
        extend: (spec, target, *, parameters) -> Extension; target in tokens >= the window.
        keep: parameters that a checkpoint was trained with, where it is scaled so already.
    """

    name: str
    applies_to: tuple[PositionEncoding, ...]
    paper: str
    training: str
    rope_type: str
    since: str
    extend: Extend
    keep: Keep = keep_nothing

    @property
    def facts(self) -> RopeType:
        """The facts of the `rope_type` that it is written as."""
        return rope_type_facts(self.rope_type)

    @property
    def parameters(self) -> dict[str, Value]:
        """What `--set` may change, with the defaults; None = derived from spec and target."""
        signature = inspect.signature(self.extend)
        return {
            name: parameter.default
            for name, parameter in signature.parameters.items()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY
        }

    def __call__(self, spec: RopeSpec, target: int, **parameters: Value) -> Extension:
        """Extend, with `parameters` checked by name first.

        Raises:
            BadInput: an unknown parameter (names the nearest), or a value the method refuses.
        """
        for name in parameters:
            if name not in self.parameters:
                known = ", ".join(self.parameters) or "none"
                raise BadInput(
                    f"method {self.name} has no parameter '{name}'",
                    suggestion(name, self.parameters, f"it takes: {known}"),
                )
        for name, value in parameters.items():
            self._check(name, value)
        return self.extend(spec, target, **parameters)

    def _check(self, name: str, value: object) -> None:
        """Check a value: true or false for a flag, else a finite number, or the default None."""
        default = self.parameters[name]
        if isinstance(default, bool):
            good, wanted = isinstance(value, bool), "true or false"
        else:
            good = isinstance(value, int | float) and not isinstance(value, bool)
            good = good and abs(value) <= sys.float_info.max  # type: ignore[arg-type]
            good, wanted = good or value is default is None, "a finite number"
        if not good:
            raise BadInput(f"method {self.name}: {name} is {value!r}, and has to be {wanted}")


METHODS: dict[str, Method] = {}


def method(
    *,
    applies_to: tuple[PositionEncoding, ...],
    paper: str,
    training: str,
    rope_type: str,
    since: str,
    keep: Keep = keep_nothing,
) -> Callable[[Extend], Extend]:
    """Register a function under the name of its file."""

    def register(extend: Extend) -> Extend:
        name = extend.__module__.rpartition(".")[2]
        if name in METHODS:
            raise ValueError(f"{extend.__module__} registers two methods: one file, one method")
        METHODS[name] = Method(name, applies_to, paper, training, rope_type, since, extend, keep)
        return extend

    return register


def name_of_scaling(rope_type: str) -> str:
    """Name the method that is written as a `rope_type`, or the type itself where none is."""
    names = [name for name, each in METHODS.items() if each.rope_type == rope_type]
    return rope_type if rope_type in names or not names else names[0]


def get_method(name: str) -> Method:
    """Look up the method of that name.

    Raises:
        BadInput: there is none; the nearest name is offered.
    """
    if name not in METHODS:
        raise BadInput(f"unknown method '{name}'", suggestion(name, sorted(METHODS)))
    return METHODS[name]
