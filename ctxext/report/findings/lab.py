"""What a laboratory's rows say: which statements hold, by how much, and which rows go together."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from ctxext.lengths import counted, show_length
from ctxext.runs.rows.lab import (
    LabExtension,
    LabPosition,
    LabRecall,
    LabResult,
    LabStatement,
    LabSteps,
    Verdict,
)

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
_SURELY = 1e-4  # a smaller p is not written out


def tally(statements: Sequence[LabStatement]) -> str:
    """Count the verdicts in words: `9 of 12 statements hold, 1 does not hold, 2 are undecided`."""
    count = Counter(statement.verdict for statement in statements)
    several = {"holds": "hold", "does not hold": "do not hold", "undecided": "are undecided"}
    alone = {"holds": "holds", "does not hold": "does not hold", "undecided": "is undecided"}
    hold, *others = (
        f"{count[word]} {alone[word] if count[word] == 1 else several[word]}" for word in VERDICTS
    )
    number, word = hold.split(" ", 1)
    noun = "statement" if len(statements) == 1 else "statements"
    return f"{number} of {len(statements)} {noun} {word}, {', '.join(others)}"


def difference_words(statement: LabStatement) -> str:
    """Write `+0.530 ± 0.020 nats a token`: two digits of the error, and as many places before."""
    if statement.difference is None:
        return "not measured" if statement.verdict == "undecided" else "exact"
    if not statement.stderr:
        return f"{statement.difference:+.3g} {statement.unit}"
    form = f".{min(9, max(0, 1 - math.floor(math.log10(statement.stderr))))}f"
    return f"{statement.difference:+{form}} ± {statement.stderr:{form}} {statement.unit}"


def strength_words(statement: LabStatement, seeds: int) -> str:
    """Write what a verdict rests on: `7.8 standard errors over 3 seeds, p = 0.016`."""
    over = f"over {counted(seeds, 'seed')}"
    if statement.errors is None:
        if statement.stderr is not None:
            return f"no spread {over}"
        exact = statement.verdict != "undecided"
        return f"an exact check {over}" if exact else f"no standard error {over}"
    errors = round(statement.errors, 1) + 0.0  # never -0.0
    return f"{errors} standard errors {over}{_chance(statement.p)}"


def _chance(p: float | None) -> str:
    if p is None:
        return ""
    return f", p < {_SURELY:g}" if p < _SURELY else f", p = {p:.2g}"


def curve_name(row: LabPosition) -> str:
    """Name a curve: the encoding, and what was done to it to reach further."""
    return f"{row.encoding}, {row.variant}" if row.variant else row.encoding


def longest_recall(rows: Sequence[LabRecall]) -> list[LabRecall]:
    """Choose, of each encoding, the rows of the longest length that it was asked in, by distance.

    Of any length where that has one distance alone. An encoding has each distance once.
    """
    by_place: dict[tuple[str, int], LabRecall] = {}
    for encoding in dict.fromkeys(row.encoding for row in rows):
        own = sorted((r for r in rows if r.encoding == encoding), key=lambda row: row.length)
        longest = [row for row in own if row.length == own[-1].length]
        for row in longest if len({row.distance for row in longest}) > 1 else own:
            by_place[encoding, row.distance] = row
    return sorted(by_place.values(), key=lambda row: row.distance)


def shown_variants(rows: Sequence[LabPosition], only: str = "") -> list[LabPosition]:
    """Choose the curves that stand beside each other: decoders as trained.

    Where one ends before the others do, what was done first to reach further stands beside it; of
    the encoding `only`, everything that was done.
    """
    last = max((row.end for row in rows), default=0)
    firsts: dict[str, str] = {}
    ends: dict[str, int] = {}
    for row in rows:
        if row.variant:
            firsts.setdefault(row.encoding, row.variant)
        elif row.nll is not None:
            ends[row.encoding] = max(row.end, ends.get(row.encoding, 0))
    return [
        row
        for row in rows
        if not row.variant
        or row.encoding == only
        or (not only and ends.get(row.encoding, 0) < last and row.variant == firsts[row.encoding])
    ]


@dataclass(frozen=True)
class BothWays:
    """A method as it extends, and after training; `after` is None where nothing was trained."""

    method: str
    before: LabExtension | None
    after: LabExtension | None

    @property
    def best(self) -> float:
        """The lowest loss beyond the trained window; infinite where there is none."""
        known = [row.far for row in (self.before, self.after) if row and row.far is not None]
        return min(known, default=math.inf)


def both_ways(rows: Sequence[LabExtension]) -> list[BothWays]:
    """Pair each method's rows before and after training, the best beyond the window first."""
    pairs = []
    for method in dict.fromkeys(row.method for row in rows):
        before = next((row for row in rows if row.method == method and not row.steps), None)
        trained = [row for row in rows if row.method == method and row.steps]
        after = max(trained, key=lambda row: row.steps, default=None)
        pairs.append(BothWays(method, before, after))
    return sorted(pairs, key=lambda pair: pair.best)


