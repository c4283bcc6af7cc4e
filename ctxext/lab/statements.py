"""What the literature says in sentences that a run of the laboratory can contradict.

Every statement is a function of what was measured; it gives nothing where a decoder that it needs
was not trained. Differences are taken so that they are above 0 where the sentence is true.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ctxext.lab.extensions import COMPARED, MEASURED_EVERY, beyond, within
from ctxext.lab.measures import Measured
from ctxext.lab.paired import paired_test
from ctxext.lab.setting import LabSetting
from ctxext.lab.variants import UNTRAINED_ROWS
from ctxext.runs.rows.lab import AS_TRAINED, LabStatement

EXACT: Final = 1e-9
"""Relative change of float64 logits that is rounding."""
_FLAT = 0.1  # nats: a tenth of the perplexity
_COLLAPSE = math.log(4 / 3)
_NOTICED = 0.001  # relative change of logits that is no rounding

_SEED = "textbooks"
_ALIBI = "Press et al. 2022"
_NOPE = "Kazemnejad et al. 2023"
_PI = "Chen et al. 2023"
_YARN = "Peng et al. 2023"


@dataclass(frozen=True)
class Evidence:
    """What was measured, of each seed in the same order.

    Attributes:
        measured: by encoding and variant ("" as trained).
        order: by encoding and mask, relative changes of each row.
        no_row: whether a learned table refused a position past its last row.
        extensions: by method, then `before` or `after`, then what was measured.
        pairs: of each seed, what `pairs.ablate` gives.
        steps: of each seed, what `extensions.steps_to_target` gives.
    """

    setting: LabSetting
    measured: Mapping[tuple[str, str], Sequence[Measured]]
    order: Mapping[tuple[str, str], Sequence[Sequence[float]]]
    no_row: Sequence[bool]
    extensions: Mapping[str, Sequence[Mapping[str, Any]]]
    pairs: Sequence[Mapping[str, Any]]
    steps: Sequence[Mapping[str, Any]]

    def near(self, encoding: str, variant: str = "") -> list[list[float]]:
        """Give the loss of the second half of the window, of each seed and row."""
        last = within(self.setting)[-1]
        return [each.bucket(last) for each in self.measured[encoding, variant]]

    def far(self, encoding: str, variant: str = "") -> list[list[float]]:
        """Give the loss beyond the window, of each seed and row."""
        return [each.bucket(*beyond(self.setting)) for each in self.measured[encoding, variant]]

    def gains(self, encoding: str, length: int, distance: int) -> list[list[float]]:
        """Give the recall gain at a distance in rows of a length, of each seed and row."""
        return [each.gains[length, distance] for each in self.measured[encoding, ""]]

    def extended(self, method: str, when: str, what: str) -> list[list[float]]:
        """Give what was measured of an extended decoder, of each seed and row."""
        return [each[when][what] for each in self.extensions[method]]


def less(
    values: Sequence[Sequence[float]], others: Sequence[Sequence[float]], margin: float = 0.0
) -> list[list[float]]:
    """Take differences seed by seed and row by row, less a margin."""
    return [
        [a - b - margin for a, b in zip(rows, other, strict=True)]
        for rows, other in zip(values, others, strict=True)
    ]


Check = Callable[[Evidence], LabStatement | None]
CHECKS: Final[list[Check]] = []


def _check(check: Check) -> Check:
    CHECKS.append(check)
    return check


def verdicts(evidence: Evidence) -> tuple[LabStatement, ...]:
    """Check every statement for which something was measured."""
    checked = [check(evidence) for check in CHECKS]
    return tuple(statement for statement in checked if statement is not None)


def _stated(
    key: str,
    claim: str,
    source: str,
    measured: str,
    differences: Sequence[Sequence[float]],
    unit: str = "nats a token",
    least_stderr: float = 0.0,
) -> LabStatement:
    test = paired_test(differences, least_stderr)
    return LabStatement(
        key=key, claim=claim, source=source, measured=measured, unit=unit, difference=test.mean,
        stderr=test.stderr, errors=test.errors, p=test.p, verdict=test.verdict,
    )  # fmt: skip


def _exact(key: str, claim: str, source: str, measured: str, true: bool) -> LabStatement:
    return LabStatement(
        key=key, claim=claim, source=source, measured=measured, unit="exact", difference=None,
        verdict="holds" if true else "does not hold",
    )  # fmt: skip


@_check
def permutation(evidence: Evidence) -> LabStatement | None:
    """Attention alone reads a set."""
    changes = evidence.order.get(("none", "none"))
    if changes is None:
        return None
    largest = max(max(rows) for rows in changes)
    return _exact(
        "permutation",
        "without position and without a causal mask, the order of the tokens changes nothing",
        _SEED,
        f"largest relative change of the last logits, in float64: {largest:.1e}",
        largest <= EXACT,
    )


@_check
def causal_order(evidence: Evidence) -> LabStatement | None:
    """The mask breaks the symmetry."""
    changes = evidence.order.get(("none", "causal"))
    if changes is None:
        return None
    return _stated(
        "causal-order",
        "a causal mask alone tells a decoder the order of its tokens",
        _NOPE,
        f"relative change of the last logits when the tokens before are permuted, less {_NOTICED}",
        [[change - _NOTICED for change in rows] for rows in changes],
        unit="of the logits",
    )


@_check
def learned_no_row(evidence: Evidence) -> LabStatement | None:
    """The table ends."""
    if not evidence.no_row:
        return None
    return _exact(
        "learned-no-row",
        "a learned table has no row for a position past its window",
        _SEED,
        "such a position is refused",
        all(evidence.no_row),
    )


@_check
def learned_fails(evidence: Evidence) -> LabStatement | None:
    """Rows that no gradient ever reached are noise."""
    if ("learned", UNTRAINED_ROWS) not in evidence.measured:
        return None
    far, near = evidence.far("learned", UNTRAINED_ROWS), evidence.near("learned")
    return _stated(
        "learned-fails",
        "rows that training never reached make a learned table read badly past its window",
        _SEED,
        f"loss past the window, with untrained rows, less that in it, less {_FLAT}",
        less(far, near, _FLAT),
    )


@_check
def sinusoidal_degrades(evidence: Evidence) -> LabStatement | None:
    """Defined everywhere, trained nowhere beyond."""
    if ("sinusoidal", "") not in evidence.measured:
        return None
    return _stated(
        "sinusoidal-degrades",
        "sinusoids are defined at every position, and degrade past the trained ones",
        _SEED,
        "loss past the window less that in it",
        less(evidence.far("sinusoidal"), evidence.near("sinusoidal")),
    )


@_check
def alibi_flat(evidence: Evidence) -> LabStatement | None:
    """Train short, test long."""
    if ("alibi", "") not in evidence.measured:
        return None
    return _stated(
        "alibi-flat",
        "ALiBi keeps its perplexity past the trained window",
        _ALIBI,
        f"{_FLAT} less (loss past the window less that in it)",
        less(evidence.near("alibi"), evidence.far("alibi"), -_FLAT),
    )


@_check
def alibi_recall(evidence: Evidence) -> LabStatement | None:
    """A penalty on distance makes far tokens hard to attend to."""
    if ("alibi", "") not in evidence.measured:
        return None
    setting = evidence.setting
    length = setting.longest
    near, far = setting.distances(length)[0], setting.distances(length)[-1]
    return _stated(
        "alibi-recall",
        "ALiBi recalls a far string worse than a near one",
        _SEED,
        f"gain of a string {near} tokens back less that of one {far} back, in rows of {length}",
        less(evidence.gains("alibi", length, near), evidence.gains("alibi", length, far)),
    )


@_check
def alibi_in_window(evidence: Evidence) -> LabStatement | None:
    """Sharp recall, before any window is left."""
    if not {("alibi", ""), ("rope", "")} <= set(evidence.measured):
        return None
    window = evidence.setting.train_length
    far = evidence.setting.distances(window)[-1]
    return _stated(
        "alibi-in-window",
        "in the trained window, RoPE recalls a far string better than ALiBi",
        _SEED,
        f"gain of a string {far} tokens back with RoPE less that with ALiBi, in rows of {window}",
        less(evidence.gains("rope", window, far), evidence.gains("alibi", window, far)),
    )


@_check
def none_in_window(evidence: Evidence) -> LabStatement | None:
    """Position is emergent from causality."""
    if not {("none", ""), ("rope", "")} <= set(evidence.measured):
        return None
    return _stated(
        "none-in-window",
        "a decoder without any encoding works at the trained length",
        _NOPE,
        f"{_FLAT} less (its loss in the window less RoPE's)",
        less(evidence.near("rope"), evidence.near("none"), -_FLAT),
    )


@_check
def none_extrapolates(evidence: Evidence) -> LabStatement | None:
    """NoPE against RoPE past the window."""
    if not {("none", ""), ("rope", "")} <= set(evidence.measured):
        return None
    rises = [less(evidence.far(name), evidence.near(name)) for name in ("rope", "none")]
    return _stated(
        "none-extrapolates",
        "past the trained window, no encoding loses less than RoPE",
        _NOPE,
        "rise of RoPE's loss past the window less the rise without encoding",
        less(rises[0], rises[1]),
    )


@_check
def rope_collapses(evidence: Evidence) -> LabStatement | None:
    """Why a window has to be extended at all."""
    if ("rope", "") not in evidence.measured:
        return None
    return _stated(
        "rope-collapses",
        "past its window, as it is, a RoPE decoder's perplexity rises by a third or more",
        _PI,
        f"loss past the window less that in it, less {_COLLAPSE:.2f}",
        less(evidence.far("rope"), evidence.near("rope"), _COLLAPSE),
    )


@_check
def interpolation_costs(evidence: Evidence) -> LabStatement | None:
    """Linear scaling squeezes neighbours together."""
    if not {AS_TRAINED, COMPARED[0]} <= set(evidence.extensions):
        return None
    return _stated(
        "interpolation-costs",
        "linear interpolation, untrained, costs local resolution",
        _PI,
        "loss in the window with linear scaling less that as trained",
        less(
            evidence.extended(COMPARED[0], "before", "near"),
            evidence.extended(AS_TRAINED, "before", "near"),
        ),
    )


@_check
def fast_pairs_cost(evidence: Evidence) -> LabStatement | None:
    """Which frequencies local order lives in."""
    if not evidence.pairs:
        return None
    slowed = [
        [each["bands"][name]["slowed_near"] for each in evidence.pairs] for name in ("fast", "slow")
    ]
    return _stated(
        "fast-pairs-cost",
        "of what interpolation costs near, the fast pairs bear more than the slow ones",
        _YARN,
        "rise of the loss in the window with the fast pairs alone slowed, less with the slow ones",
        less(slowed[0], slowed[1]),
    )


@_check
def fast_pairs_alias(evidence: Evidence) -> LabStatement | None:
    """The seed of this project says so; the published methods say the opposite."""
    if not evidence.pairs:
        return None
    left = [
        [each["bands"][name]["left_far"] for each in evidence.pairs] for name in ("fast", "slow")
    ]
    return _stated(
        "fast-pairs-alias",
        "past the window it is the fast pairs that break reading, not the slow ones",
        _SEED,
        "loss past the window with the fast pairs left as trained and the slow ones interpolated, "
        "less the other way round",
        less(left[0], left[1]),
    )


@_check
def yarn_needs_fewer_steps(evidence: Evidence) -> LabStatement | None:
    """YaRN's promise against linear scaling."""
    if not evidence.steps:
        return None
    most = evidence.setting.most_lora_steps
    ratios, variance = [], 0.0
    for each in evidence.steps:
        linear, yarn = (
            most if each["steps"][name] is None else each["steps"][name] for name in COMPARED
        )
        ratios.append(math.log((linear + 1) / (yarn + 1)))
        # A count may be too high by anything below MEASURED_EVERY: a uniform error.
        variance += MEASURED_EVERY**2 / 12 * ((linear + 1) ** -2 + (yarn + 1) ** -2)
    return _stated(
        "yarn-needs-fewer-steps",
        "YaRN needs fewer steps than linear scaling for the same loss past the window",
        _YARN,
        f"logarithm of (steps of linear + 1) / (steps of YaRN + 1), {most} where it never was",
        [[ratio] for ratio in ratios],
        unit="of the ratio",
        least_stderr=math.sqrt(variance) / len(ratios),
    )


@_check
def yarn_recalls(evidence: Evidence) -> LabStatement | None:
    """Stable is not the same as used."""
    if not set(COMPARED) <= set(evidence.extensions):
        return None
    return _stated(
        "yarn-recalls",
        "after the same few steps, YaRN recalls more from past the window than linear scaling",
        _YARN,
        "gain of a far string with YaRN less that with linear scaling",
        less(
            evidence.extended(COMPARED[1], "after", "recall"),
            evidence.extended(COMPARED[0], "after", "recall"),
        ),
    )
