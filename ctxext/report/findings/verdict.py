"""One line a model: what far text does to its loss, and whether it is used.

Perplexity that stays low shows that a length is survived, retrieval that it is read. A model can do
the first without the second, which is what this file is for.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ctxext.lengths import show_length
from ctxext.report.findings.differences import Apart, nats
from ctxext.report.findings.reading import Change, FarReading, Step, costs_too_much

COPIED = 0.5  # share of a planted string that counts as copied, in the demo's measure

Use = Literal[
    "used", "used in part", "used but not the middle", "perhaps used", "not used", "use not shown"
]
_STEPS: tuple[Step, ...] = ("gains", "holds", "loses", "collapses")


@dataclass(frozen=True)
class Task:
    """How far one task holds.

    Attributes:
        reached: tokens that it surely holds to; None: nowhere.
        perhaps: tokens that it may hold to; the same as `reached` where there is no doubt.
        longest: that was asked, tokens.
        best: the best accuracy at any length, a share of 1.
    """

    name: str
    reached: int | None
    longest: int
    best: float | None = None
    perhaps: int | None = None


@dataclass(frozen=True)
class Evidence:
    """What is known about one model.

    Attributes:
        window: the base's trained window, tokens.
        reading: its loss inside and beyond the window; None = not measured.
        tasks: of retrieval.
        lost: (task, length) where the middle is read worse than both ends.
        chosen: tasks that no model solves, and how far the right answer is still told from
            distractors more often than by chance; `longest` is 0 where that was not asked.
    """

    model: str
    window: int | None
    reading: FarReading | None = None
    tasks: Sequence[Task] = ()
    lost: Sequence[tuple[str, int]] = ()
    chosen: Sequence[Task] = ()


@dataclass(frozen=True)
class Verdict:
    """`word` for a badge, `sentence` for people, and the numbers they rest on.

    Attributes:
        step: of perplexity; None = not measured beyond the window.
        use: of far text; None = not measured beyond the window.
        far: the change at the longest length; `cost`: what the model loses inside the window
            against the `first` one. Nats per token.
        stable_to: tokens up to which nothing is lost; `used_to`: up to which retrieval surely
            holds; `perhaps_used_to`: up to which it may.
    """

    model: str
    word: str
    sentence: str
    step: Step | None
    use: Use | None
    far: Change | None
    cost: Apart | None
    stable_to: int | None
    used_to: int | None
    perhaps_used_to: int | None
    first: str | None = None

    @property
    def behind(self) -> Apart | None:
        """What the model loses at the longest length against the first one."""
        return self.far.behind if self.far else None

    @property
    def costs_too_much(self) -> bool:
        """Whether it is useless inside the window already, whatever far text does."""
        return costs_too_much(self.cost)

    @property
    def stable_measured(self) -> bool:
        """Whether `stable_to` None means nowhere."""
        return self.step is not None

    @property
    def use_measured(self) -> bool:
        """Whether `used_to` None means nowhere."""
        return self.use is not None

    @property
    def rank(self) -> tuple[float, ...]:
        """What sorts models, best first: use, cost, sure losses far away, step, change."""
        far = self.far.apart.difference if self.far and self.far.apart else float("inf")
        step = _STEPS.index(self.step) if self.step else len(_STEPS)
        # What is read inside the window alone is no use of far text.
        beyond = self.use not in (None, "not used", "use not shown")
        use = (-(self.used_to or 0), -(self.perhaps_used_to or 0)) if beyond else (0, 0)
        behind = self.behind.difference if self.behind and self.behind.beyond_noise else 0.0
        return *use, self.costs_too_much, behind, step, far

    def to_dict(self) -> dict[str, Any]:
        far, cost, behind = self.far, self.cost, self.behind
        return {
            "model": self.model,
            "verdict": self.word,
            "sentence": self.sentence,
            "perplexity": self.step,
            "use": self.use,
            "change": {"length": far.at, **asdict(far.apart)} if far and far.apart else None,
            "cost_inside": asdict(cost) if cost else None,
            "cost_far": asdict(behind) if behind else None,
            "costs_too_much": self.costs_too_much,
            "stable_to": self.stable_to,
            "used_to": self.used_to,
            "perhaps_used_to": self.perhaps_used_to,
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
    """Find the longest distance up to which at least `COPIED` is copied: the demo's measure."""
    return reach([(n, None if v is None else -v) for n, v in points], -COPIED)


def verdict(evidence: Evidence) -> Verdict:
    """Say what the numbers say about a model."""
    window, reading = evidence.window or 0, evidence.reading
    step = reading.step if reading else None
    telling = [task for task in evidence.tasks if task.longest > window]
    used = min((task.reached or 0 for task in telling), default=0)
    perhaps = min((task.perhaps or task.reached or 0 for task in telling), default=0)
    use = _use(evidence, telling, used, perhaps)
    costly = bool(reading and reading.costs_too_much)
    words = [
        *(["costs too much inside"] if costly else []),
        *([step] if step else []),
        *([use] if use and step != "collapses" else []),
    ]
    parts = [_loss_words(evidence), _retrieval_words(telling, evidence.chosen)]
    if evidence.lost:
        places = ", ".join(f"{task} at {show_length(length)}" for task, length in evidence.lost)
        parts.append(f"the middle is lost in {places}")
    text = "; ".join(parts)
    return Verdict(
        evidence.model,
        ", ".join(words) or "not measured",
        text[:1].upper() + text[1:] + ".",
        step,
        use,
        far=reading.changes[-1] if reading and reading.changes else None,
        cost=reading.inside.cost if reading and reading.inside else None,
        stable_to=reading.holds_to if reading and step else None,
        used_to=used or None,
        perhaps_used_to=perhaps or None,
        first=reading.first if reading else None,
    )


