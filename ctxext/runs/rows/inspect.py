"""Rows of what `ctxext inspect` says beside the config itself: engines, methods at a target."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ctxext.runs.rows.row import Row


@dataclass(frozen=True, kw_only=True)
class Serving(Row):
    """What one engine makes of a checkpoint's rope.

    Attributes:
        verdict: `ok`, `wrong`, `refuses`, `needs version`, or `unknown`.
        how: the command that serves the whole window, or what goes wrong.
        source: where that engine's reading of configs was read.
    """

    engine: str
    verdict: str
    how: str
    source: str


@dataclass(frozen=True, kw_only=True)
class MethodAtTarget(Row):
    """What one method makes of the rope at the target.

    Attributes:
        reason: why it does not apply, or what it needs; None where it gave what follows.
        slowed: for each band that has pairs the smallest and the largest factor by which they turn
            more slowly than in training; infinite (null in JSON) where they stop.
        rope_theta: that the config gets.
        attention_factor: on cos and sin, so that logits grow by its square.
        max_position_embeddings: that the config gets.
        follows_length: whether the frequencies depend on the length of the text at hand.
        engines, engines_not: those that run it rightly, in their current releases, and the others.
        factors: of each pair.
    """

    name: str
    reason: str | None = None
    training: str
    slowed: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    rope_theta: float | None = None
    attention_factor: float | None = None
    max_position_embeddings: int | None = None
    follows_length: bool = False
    engines: tuple[str, ...] = ()
    engines_not: tuple[str, ...] = ()
    factors: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Recommendation(Row):
    """What to do for a target.

    Attributes:
        method: None where no method is the answer.
        reason: one or two sentences.
        command: the next one to type; None where there is nothing to do.
    """

    method: str | None = None
    reason: str
    command: str | None = None


@dataclass(frozen=True, kw_only=True)
class TargetTable(Row):
    """What `--target` adds to `inspect`.

    Attributes:
        tokens: the target.
        factor: of the trained window; None where no window is stated.
        pairs: how many are in each band of the trained rope; empty where it is not known.
        first_negative: the first distance up to the target at which the sum of all pairs' cosines,
            as they turn now, is negative: the base is too small for windows beyond it
            (arXiv:2405.14591). None: it stays positive.
        kv_cache: bytes of one sequence of that length, by dtype.
        now: how much more slowly each band turns now than in training.
        methods: one row for each, also for those that do not apply.
    """

    tokens: int
    factor: float | None
    pairs: Mapping[str, int]
    first_negative: int | None
    kv_cache: Mapping[str, int]
    now: Mapping[str, tuple[float, float]]
    methods: tuple[MethodAtTarget, ...]
    recommendation: Recommendation
