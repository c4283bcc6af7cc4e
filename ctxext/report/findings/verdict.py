"""One sentence a model: is it stable at the length, and is what it reads used?

Stable: at no window length from the trained one up is perplexity, beyond noise, more than
`TOLERANCE` times what the base has inside its window. Used: retrieval holds as far (its effective
length, as the retrieval document has it). A model can be the first without the second, which is
what this file is for.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ctxext.lengths import show_length

TOLERANCE = 1.25  # times the base's perplexity inside its window
COPIED = 0.5  # share of a planted string that counts as copied, in the demo's measure

Word = Literal[
    "used", "used in part", "used, but not the middle", "stable, not used",
    "stable, use not shown", "holds in part", "collapses", "worse everywhere", "retrieves",
    "does not retrieve", "not measured",
]  # fmt: skip


@dataclass(frozen=True)
class Task:
    """How far one task holds: `effective` tokens (None: nowhere), of `longest` tested.

    `best` is the best accuracy at any length, a share of 1.
    """

    name: str
    effective: int | None
    longest: int
    best: float | None = None


@dataclass(frozen=True)
class Evidence:
    """What is known about one model.

    Attributes:
        window: the base's trained window, tokens.
        perplexities: (length, perplexity), by window length or by position; None = not finite.
        reference: the base's perplexity inside its window.
        tasks: of retrieval.
        lost: (task, length) where the middle is read worse than both ends.
        chosen: tasks that no model solves, and how far the right answer is still told from
            distractors more often than by chance; `longest` is 0 where that was not asked.
        noise: how far perplexity at a length and the reference may be apart by chance, nats.
    """

    model: str
    window: int | None
    perplexities: Sequence[tuple[int, float | None]] = ()
    reference: float | None = None
    tasks: Sequence[Task] = ()
    lost: Sequence[tuple[str, int]] = ()
    chosen: Sequence[Task] = ()
    noise: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """A model's `word` for a badge, `sentence` for people, and the lengths they rest on, tokens.

    Where one of these is None, `stable_measured` and `use_measured` tell "nowhere" from "not
    measured".
    """

    model: str
    word: Word
    sentence: str
    stable_to: int | None
    used_to: int | None
    stable_measured: bool
    use_measured: bool

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "verdict": self.word,
            "sentence": self.sentence,
            "stable_to": self.stable_to,
            "used_to": self.used_to,
            "stable_measured": self.stable_measured,
            "use_measured": self.use_measured,
        }


def reach(points: Sequence[tuple[int, float | None]], limit: float) -> int | None:
    """Find the longest length up to which every value is at most `limit`; None where none is.

    >>> reach([(256, 3.0), (512, 3.1), (1024, 40.0), (2048, 3.0)], limit=4.0)
    512
    """
    held = None
    for length, value in sorted(points, key=lambda point: point[0]):
        if value is None or not value <= limit:
            break
        held = length
    return held


def copied_to(points: Sequence[tuple[int, float | None]]) -> int | None:
    """Find up to which distance at least `COPIED` is copied: the demo's effective length."""
    return reach([(n, None if v is None else -v) for n, v in points], -COPIED)


def verdict(evidence: Evidence) -> Verdict:
    """Say what the numbers tell about a model."""
    window = evidence.window or 0
    points = [p for p in evidence.perplexities if p[0] >= window]
    limit = (evidence.reference or math.nan) * TOLERANCE
    surely = [
        (length, None if value is None else value * math.exp(-evidence.noise.get(length, 0.0)))
        for length, value in points
    ]
    stable = reach(surely, limit) if evidence.reference is not None else None
    measured = max((length for length, _ in points), default=0) if evidence.reference else 0
    telling = [task for task in evidence.tasks if task.longest > window]
    used = min((task.effective or 0 for task in telling), default=None)
    longest = min((task.longest for task in telling), default=0)
    lost = any(window < length <= (used or 0) for _, length in evidence.lost)
    word = _word(window, stable, measured, used, longest, lost)
    clauses = [
        _perplexity_part(evidence, stable, measured),
        _retrieval_part(telling, evidence.chosen),
    ]
    text = "; ".join(clause for clause in clauses if clause)
    if evidence.lost:
        places = ", ".join(f"{task} at {show_length(length)}" for task, length in evidence.lost)
        text += f"; the middle is lost in {places}"
    return Verdict(
        evidence.model,
        word,
        text[:1].upper() + text[1:] + ".",
        stable,
        used or None,
        stable_measured=measured > window,
        use_measured=used is not None or bool(evidence.chosen),
    )


def _word(
    window: int, stable: int | None, measured: int, used: int | None, longest: int, lost: bool
) -> Word:
    if measured <= window:  # nothing known about perplexity beyond the window
        if used is None:
            return "not measured"
        return "retrieves" if used > window else "does not retrieve"
    if stable is None:
        return "worse everywhere"
    if stable <= window:
        return "collapses"
    if stable < measured:
        return "holds in part"
    if used is None:
        return "stable, use not shown"
    if used <= window:
        return "stable, not used"
    if used < min(longest, stable):
        return "used in part"
    return "used, but not the middle" if lost else "used"


def _perplexity_part(evidence: Evidence, stable: int | None, measured: int) -> str:
    window = evidence.window or 0
    known = sorted(evidence.perplexities, key=lambda point: point[0])
    if not known:
        return "perplexity was not measured"
    if evidence.reference is None or measured <= window:
        return "perplexity was not measured beyond the window"
    points = [p for p in known if p[0] >= window]
    base = f"{_number(evidence.reference)} in the base's window"
    last, value = points[-1]
    if stable is None:
        first, at = points[0]
        return (
            f"perplexity is {_number(at)} at {show_length(first)} already, against {base}, "
            f"and {_number(value)} at {show_length(last)}"
        )
    if stable == last:
        return f"perplexity holds to {show_length(last)} ({_number(value)}, against {base})"
    return (
        f"perplexity holds to {show_length(stable)} and is {_number(value)} at "
        f"{show_length(last)}, against {base}"
    )


def _retrieval_part(tasks: Sequence[Task], chosen: Sequence[Task]) -> str:
    if not tasks and chosen:
        names = ", ".join(task.name for task in chosen)
        asked = [
            f"to {show_length(task.effective)} ({task.name})"
            if task.effective
            else f"nowhere ({task.name})"
            for task in chosen
            if task.longest
        ]
        choice = f"; it tells the answer from distractors {', '.join(asked)}" if asked else ""
        return f"no model here solves {names} at any length, so use is not shown{choice}"
    if not tasks:
        return "whether far text is used was not measured"
    by_reach: dict[int, list[Task]] = {}
    for task in tasks:
        by_reach.setdefault(task.effective or 0, []).append(task)
    several = len(by_reach) > 1 or any(" " in task.name for task in tasks)
    parts = []
    for effective, group in sorted(by_reach.items(), reverse=True):
        whose = f" ({', '.join(task.name for task in group)})" if several else ""
        best = max((task.best or 0 for task in group), default=0)
        at_best = f", {100 * best:.0f} % at best" if best else ""
        parts.append(
            f"to {show_length(effective)}{whose}" if effective else f"nowhere{whose}{at_best}"
        )
    return f"retrieval holds {', '.join(parts)}"


def _number(value: float | None) -> str:
    if value is None:
        return "not finite"
    return f"{value:.0f}" if 100 <= value < 1e6 else f"{value:.3g}"