def _use(evidence: Evidence, telling: Sequence[Task], used: int, perhaps: int) -> Use | None:
    window = evidence.window or 0
    if not telling:
        return "use not shown" if evidence.chosen else None
    if used <= window:
        return "perhaps used" if perhaps > window else "not used"
    if used < min(task.longest for task in telling):
        return "used in part"
    lost = any(window < length <= used for _, length in evidence.lost)
    return "used but not the middle" if lost else "used"


def _loss_words(evidence: Evidence) -> str:
    reading = evidence.reading
    if reading is None:
        return "perplexity was not measured"
    inside = reading.inside
    if inside is None:
        where = f" of {show_length(evidence.window)} tokens" if evidence.window else ""
        return f"no perplexity inside the trained window{where} was measured to compare with"
    if not reading.changes:
        return "perplexity was not measured beyond the window"
    cost, after = _cost_words(reading), ""
    if reading.costs_too_much:
        # What the model is at all comes first, not what becomes of that far away.
        cost, after = "", f"{cost.removeprefix('; ')} already; then "
    last = reading.changes[-1]
    against = f"its {show_length(inside.at)}"
    if inside.model != evidence.model:
        against = f"{inside.model} at {show_length(inside.at)}"
    numbers = f"{_number(inside.perplexity)} to {_number(last.perplexity)}"
    held = reading.holds_to
    if reading.step == "collapses":
        where = f"holds to {show_length(held)} and collapses beyond" if held else "collapses"
        return f"{after}perplexity {where} ({numbers} at {show_length(last.at)}){cost}"
    words = {"gains": "gains", "holds": "holds:", "loses": "loses"}[last.step]
    amount = nats(last.apart, signed=last.step == "holds")
    far = f"{amount} nats at {show_length(last.at)} against {against} ({numbers})"
    return f"{after}{words} {far}{cost}{_behind_words(reading, last)}"


def _behind_words(reading: FarReading, last: Change) -> str:
    """Say where the first model is surely better even at the longest length."""
    behind = last.behind
    if reading.costs_too_much or not behind or not behind.beyond_noise or behind.difference < 0:
        return ""
    amount = nats(behind, signed=False)
    return f"; at {show_length(last.at)} it is still {amount} nats worse than {reading.first}"


def _cost_words(reading: FarReading) -> str:
    inside = reading.inside
    cost = inside.cost if inside else None
    if inside is None or cost is None or not cost.beyond_noise:
        return ""
    verb = "costs" if cost.difference > 0 else "brings"
    amount = nats(cost, signed=False)
    return f"; the model {verb} {amount} nats at {show_length(inside.at)}, inside the window"


def _retrieval_words(tasks: Sequence[Task], chosen: Sequence[Task]) -> str:
    if not tasks and chosen:
        names = ", ".join(task.name for task in chosen)
        by_reach: dict[str, list[str]] = {}
        for task in chosen:
            if task.longest:
                far = f"to {show_length(task.reached)}" if task.reached else "nowhere"
                by_reach.setdefault(far, []).append(task.name)
        asked = [f"{far} ({', '.join(told)})" for far, told in by_reach.items()]
        choice = f"; it tells the answer from distractors {', '.join(asked)}" if asked else ""
        if set(by_reach) == {"nowhere"}:
            choice = (
                f"; nor does it tell the answer from distractors ({', '.join(by_reach['nowhere'])})"
            )
        return f"no model here solves {names} at any length, so use is not shown{choice}"
    if not tasks:
        return "whether far text is used was not measured"
    holding: dict[str, list[Task]] = {}
    for task in sorted(tasks, key=lambda task: -(task.reached or 0)):
        holding.setdefault(_to(task), []).append(task)
    several = len(holding) > 1 or any(" " in task.name for task in tasks)
    parts = []
    for words, group in holding.items():
        whose = f" ({', '.join(task.name for task in group)})" if several else ""
        best = max((task.best or 0 for task in group), default=0)
        at_best = f", {100 * best:.0f} % at best" if best and words == "nowhere" else ""
        parts.append(f"{words}{whose}{at_best}")
    return f"retrieval holds {', '.join(parts)}"


def _to(task: Task) -> str:
    if task.perhaps and task.perhaps > (task.reached or 0):
        doubt = f"perhaps to {show_length(task.perhaps)}"
        return f"to {show_length(task.reached)}, {doubt}" if task.reached else doubt
    return f"to {show_length(task.reached)}" if task.reached else "nowhere"


def reach_words(reached: int | None, perhaps: int | None) -> str:
    """Write how far a score holds, with its doubt.

    >>> reach_words(1024, 1024), reach_words(1024, 4096), reach_words(None, 512)
    ('1k', '1k to 4k', 'perhaps 512')
    """
    if not reached:
        return f"perhaps {show_length(perhaps)}" if perhaps else "nowhere"
    if perhaps and perhaps > reached:
        return f"{show_length(reached)} to {show_length(perhaps)}"
    return show_length(reached)


def _number(value: float | None) -> str:
    if value is None:
        return "not finite"
    return f"{value:.0f}" if 100 <= value < 1e6 else f"{value:.3g}"
