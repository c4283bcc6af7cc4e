"""A small RoPE decoder stretched: its pairs one by one, methods before and after, steps needed."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from ctxext.lengths import show_length
from ctxext.report.charts.panels import Panel
from ctxext.report.charts.style import COLORS, LIGHT_TEXT, error_bars, mark_windows, short
from ctxext.report.findings.lab import (
    BothWays,
    StepsToTarget,
    both_ways,
    steps_to_target,
)
from ctxext.report.tables.lab import ratio_words
from ctxext.report.tables.text import measured
from ctxext.runs.rows.lab import AS_TRAINED, LabExtension, LabPair, LabResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SLOWED, _STOPPED, _LEFT, _METHOD = COLORS[5], COLORS[1], COLORS[4], COLORS[5]
_ROW: Final = 0.27  # inches of a method
_NEVER: Final = 1.15  # times the most steps: where those stand that never got there
_Series = tuple[str, str, str, str, str]  # field, label, gid, colour, marker


def pair_panels(result: LabResult) -> list[Panel]:
    """Draw what each rotary pair costs over its wavelength: near, and far; none where unknown."""
    near: list[_Series] = [
        ("slowed_near", "this pair alone slowed", "slowed", _SLOWED, "o"),
        ("stopped_near", "this pair alone stopped", "stopped", _STOPPED, "s"),
    ]
    far: list[_Series] = [("left_far", "all slowed but this pair", "left", _LEFT, "D")]
    panels = [
        _pair_panel(result, "Near: one pair slowed or stopped, the others as trained", near),
        _pair_panel(result, "Far: one pair left as trained, all others slowed", far),
    ]
    return [panel for panel in panels if panel is not None]


def _pair_panel(result: LabResult, title: str, series: Sequence[_Series]) -> Panel | None:
    rows = sorted(result.pairs, key=lambda row: row.wavelength)
    window = result.train_length
    known = [(name, [row for row in rows if getattr(row, name) is not None])
             for name, *_ in series]  # fmt: skip
    if not any(own for _, own in known):
        return None
    ends = rows[0].wavelength / 1.3, max(rows[-1].wavelength, window) * 1.3

    def draw(axis: "Axes") -> None:
        axis.axhline(0, color="#666666", linewidth=0.8, zorder=1)
        axis.axvspan(window, ends[1], color="#f6f6f6", lw=0, zorder=0)
        for (name, own), (_, label, gid, color, marker) in zip(known, series, strict=True):
            values = [getattr(row, name) for row in own]
            errors = [getattr(row, f"{name}_stderr") or 0.0 for row in own]
            x = [row.wavelength for row in own]
            axis.plot(x, values, label=label, gid=gid, color=color, marker=marker, markersize=5,
                      linewidth=1.4)  # fmt: skip
            bars = [(at, y - e, y + e) for at, y, e in zip(x, values, errors, strict=True)]
            error_bars(axis, bars, color)
        _wavelength_axis(axis, ends)
        axis.set_ylabel("nats a token added to the loss")
        mark_windows(axis, (1, math.ceil(ends[1])), window, None)

    tips = {
        gid: [_pair(row, name) for row in own]
        for (name, own), (_, _, gid, _, _) in zip(known, series, strict=True)
    }
    words = " ".join(
        _worst(label, name, own, window)
        for (name, own), (_, label, *_) in zip(known, series, strict=True)
    )
    return Panel(title, words, draw, tips)


def _pair(row: LabPair, name: str) -> str:
    cost = measured(getattr(row, name), getattr(row, f"{name}_stderr"), "+.3f")
    return f"pair {row.pair}, {row.wavelength:,.0f} tokens a turn: {cost}"


def _worst(label: str, name: str, rows: Sequence[LabPair], window: int) -> str:
    """Say which pair costs the most, and on which side of the window."""
    if not rows:
        return ""
    worst = max(rows, key=lambda row: float(getattr(row, name)))
    side = "less" if worst.wavelength <= window else "more"
    return (
        f"{label[0].upper()}{label[1:]}: most for {_pair(worst, name)}, {side} than the trained "
        f"window of {show_length(window)}."
    )


def _wavelength_axis(axis: "Axes", ends: tuple[float, float]) -> None:
    """Make an axis of tokens for a turn, base 2, with a few ticks."""
    first, last = math.ceil(math.log2(ends[0])), math.floor(math.log2(ends[1]))
    step = max(1, math.ceil((last - first + 1) / 8))
    ticks = [2.0**power for power in range(first, last + 1, step)]
    axis.set_xscale("log", base=2)
    axis.set_xlim(*ends)
    axis.set_xticks(ticks, [_tokens(tick) for tick in ticks])
    axis.minorticks_off()
    axis.set_xlabel("tokens for a full turn (shaded: more than the window)")


def _tokens(tokens: float) -> str:
    return show_length(round(tokens)) if 1 <= tokens < 2**20 else f"{tokens:.0e}"


def extension_panels(result: LabResult) -> list[Panel]:
    """Draw each method before and after training: the loss near and far, and far recall."""
    pairs = both_ways(result.extensions)
    asked: list[tuple[str, str]] = [
        ("near", "Near: loss in the trained window"), ("far", "Far: loss beyond it"),
        ("recall", "Far: what copying from there gains"),
    ]  # fmt: skip
    return [
        _extension_panel(pairs, name, title)
        for name, title in asked
        if any(getattr(row, name) is not None for row in result.extensions)
    ]


def _extension_panel(pairs: Sequence[BothWays], name: str, title: str) -> Panel:
    lines = list(reversed(pairs))
    steps = max((pair.after.steps for pair in pairs if pair.after), default=0)
    marks: list[tuple[str, str, str, Callable[[BothWays], LabExtension | None]]] = [
        (f"{name}-before", "as extended", "none", lambda pair: pair.before),
        (f"{name}-after", f"after {steps:,} LoRA steps", _METHOD, lambda pair: pair.after),
    ]

    def points(of: Callable[[BothWays], LabExtension | None]) -> list[tuple[int, LabExtension]]:
        rows = [(at, of(pair)) for at, pair in enumerate(lines)]
        return [(at, row) for at, row in rows if row and getattr(row, name) is not None]

    def draw(axis: "Axes") -> None:
        for at, pair in enumerate(lines):
            both = [getattr(row, name) for row in (pair.before, pair.after) if row]
            if len(both) == 2 and None not in both:
                axis.plot(both, [at, at], color="#aaaaaa", linewidth=1.2, zorder=1)
        for gid, label, face, of in marks:
            drawn = points(of)
            if drawn:
                axis.plot(
                    [getattr(row, name) for _, row in drawn], [at for at, _ in drawn], gid=gid,
                    label=label, linestyle="none", marker="o", markersize=6, color=_METHOD,
                    markerfacecolor=face, zorder=3,
                )  # fmt: skip
            for at, row in drawn:
                value, error = getattr(row, name), getattr(row, f"{name}_stderr") or 0.0
                axis.hlines(at, value - error, value + error, color=_METHOD, linewidth=1)
        _method_axis(axis, [pair.method for pair in lines])
        _mark_own(axis, pairs, name)
        axis.set_xlabel("nats a token gained" if name == "recall" else "nats a token")

    tips = {gid: [_extended(row, name) for _, row in points(of)] for gid, _, _, of in marks}
    words = " ".join(f"{text}." for texts in tips.values() for text in texts[::-1])
    return Panel(title, words, draw, tips, height=1.2 + _ROW * len(lines))


def _mark_own(axis: "Axes", pairs: Sequence[BothWays], name: str) -> None:
    """Mark the loss inside the window of the decoder as it was trained; of a gain, nothing."""
    untouched = next((p.before for p in pairs if p.method == AS_TRAINED), None)
    at = 0.0 if name == "recall" else untouched.near if untouched else None
    if at is None:
        return
    axis.axvline(at, color="#666666", linewidth=1, linestyle="--", zorder=1)
    if name != "recall":
        low, high = axis.get_xlim()
        axis.annotate(
            "near, as trained", (at, 1.01), xycoords=("data", "axes fraction"), fontsize=8,
            color=LIGHT_TEXT, va="bottom", ha="left" if at < (low + high) / 2 else "right",
        )  # fmt: skip


def _extended(row: LabExtension, name: str) -> str:
    loss = measured(getattr(row, name), getattr(row, f"{name}_stderr"))
    return f"{row.method}, {f'{row.steps:,} steps' if row.steps else 'as extended'}: {loss}"


def _method_axis(axis: "Axes", names: Sequence[str]) -> None:
    axis.set_yticks(range(len(names)), [short(name, 22) for name in names])
    axis.set_ylim(-0.6, len(names) - 0.4)
    axis.tick_params(axis="y", length=0)


def steps_panel(result: LabResult) -> Panel | None:
    """Draw the steps of each method to the same loss, a mark for each seed."""
    methods = steps_to_target(result.steps_to_target)
    known = [n for each in methods for n in each.steps.values() if n is not None]
    if not known:
        return None
    most = max(*known, 1)
    lines = methods[::-1]

    def draw(axis: "Axes") -> None:
        for at, each in enumerate(lines):
            for shift, steps in zip(_spread(len(each.steps)), each.steps.values(), strict=True):
                never = steps is None
                axis.plot(
                    [most * _NEVER if steps is None else steps], [at + shift], linestyle="none",
                    marker="x" if never else "o", markersize=6, color=_METHOD,
                )  # fmt: skip
        if any(None in each.steps.values() for each in methods):
            axis.axvline(most * (1 + _NEVER) / 2, color="#666666", linewidth=0.8, linestyle="--")
            axis.annotate("never", (most * _NEVER, 1.01), xycoords=("data", "axes fraction"),
                          fontsize=8, color=LIGHT_TEXT, ha="center", va="bottom")  # fmt: skip
        _method_axis(axis, [each.method for each in lines])
        axis.set_xlim(0, most * (_NEVER + 0.07))
        axis.set_xticks([tick for tick in axis.get_xticks() if tick <= most])
        axis.set_xlabel("LoRA steps, a mark for each seed")

    words = " ".join(_said(each) for each in methods)
    return Panel("Steps to the same loss beyond the window", words, draw,
                 height=1.3 + 0.4 * len(lines))  # fmt: skip


def _spread(count: int) -> list[float]:
    """Place the marks of seeds that need as many steps below each other."""
    return [0.12 * (at - (count - 1) / 2) if count < 6 else 0.0 for at in range(count)]


def _said(each: StepsToTarget) -> str:
    steps = ", ".join("never" if n is None else f"{n:,}" for n in each.steps.values())
    ratio = f"; {each.against} needs {ratio_words(each.ratio, each.ratios)} as many"
    return f"{each.method}: {steps}{ratio if each.ratios and each.method != each.against else ''}."
