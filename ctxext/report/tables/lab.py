"""The laboratory: verdicts, then what they rest on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ctxext.lengths import show_length
from ctxext.report.findings.lab import (
    both_ways,
    curve_name,
    difference_words,
    steps_to_target,
    strength_words,
)
from ctxext.report.tables.pivot import Across, Down, Table, pivot
from ctxext.report.tables.text import measured, percent, perplexity, shown
from ctxext.runs.rows.lab import (
    LabExtension,
    LabOrder,
    LabPair,
    LabPosition,
    LabRecall,
    LabResult,
    LabStatement,
    LabSteps,
    LabTraining,
)

_LARGE = 1e6  # tokens for a turn; from here on shown as powers of ten


@dataclass(frozen=True)
class LabTable:
    """A table with its words.

    Attributes:
        title: what it shows.
        note: how to read it; a sentence without its end.
        words: cells hold words rather than numbers.
    """

    title: str
    cells: Table
    note: str = ""
    words: bool = False


def lab_tables(result: LabResult) -> list[LabTable]:
    """Make all tables of a laboratory that have lines, verdicts first."""
    window, seeds = result.train_length, len(result.seeds)
    tables = [
        LabTable(
            "Statements", verdict_table(result.statements, seeds),
            "the difference is above 0 where the statement is true; ± is one standard error", True,
        ),
        LabTable(
            f"Perplexity by position, trained at {show_length(window)}",
            position_table(result.by_position, window),
            "± is one standard error over seeds; – where there is no number (a learned table has "
            "no row past its last)",
        ),
        LabTable(
            "Copying: a string that stood so many tokens before", recall_table(result.recall),
            "nats a token that it is likelier than after another string, ± one standard error; "
            "beside it the share of its tokens that are the likeliest",
        ),
        LabTable(
            "Words permuted: how far the last logits move", order_table(result.order),
            "of their own size; without a mask and without position, nothing",
        ),
        LabTable(
            "RoPE extended, before and after training", extension_table(result.extensions),
            "nats a token inside the trained window (near) and beyond (far), ± one standard error; "
            "recall as in copying, from beyond the window; the lowest far loss first",
        ),
        LabTable(
            "Rotary pairs, one at a time", pair_table(result.pairs, window),
            "what is added to the loss, nats a token: the pair alone slowed, or stopped, in the "
            "trained window; all pairs slowed but this one, beyond it",
        ),
        LabTable("LoRA steps to the target", steps_table(result.steps_to_target), _target(result)),
        LabTable("Decoders that were trained", model_table(result.models)),
    ]  # fmt: skip
    return [each for each in tables if each.cells[1]]


def verdict_table(statements: Sequence[LabStatement], seeds: int) -> Table:
    """Show a line for each statement: what was measured, by how much, and the verdict."""
    return (
        ["statement", "verdict", "difference", "rests on", "measured", "said by"],
        [
            [
                each.claim, each.verdict, difference_words(each), strength_words(each, seeds),
                each.measured, each.source,
            ]
            for each in statements
        ],
    )  # fmt: skip


def position_table(rows: Sequence[LabPosition], window: int) -> Table:
    """Show one line for each encoding, one column for each range of positions."""
    down = Down(curve_name, ["encoding"])
    across = Across(
        lambda row: (row.start, row.end),
        head=lambda place: _place(place, inside=place[1] <= window),
    )
    return pivot(rows, down=down, across=across, cell=perplexity)


def _place(place: tuple[int, int], *, inside: bool) -> str:
    start, end = map(show_length, place)
    return f"{start}-{end}{' (trained)' if inside else ''}"


def recall_table(rows: Sequence[LabRecall]) -> Table:
    """Show one line for each encoding and length of rows, one column for each distance."""
    down = Down(
        lambda row: (row.encoding, row.length), ["encoding", "rows of"],
        _longest_first(rows),
        lambda line: [line[0], show_length(line[1])],
    )  # fmt: skip
    across = Across(lambda row: row.distance, head=lambda tokens: f"{show_length(tokens)} back")
    return pivot(rows, down=down, across=across, cell=_recall)


def _longest_first(rows: Sequence[LabRecall]) -> list[tuple[str, int]]:
    lines = dict.fromkeys((row.encoding, row.length) for row in rows)
    return sorted(lines, key=lambda line: -line[1])


def _recall(row: LabRecall) -> str:
    copied = "" if row.copied is None else f", {percent(row.copied)}"
    return measured(row.gain, row.stderr, "+.2f") + copied


def order_table(rows: Sequence[LabOrder]) -> Table:
    """Show one line for each encoding: without a mask, and with the causal one."""
    masks = [mask for mask in ("none", "causal") if any(row.mask == mask for row in rows)]
    heads = {"none": "every token reads every other", "causal": "with the causal mask"}
    return pivot(
        rows, down=Down(lambda row: row.encoding, ["encoding"]),
        across=Across(lambda row: row.mask, masks, heads.__getitem__), cell=_change,
    )  # fmt: skip


def _change(row: LabOrder) -> str:
    if row.change is None:
        return "–"
    form = ".3f" if row.change >= 1e-3 else ".1e"
    return measured(row.change, row.stderr, form)


def extension_table(rows: Sequence[LabExtension]) -> Table:
    """Show one line for each method, the lowest loss beyond the window first."""
    pairs = both_ways(rows)
    steps = max((row.steps for row in rows), default=0)
    kinds = [("near", "near_stderr", ".3f"), ("far", "far_stderr", ".3f"),
             ("recall", "recall_stderr", "+.2f")]  # fmt: skip
    after = [f"{name}, {steps:,} steps" for name, _, _ in kinds] if steps else []
    return (
        ["method", *(name for name, _, _ in kinds), *after],
        [
            [
                pair.method,
                *(_field(pair.before, *kind) for kind in kinds),
                *(_field(pair.after, *kind) for kind in kinds if steps),
            ]
            for pair in pairs
        ],
    )


def _field(row: LabExtension | None, value: str, stderr: str, form: str) -> str:
    return "–" if row is None else measured(getattr(row, value), getattr(row, stderr), form)


def pair_table(rows: Sequence[LabPair], window: int) -> Table:
    """Show one line for each rotary pair, the fastest first."""
    return (
        ["pair", "tokens a turn", "turns in the window", "slowed, near", "stopped, near",
         "left, far"],
        [
            [
                str(row.pair),
                _turn(row.wavelength),
                f"{window / row.wavelength:.2g}",
                measured(row.slowed_near, row.slowed_near_stderr, "+.3f"),
                measured(row.stopped_near, row.stopped_near_stderr, "+.3f"),
                measured(row.left_far, row.left_far_stderr, "+.3f"),
            ]
            for row in rows
        ],
    )  # fmt: skip


def _turn(tokens: float) -> str:
    return f"{tokens:,.{0 if tokens >= 100 else 1}f}" if tokens < _LARGE else f"{tokens:.1e}"


def steps_table(rows: Sequence[LabSteps]) -> Table:
    """Show one line for each method: its steps by seed, and how many times fewer than the first."""
    methods = steps_to_target(rows)
    seeds = list(dict.fromkeys(row.seed for row in rows))
    first = methods[0].against if methods else ""
    return (
        ["method", *(f"seed {seed}" for seed in seeds), f"{first}'s steps over its own"],
        [
            [
                each.method,
                *(_steps(each.steps, seed) for seed in seeds),
                "1" if each.method == first else ratio_words(each.ratio, each.ratios),
            ]
            for each in methods
        ],
    )


def _steps(steps: dict[int, int | None], seed: int) -> str:
    if seed not in steps:
        return "–"
    reached = steps[seed]
    return "never" if reached is None else f"{reached:,}"


def ratio_words(ratio: float | None, ratios: Sequence[float]) -> str:
    """Write `3.6 times (3 to 4.33)`: the geometric mean, and the smallest and the largest."""
    if ratio is None:
        return "–"
    low, high = min(ratios), max(ratios)
    spread = "" if math.isclose(low, high) else f" ({low:.3g} to {high:.3g})"
    return f"{ratio:.3g} times{spread}"


def _target(result: LabResult) -> str:
    known = [row.target for row in result.steps_to_target if row.target is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    span = f"{low:.3f}" if math.isclose(low, high) else f"{low:.3f} to {high:.3f}, by seed"
    return f"until the loss beyond the trained window is at {span} nats a token"


def model_table(rows: Sequence[LabTraining]) -> Table:
    """Show one line for each decoder that was trained."""
    return (
        ["encoding", "seed", "loss at the end", "seconds"],
        [
            [row.encoding, str(row.seed), shown(row.final_loss, ".4f"), shown(row.seconds, ",.0f")]
            for row in rows
        ],
    )
