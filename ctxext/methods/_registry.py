"""What a method is, and the table of all of them."""

import inspect
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ctxext.choices import suggestion
from ctxext.encodings.alibi import AlibiSpec
from ctxext.encodings.kinds import PositionEncoding
from ctxext.encodings.learned import TableSpec
from ctxext.encodings.none import WindowSpec
from ctxext.encodings.rope import RopeSpec
from ctxext.encodings.rope_types import RopeType, rope_type_facts
from ctxext.errors import BadInput

Value = float | int | bool | Sequence[float] | None
Attention = Literal["standard", "one", "own"]
"""The attention factor of a result: what every reader of its `rope_type` takes by itself, one, or
another number."""


Spec = RopeSpec | TableSpec | AlibiSpec | WindowSpec
"""What a checkpoint was trained with, by its encoding; each has a `window` in tokens."""


@dataclass(frozen=True, kw_only=True)
class Extension:
    """An encoding that reaches further; what has to be written for it, a subclass says.

    Attributes:
        parameters: the method's numbers, as reported to the user.
        max_position_embeddings: what the config has to say for readers to compute this encoding.
        notes: what the user has to know about these numbers, a sentence each.
    """

    parameters: Mapping[str, Value]
    max_position_embeddings: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RopeExtension(Extension):
    """Frequencies, and how a config file says them.

    Attributes:
        inv_freq: (rotary_dim / 2,) radians per token, float64, at the full target.
        attention_factor: multiplies cos and sin, so attention logits grow by its square.
        rope_theta: what the config's `rope_theta` has to be.
        rope_block: the config's rope keys beside `rope_theta`, `rope_type` first.
        beside: further keys at the top of the config.
    """

    inv_freq: list[float]
    attention_factor: float
    rope_theta: float
    rope_block: Mapping[str, Any]
    beside: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TableExtension(Extension):
    """Rows of a new position table.

    Attributes:
        source: (target,) for each new position the position of the trained table that its row is
            made of, 0 to window - 1; between two it is their mean (`encodings.learned.resampled`).
    """

    source: list[float]


@dataclass(frozen=True, kw_only=True)
class WindowExtension(Extension):
    """Nothing but a larger window: the encoding is defined there already."""


@dataclass(frozen=True, kw_only=True)
class SlopesExtension(Extension):
    """Gentler ALiBi slopes.

    Attributes:
        factor: by which every slope is divided.
    """

    factor: float


@dataclass(frozen=True, kw_only=True)
class ScoreExtension(Extension):
    """Sharper attention: the same encoding, and queries that are multiplied.

    Attributes:
        scale: what attention scores are multiplied by.
    """

    scale: float


Extend = Callable[..., Extension]


@dataclass(frozen=True)
class Scaling:
    """What a checkpoint is scaled by already, where that is the method's own `rope_type`.

    Attributes:
        factor: of the block.
        reached: tokens that the checkpoint claims to read.
        numbers: the block's other numeric keys.
        truncate: yarn's flag.
        given: the parameters that the user gives.
    """

    factor: float
    reached: int
    numbers: Mapping[str, float]
    truncate: bool = True
    given: frozenset[str] = frozenset()


def keep_nothing(scaling: Scaling, spec: RopeSpec, target: int) -> dict[str, Value]:
    """Start from the defaults, whatever the checkpoint was trained with."""
    return {}


Keep = Callable[[Scaling, RopeSpec, int], dict[str, Value]]


