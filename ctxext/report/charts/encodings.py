"""Encodings side by side: loss by position, copying by distance, order, and fluent against read."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ctxext.lengths import show_length
from ctxext.report.charts.panels import Panel
from ctxext.report.charts.perplexity import MOST_NATS, perplexity_axis
from ctxext.report.charts.style import (
    LINES,
    MARKERS,
    NEUTRAL,
    PALE_NEUTRAL,
    error_bars,
    length_axis,
    line_style,
    mark_windows,
    short,
    side_by_side,
)
from ctxext.report.findings.lab import curve_name, longest_recall, readings, shown_variants
from ctxext.report.tables.text import measured, perplexity
from ctxext.runs.rows.lab import LabOrder, LabPosition, LabRecall, LabResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# A place in the style; the same in every run, whichever encodings it has.
_LOOKS: Final = {"rope": 0, "sinusoidal": 1, "none": 3, "learned": 4, "alibi": 5}
_LEAST: Final = 1e-17  # of a change on a logarithmic axis


@dataclass(frozen=True)
class _Curve:
    """A curve with its errors: (place, value, low, high), and a text for each point."""

    label: str
    look: dict[str, Any]
    points: Sequence[tuple[float, float, float, float]]
    texts: Sequence[str]


def encoding_style(encoding: str, variant: int = 0) -> dict[str, Any]:
    """Give the look of an encoding, the same on all charts.

    Args:
        variant: the how manieth thing that was done to it, from 1: hollow, and another mark and
            line for each; 0 = as trained.
    """
    place = _LOOKS.get(encoding, 6)
    look = line_style(place)
    if not variant:
        return look
    mark = MARKERS[(place + variant - 1) % len(MARKERS)]
    line = LINES[1 + (variant - 1) % (len(LINES) - 1)]
    return {**look, "linestyle": line, "marker": mark, "markerfacecolor": "none"}


def position_panel(result: LabResult, only: str = "") -> Panel | None:
    """Draw perplexity by position, one curve for each encoding; None where there is nothing.

    Args:
        only: an encoding in its colours; the others are pale, and have no names.
    """
    chosen = shown_variants(result.by_position, only)
    rows = [row for row in chosen if row.nll is not None and abs(row.nll) < MOST_NATS]
    places = sorted({row.end for row in rows})
    if len(places) < 2:
        return None
    names = list(dict.fromkeys(curve_name(row) for row in rows))
    curves = []
    for name in names:
        own = sorted((row for row in rows if curve_name(row) == name), key=lambda row: row.end)
        first = own[0]
        variants = [n for n in names if n.startswith(f"{first.encoding}, ")]
        look = encoding_style(first.encoding, variants.index(name) + 1 if first.variant else 0)
        ends = own[-1].end < places[-1]
        label = f"{name} (nothing past {show_length(own[-1].end)})" if ends else name
        points = [_perplexity_point(row) for row in own]
        texts = [f"{name}, {show_length(r.start)}-{show_length(r.end)}: {perplexity(r)}"
                 for r in own]  # fmt: skip
        curves.append((first.encoding, _Curve(label, look, points, texts)))

    def draw(axis: "Axes") -> None:
        _draw_curves(axis, "position", curves, places, only)
        length_axis(axis, places, "position, tokens (up to)")
        perplexity_axis(axis)
        mark_windows(axis, (places[0], places[-1]), result.train_length, None)

    return Panel("Perplexity by position", _said(curves, only), draw, _tips("position", curves))


def _perplexity_point(row: LabPosition) -> tuple[float, float, float, float]:
    nll, error = row.nll or 0.0, row.stderr or 0.0
    low, high = max(nll - error, -MOST_NATS), min(nll + error, MOST_NATS)
    return row.end, math.exp(nll), math.exp(low), math.exp(high)


def recall_panel(result: LabResult, only: str = "") -> Panel | None:
    """Draw what a string is worth when it is read again, by distance; `only` as above."""
    rows = [row for row in longest_recall(result.recall) if row.gain is not None]
    places = sorted({row.distance for row in rows})
    if len(places) < 2:
        return None
    where = _rows_of(rows)
    curves = []
    for encoding in dict.fromkeys(row.encoding for row in rows):
        own = [row for row in rows if row.encoding == encoding]
        texts = [f"{encoding}, {row.distance} back: {_recalled(row)}" for row in own]
        points = [_recall_point(row) for row in own]
        curves.append((encoding, _Curve(encoding, encoding_style(encoding), points, texts)))

    def draw(axis: "Axes") -> None:
        axis.axhline(0, color="#666666", linewidth=0.8, zorder=1)
        _draw_curves(axis, "recall", curves, places, only)
        length_axis(axis, _apart(places), f"tokens back to the string ({where})")
        axis.set_ylabel("nats a token gained")
        mark_windows(axis, (places[0], places[-1]), result.train_length, None)

    return Panel("Copying by distance", _said(curves, only), draw, _tips("recall", curves))


def _rows_of(rows: Sequence[LabRecall]) -> str:
    """Write `rows of 512; learned 64`: the longest rows, and who was asked in shorter ones."""
    lengths: dict[str, int] = {}
    for row in rows:
        lengths[row.encoding] = max(row.length, lengths.get(row.encoding, 0))
    longest = max(lengths.values())
    others = [f"{name} {show_length(n)}" for name, n in lengths.items() if n != longest]
    return "; ".join([f"rows of {show_length(longest)}", *others])


def _apart(places: Sequence[int]) -> list[int]:
    """Leave out places whose names on a logarithmic axis would run into the one before."""
    least = 0.08 * math.log2(places[-1] / places[0])
    kept = [places[0]]
    for place in places[1:]:
        if math.log2(place / kept[-1]) >= least:
            kept.append(place)
    return kept


def _recall_point(row: LabRecall) -> tuple[float, float, float, float]:
    gain, error = row.gain or 0.0, row.stderr or 0.0
    return row.distance, gain, gain - error, gain + error


def _recalled(row: LabRecall) -> str:
    copied = "" if row.copied is None else f", {100 * row.copied:.0f} % copied"
    return f"{measured(row.gain, row.stderr, '+.2f')} nats a token{copied}"


def _draw_curves(
    axis: "Axes", gid: str, curves: Sequence[tuple[str, _Curve]], places: Sequence[int], only: str
) -> None:
    """Draw curves with bars of one standard error, side by side; pale but `only`, if given."""
    named = False
    for at, (encoding, curve) in enumerate(curves):
        look, label = curve.look, short(curve.label, 44)
        if only and encoding != only:
            look = {**look, "color": PALE_NEUTRAL, "markerfacecolor": PALE_NEUTRAL, "markersize": 3}
            label, named = "" if named else "the other encodings", True
        shift = side_by_side(at, len(curves), places)
        x = [place * shift for place, *_ in curve.points]
        axis.plot(
            x, [value for _, value, *_ in curve.points], label=label or "_", gid=f"{gid}-{at}",
            zorder=2 if only and encoding != only else 3, **look,
        )  # fmt: skip
        bars = [(place * shift, low, high) for place, _, low, high in curve.points]
        error_bars(axis, bars, look["color"])


def _said(curves: Sequence[tuple[str, _Curve]], only: str) -> str:
    """Say the first and the last point of each curve."""
    told = [curve for encoding, curve in curves if encoding == only or not only]
    return " ".join(f"{curve.texts[0]}; {curve.texts[-1]}." for curve in told)


def _tips(gid: str, curves: Sequence[tuple[str, _Curve]]) -> dict[str, Sequence[str]]:
    return {f"{gid}-{at}": curve.texts for at, (_, curve) in enumerate(curves)}


def order_panel(result: LabResult) -> Panel | None:
    """Draw how far permuted words move the logits: without a mask hollow, with the causal full."""
    rows = [row for row in result.order if row.change is not None]
    if not rows:
        return None
    encodings = list(dict.fromkeys(row.encoding for row in rows))[::-1]
    marks = {"none": ("no mask: every token reads every other", "none", 10),
             "causal": ("causal mask: a token reads those before it", NEUTRAL, 5)}  # fmt: skip

    def draw(axis: "Axes") -> None:
        from matplotlib.ticker import LogLocator

        axis.set_xscale("log")
        for mask, (label, face, size) in marks.items():
            own = [row for row in rows if row.mask == mask]
            if own:
                axis.plot(
                    [_change(row) for row in own], [encodings.index(r.encoding) for r in own],
                    gid=f"order-{mask}", label=label, linestyle="none", marker="o", markersize=size,
                    color=NEUTRAL, markerfacecolor=face, markeredgewidth=1.6,
                )  # fmt: skip
        axis.set_yticks(range(len(encodings)), [short(name, 22) for name in encodings])
        axis.set_ylim(-0.6, len(encodings) - 0.4)
        axis.set_xlim(min(map(_change, rows)) / 5, max([1.0, *map(_change, rows)]) * 2)
        axis.xaxis.set_major_locator(LogLocator(numticks=6))
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")  # no formula
        axis.minorticks_off()
        axis.set_xlabel("change of the last logits, of their own size")
        axis.tick_params(axis="y", length=0)

    tips = {f"order-{mask}": [_order(r) for r in rows if r.mask == mask] for mask in marks}
    words = " ".join(f"{_order(row)}." for row in rows)
    return Panel("Words permuted: what the model notices", words, draw, tips,
                 height=1.4 + 0.36 * len(encodings))  # fmt: skip


def _change(row: LabOrder) -> float:
    return max(row.change or 0.0, _LEAST)


def _order(row: LabOrder) -> str:
    mask = "with the causal mask" if row.mask == "causal" else "without a mask"
    return f"{row.encoding} {mask}: {row.change:.2g}"


def reading_panel(result: LabResult) -> Panel | None:
    """Draw, for each encoding, a line from inside the window (hollow) to far beyond it (full).

    To the right it becomes less fluent, downwards it reads less.
    """
    rows = readings(result)
    if not rows:
        return None

    def draw(axis: "Axes") -> None:
        axis.axhline(0, color="#666666", linewidth=0.8, zorder=1)
        axis.axvline(0, color="#666666", linewidth=0.8, zorder=1)
        for at, row in enumerate(rows):
            look = {**encoding_style(row.name), "markersize": 8}
            begin = {**look, "linestyle": "none", "markerfacecolor": "none"}
            axis.plot([0, row.lost], [row.inside, row.gain], color=look["color"], linewidth=1.2)
            axis.plot([0], [row.inside], **begin)
            axis.plot([row.lost], [row.gain], label=short(row.name), gid=f"reading-{at}", **look)
        axis.margins(0.08)
        axis.set_xlabel("nats a token lost past the window")
        axis.set_ylabel("nats a token gained by copying")

    said = [
        f"{row.name}: {row.lost:+.2f} nats lost past the window; a string is worth "
        f"{row.inside:+.2f} from {row.near} back and {row.gain:+.2f} from {row.at} back"
        for row in rows
    ]
    tips = {f"reading-{at}": [text] for at, text in enumerate(said)}
    return Panel(
        "From inside (hollow) to past the window (full)", ". ".join(said) + ".", draw, tips
    )