@dataclass(frozen=True)
class StepsToTarget:
    """The steps of a method to the target, by seed; None where it never was there.

    Attributes:
        ratios: steps of the first method of the document over its own, where both got there; one
            is added to each, since a method may need none.
    """

    method: str
    against: str
    steps: dict[int, int | None]
    ratios: tuple[float, ...]

    @property
    def ratio(self) -> float | None:
        """The geometric mean of the ratios: twice as fast and half as fast make equal."""
        if not self.ratios:
            return None
        return math.exp(math.fsum(map(math.log, self.ratios)) / len(self.ratios))


def steps_to_target(rows: Sequence[LabSteps]) -> list[StepsToTarget]:
    """Compare each method with the first, seed by seed."""
    steps: dict[str, dict[int, int | None]] = {}
    for row in rows:
        steps.setdefault(row.method, {})[row.seed] = row.steps
    if not steps:
        return []
    against, first = next(iter(steps.items()))
    return [
        StepsToTarget(
            method, against, own,
            tuple(
                (there + 1) / (here + 1)
                for seed, here in own.items()
                if here is not None and (there := first.get(seed)) is not None
            ),
        )
        for method, own in steps.items()
    ]  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """Whether an encoding is fluent beyond the trained window, and whether it reads there.

    Attributes:
        lost: nats a token, the loss at the farthest positions minus that at the end of the window.
        gain: nats a token that a string from the farthest distance is worth, `at` tokens back.
        inside: the same from `near` tokens back, in rows no longer than the window if there are.
    """

    name: str
    lost: float
    gain: float
    at: int
    inside: float
    near: int


def readings(result: LabResult) -> list[Reading]:
    """Put loss and recall of each encoding side by side, beyond the trained window."""
    window = result.train_length
    out = []
    for encoding in result.encodings:
        own = [row for row in result.by_position if row.encoding == encoding]
        inside = [row for row in own if row.end <= window and row.nll is not None]
        beyond = [row for row in own if row.start >= window and row.nll is not None]
        last = _recalled(result, encoding, beyond=True)
        first = _recalled(result, encoding, beyond=False)
        if inside and beyond and first and last:
            # The largest end, and of several variants the first.
            near, far = (max(rows, key=lambda row: row.end).nll or 0.0 for rows in (inside, beyond))
            out.append(Reading(encoding, far - near, *last, *first))
    return out


def _recalled(result: LabResult, encoding: str, *, beyond: bool) -> tuple[float, int] | None:
    """Find the gain from farthest beyond the window, or from farthest inside it; and from where."""
    window = result.train_length
    rows = [row for row in result.recall if row.encoding == encoding]
    if beyond:
        rows = [row for row in longest_recall(rows) if row.distance > window]
    else:
        short = [row for row in rows if row.length <= window]
        rows = short or [row for row in longest_recall(rows) if row.distance < window][:1]
    known = [(row.gain, row.distance) for row in rows if row.gain is not None]
    return max(known, key=lambda pair: pair[1], default=None)


def setting(result: LabResult) -> list[tuple[str, str]]:
    """Say what was trained and read, as pairs of a word and a value."""
    lengths = ", ".join(show_length(tokens) for tokens in result.test_lengths)
    rows = [
        ("preset", result.preset),
        ("encodings", ", ".join(result.encodings)),
        ("trained at", f"{show_length(result.train_length)} tokens"),
        ("read at", f"{lengths} tokens" if lengths else ""),
        ("seeds", ", ".join(str(seed) for seed in result.seeds)),
        ("training", f"{result.steps:,} steps of {result.tokens_per_step:,} tokens"),
        ("parameters", f"{result.parameters:,}"),
        ("time", f"{result.seconds:,.0f} s" if result.seconds is not None else ""),
    ]
    return [(word, value) for word, value in rows if value]


def headline(result: LabResult) -> str:
    """Say in one sentence what was compared, and what came out."""
    longest = max((*result.test_lengths, result.train_length))
    text = (
        f"{counted(len(result.encodings), 'encoding')}, trained at "
        f"{show_length(result.train_length)} tokens and read at up to {show_length(longest)}, "
        f"{counted(len(result.seeds), 'seed')}"
    )
    return f"{text}: {tally(result.statements)}" if result.statements else text