@dataclass(frozen=True, kw_only=True)
class Method:
    """A registered way to extend a position encoding.

    Attributes:
        name: the `--method` value: its file's name with hyphens.
        formula: what it does to the encoding, one line.
        applies_to: position encodings it can extend.
        training: what it needs before it can be trusted, one phrase.
        rope_type: what its result is written as, where it is a rope.
        writes: where its result is written, in words, where that is no rope.
        runs_in: what runs its result, where no rope is written.
        since: the first transformers release that computes it rightly; `any` for all.
        extend: (spec, target, *, parameters) -> Extension; the spec is that of the encoding, target
            in tokens >= the window.
        default_for: encodings for which it is taken where no method is named.
        keeps_short: texts within the trained window are read as before.
        keep: parameters that a checkpoint was trained with, where it is scaled so already.
        attention: the attention factor of its result.
        top_key: the key at the top of the config that does the work, where the rope does not.
        takes_back: it undoes another method; there is no target to give.
        at_factor_one: it changes the encoding where the window stays, too.
        told_apart: whether a config alone tells its results from those of other methods that are
            written as the same `rope_type`.
    """

    name: str
    formula: str
    applies_to: tuple[PositionEncoding, ...]
    paper: str
    training: str
    extend: Extend
    rope_type: str = ""
    writes: str = ""
    runs_in: str = "all that run the base"
    since: str = "any"
    default_for: tuple[PositionEncoding, ...] = ()
    keeps_short: bool = False
    keep: Keep = keep_nothing
    attention: Attention = "standard"
    top_key: str = ""
    takes_back: bool = False
    at_factor_one: bool = False
    told_apart: bool = True

    @property
    def of_rope(self) -> bool:
        """Whether its result is a rope, so that engines may read it rightly or not."""
        return bool(self.rope_type)

    @property
    def makes(self) -> type[Extension]:
        """What kind of extension it makes, by its annotation."""
        made: type[Extension] = inspect.signature(self.extend).return_annotation
        return made

    @property
    def written_as(self) -> str:
        """The `rope_type` that is written, the key at the top of the config, or where else."""
        return self.top_key or self.rope_type or self.writes

    @property
    def facts(self) -> RopeType:
        """The facts of the `rope_type` that it is written as."""
        return rope_type_facts(self.rope_type)

    @property
    def static(self) -> bool:
        """Whether texts within the trained window are read otherwise too."""
        if self.top_key or self.takes_back or self.keeps_short:
            return False
        return self.attention != "standard" or not self.facts.follows_length

    @property
    def summary(self) -> str:
        """What it does, in the first sentence of its docstring."""
        return " ".join((inspect.getdoc(self.extend) or "").split("\n\n")[0].split())

    @property
    def parameters(self) -> dict[str, Value]:
        """What `--set` may change, with the defaults; None = derived, or has to be given."""
        return {
            name: None if parameter.default is parameter.empty else parameter.default
            for name, parameter in self._signature.items()
        }

    @property
    def required(self) -> tuple[str, ...]:
        """The parameters that have to be given."""
        return tuple(name for name, each in self._signature.items() if each.default is each.empty)

    @property
    def _signature(self) -> dict[str, inspect.Parameter]:
        return {
            name: parameter
            for name, parameter in inspect.signature(self.extend).parameters.items()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY
        }

    def rope(self, spec: RopeSpec, target: int, **parameters: Value) -> RopeExtension:
        """Extend a rope, by a method of which that is known.

        Raises:
            BadInput: as a call does.
            TypeError: it makes something else.
        """
        extension = self(spec, target, **parameters)
        if not isinstance(extension, RopeExtension):
            raise TypeError(f"{self.name} makes no rope")
        return extension

    def __call__(self, spec: Spec, target: int, **parameters: Value) -> Extension:
        """Extend, with `parameters` checked by name first.

        Raises:
            BadInput: an unknown parameter (names the nearest), one that is missing, or a value the
                method refuses.
        """
        for name in parameters:
            if name not in self.parameters:
                known = ", ".join(self.parameters) or "none"
                raise BadInput(
                    f"method {self.name} has no parameter '{name}'",
                    suggestion(name, self.parameters, f"it takes: {known}"),
                )
        missing = [name for name in self.required if parameters.get(name) is None]
        if missing:
            raise BadInput(
                f"method {self.name} needs {' and '.join(missing)}",
                f"see: ctxext methods {self.name}",
            )
        for name, value in parameters.items():
            self._check(name, value)
        return self.extend(spec, target, **parameters)

    def _check(self, name: str, value: object) -> None:
        """Check a value against the parameter's annotation: finite, and of its kind."""
        parameter = self._signature[name]
        if value is None and parameter.default is None:
            return
        words = str(parameter.annotation)
        if isinstance(parameter.default, bool):
            good, wanted = isinstance(value, bool), "true or false"
        elif "Sequence" in words:
            good = isinstance(value, list | tuple) and all(map(_finite, value))
            wanted, value = "a list of finite numbers", _shown(value)
        elif "float" in words:
            good, wanted = _finite(value), "a finite number"
        else:
            good = _finite(value) and value == math.floor(value)  # type: ignore[call-overload]
            wanted = "a whole number"
        if not good:
            raise BadInput(f"method {self.name}: {name} is {value!r}, and has to be {wanted}")


def _finite(value: object) -> bool:
    """Tell whether a value is a number that a float64 holds."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) <= sys.float_info.max


def _shown(value: object) -> object:
    """Give the first member of a list that is no finite number, and other values as they are."""
    wrong = [v for v in value if not _finite(v)] if isinstance(value, list | tuple) else []
    return wrong[0] if wrong else value


METHODS: dict[str, Method] = {}


def method(
    *,
    formula: str,
    applies_to: tuple[PositionEncoding, ...],
    paper: str,
    training: str,
    **facts: Any,
) -> Callable[[Extend], Extend]:
    """Register a function under the name of its file; `facts` are further fields of `Method`."""

    def register(extend: Extend) -> Extend:
        name = extend.__module__.rpartition(".")[2].replace("_", "-")
        if name in METHODS:
            raise ValueError(f"{extend.__module__} registers two methods: one file, one method")
        METHODS[name] = Method(
            name=name, formula=formula, applies_to=applies_to, paper=paper, training=training,
            extend=extend, **facts,
        )  # fmt: skip
        return extend

    return register


def methods_for(encoding: PositionEncoding | None) -> list[Method]:
    """List the methods that extend an encoding: the one that is taken unasked first, then by name.

    Args:
        encoding: None = unknown, for which there is none.
    """
    fitting = [each for _, each in sorted(METHODS.items()) if encoding in each.applies_to]
    return sorted(fitting, key=lambda each: encoding not in each.default_for)


def rope_methods() -> list[Method]:
    """List the methods that make a rope, by name."""
    return [each for _, each in sorted(METHODS.items()) if each.of_rope]


def name_of_scaling(rope_type: str) -> str:
    """Name the method that a `rope_type` is taken for, or the type itself where none is."""
    names = [
        name for name, each in METHODS.items() if each.rope_type == rope_type and each.told_apart
    ]
    return rope_type if rope_type in names or not names else names[0]


def get_method(name: str) -> Method:
    """Look up the method of that name; underscores count as hyphens.

    Raises:
        BadInput: there is none; the nearest name is offered.
    """
    found = METHODS.get(str(name).replace("_", "-"))
    if found is None:
        raise BadInput(f"unknown method '{name}'", suggestion(name, sorted(METHODS)))
    return found


def top_keys() -> frozenset[str]:
    """List the keys at the top of a config that methods write."""
    return frozenset(each.top_key for each in METHODS.values() if each.top_key)
