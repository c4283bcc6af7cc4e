"""The rotary pairs of a checkpoint: tokens for a turn against the window, and what methods change.

Above, one curve against the trained window and the target; below, a small chart for each method
with the factor by which it slows each pair. Every line is named where it stands.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ctxext.encodings.turns import ALIASED_TOKENS, FAST_TURNS, Bands
from ctxext.lengths import counted, show_length
from ctxext.report.charts.standalone import write_svg
from ctxext.report.charts.style import (
    COLORS,
    LIGHT_TEXT,
    NEUTRAL,
    blank_figure,
    plain_axis,
    plain_text,
    save_figure,
    short,
    title_figure,
)
from ctxext.report.charts.svg import Chart

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

_WIDTH, _TOP, _ROW, _COLUMNS = 9.0, 3.7, 1.55, 4  # inches, and small charts in a row
_MOST_MARKS: Final = 32  # beyond, marks run into each other
_TEXT: Final = 8.0
_SLOW: Final = "#eeeeee"
_MIDDLE: Final = "#f6f6f6"
_CHANGED: Final = COLORS[5]


@dataclass(frozen=True)
class SlowedPairs:
    """What a method does to each pair.

    Attributes:
        name: of the method.
        factors: how many times more slowly each pair turns; infinite where it stops.
        note: what else it changes, a few words.
        recommended: whether it is the one that is recommended.
    """

    name: str
    factors: Sequence[float]
    note: str = ""
    recommended: bool = False


@dataclass(frozen=True)
class Wavelengths:
    """What the chart shows of one checkpoint.

    Attributes:
        model: whose, for the title.
        trained, now: tokens for a turn of each pair, unscaled and as it is.
        bands: of the unscaled pairs in the trained window.
        original, claimed, target: windows in tokens.
        methods: empty where there is no target.
        undrawn: names of methods that give no frequencies here.
    """

    model: str
    trained: Sequence[float]
    now: Sequence[float]
    bands: Bands
    original: int
    claimed: int
    target: int | None = None
    methods: Sequence[SlowedPairs] = ()
    undrawn: Sequence[str] = ()

    @property
    def aliased(self) -> int:
        """How many pairs turn by more than half a circle a token."""
        return sum(tokens < ALIASED_TOKENS for tokens in self.now)

    @property
    def scaled(self) -> bool:
        """Whether the pairs turn otherwise than they did before any scaling."""
        pairs = zip(self.trained, self.now, strict=True)
        return any(not math.isclose(a, b, rel_tol=1e-6) for a, b in pairs)


def plot_wavelengths(path: Path, waves: Wavelengths) -> None:
    """Draw to a .png, light, or to an .svg that follows the theme of whoever looks at it."""
    title = f"Rotary pairs of {short(waves.model)}"
    if path.suffix == ".svg":
        tips = {
            "now": [
                f"pair {at}: {tokens:,.4g} tokens for a turn" for at, tokens in enumerate(waves.now)
            ]
        }
        chart = Chart(title, _described(waves), lambda: draw_wavelengths(waves, title), tips)
        write_svg(path, chart, "wavelengths")
        return
    with plain_text():
        save_figure(draw_wavelengths(waves, title), path)


def _described(waves: Wavelengths) -> str:
    """Write what the chart shows, for who does not see it."""
    bands = waves.bands
    text = (
        f"{len(waves.trained)} rotary pairs, from {min(waves.now):.4g} to {max(waves.now):,.4g} "
        f"tokens for a turn. {bands.complete} complete a turn in the trained window of "
        f"{waves.original:,} tokens, {len(bands.slow)} never do; {waves.aliased} alias."
    )
    for method in waves.methods:
        low, high = min(method.factors), max(method.factors)
        text += f" {method.name} slows them by {low:.3g} to {high:.3g}."
    return text


def draw_wavelengths(waves: Wavelengths, title: str) -> "Figure":
    """Draw the figure: the pairs above, a small chart for each method below."""
    if not waves.methods:
        figure = blank_figure(_WIDTH, _TOP)
        axis = figure.add_subplot()
    else:
        title += f", from {show_length(waves.original)} to {show_length(waves.target or 0)}"
        rows = math.ceil(len(waves.methods) / _COLUMNS)
        figure = blank_figure(_WIDTH, _TOP + rows * _ROW)
        grid = figure.add_gridspec(2, 1, height_ratios=[_TOP, rows * _ROW])
        axis = figure.add_subfigure(grid[0]).add_subplot()
        _draw_methods(figure.add_subfigure(grid[1]), rows, waves)
    plain_axis(axis)
    _draw_turns(axis, waves)
    title_figure(figure, title)
    return figure


def _draw_methods(figure: "SubFigure", rows: int, waves: Wavelengths) -> None:
    """Draw a small chart for each method; only those at the edge of the grid name their axes."""
    count = len(waves.methods)
    for at, method in enumerate(waves.methods):
        axis = figure.add_subplot(rows, _COLUMNS, at + 1)
        plain_axis(axis)
        _draw_slowed(axis, method, waves)
        name = f"{method.name}, recommended" if method.recommended else method.name
        lines = method.note.count("\n") + bool(method.note)
        axis.set_title(name, loc="left", fontsize=9, fontweight="bold", pad=4 + 9 * lines)
        axis.tick_params(labelleft=at % _COLUMNS == 0, labelbottom=at + _COLUMNS >= count)
        if at % _COLUMNS == 0:
            axis.set_ylabel("slower by", fontsize=_TEXT)
        if at // _COLUMNS == rows - 1:
            axis.set_xlabel("rotary pair", fontsize=_TEXT)
    if waves.undrawn:
        figure.supxlabel(
            f"not drawn: {', '.join(waves.undrawn)} (ctxext inspect --target says why)",
            fontsize=_TEXT, color=LIGHT_TEXT, x=0.01, ha="left",
        )  # fmt: skip


def _draw_turns(axis: "Axes", waves: Wavelengths) -> None:
    """Draw tokens for a turn, the two windows, and the bands with their names."""
    from matplotlib.ticker import MaxNLocator

    pairs = range(len(waves.trained))
    _shade(axis, waves.bands, len(pairs))
    axis.set_yscale("log", base=2)
    drawn = [waves.trained, waves.now] if waves.scaled else [waves.now]
    finite = [tokens for curve in drawn for tokens in curve if math.isfinite(tokens)]
    low = min(1.0, *finite) / 1.1
    high = max(*finite, waves.claimed, waves.target or 0) * 2.5
    axis.set_ylim(low, high)
    if waves.scaled:
        axis.plot(pairs, waves.trained, gid="trained", **_look(len(pairs), NEUTRAL))
        _name_end(axis, waves.trained, "as trained", NEUTRAL, below=True)
        _name_end(axis, waves.now, "as it is", "#000000", below=False)
    axis.plot(pairs, waves.now, gid="now", **_look(len(pairs), "#000000"))
    for tokens, text, va in (
        (waves.original, "trained window", "top"),
        (waves.target or waves.claimed, "target" if waves.target else "claimed", "bottom"),
    ):
        if va == "top" or tokens != waves.original:
            axis.axhline(tokens, color="#666666", linewidth=1, linestyle="--", zorder=1)
            axis.annotate(
                f"{text} {show_length(tokens)}", (1.01, tokens), fontsize=_TEXT, color=LIGHT_TEXT,
                xycoords=("axes fraction", "data"), va=va, annotation_clip=False,
            )  # fmt: skip
    _mark_aliases(axis, waves, low)
    _name_bands(axis, waves.bands, len(pairs))
    axis.yaxis.set_major_formatter(lambda value, _: _tokens(value))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_ylabel("tokens for one full turn")
    axis.set_xlabel("rotary pair, fastest first")


def _tokens(value: float) -> str:
    """Write a power of two as people say it."""
    mebi = 1024 * 1024
    return f"{value / mebi:g}M" if value >= mebi else show_length(round(value))


def _name_end(axis: "Axes", curve: Sequence[float], text: str, color: str, *, below: bool) -> None:
    """Name a curve at its last finite point, inside the axes."""
    at = max(i for i, tokens in enumerate(curve) if math.isfinite(tokens))
    axis.annotate(
        text, (at, curve[at]), (-2, -26 if below else 6), textcoords="offset points",
        fontsize=_TEXT, color=color, ha="right", va="center",
    )  # fmt: skip


def _mark_aliases(axis: "Axes", waves: Wavelengths, low: float) -> None:
    """Hatch what turns too fast to be told apart from token to token, and say how many do."""
    axis.axhspan(low, ALIASED_TOKENS, facecolor="none", edgecolor="#cccccc", hatch="////", lw=0)
    said = counted(waves.aliased, "pair") if waves.aliased else "no pair"
    axis.annotate(
        f"aliases below {ALIASED_TOKENS:g} tokens a turn: {said}", (0.99, ALIASED_TOKENS * 1.15),
        xycoords=("axes fraction", "data"), fontsize=_TEXT, color=LIGHT_TEXT, ha="right",
        va="bottom",
    )  # fmt: skip


def _draw_slowed(axis: "Axes", method: SlowedPairs, waves: Wavelengths) -> None:
    """Draw the factor of each pair; what stops, or is beyond all proportion, stands at the top."""
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

    scale = (waves.target or waves.original) / waves.original
    most = max(scale**2, 8.0)
    shown = [f for each in waves.methods for f in each.factors if f <= most]
    low, high = min(1.0, *shown), max(scale, *shown)
    top = high * (high / low) ** 0.18
    _shade(axis, waves.bands, len(method.factors))
    axis.set_yscale("log")
    axis.set_ylim(low / (high / low) ** 0.1, top * (high / low) ** 0.08)
    axis.axhline(scale, color="#666666", linewidth=0.8, linestyle="--", zorder=1)
    drawn = [factor if factor <= most else math.nan for factor in method.factors]
    axis.plot(range(len(drawn)), drawn, **_look(len(drawn), _CHANGED))
    _mark_beyond(axis, method.factors, most, top)
    axis.annotate(
        method.note, (0, 1.03), xycoords="axes fraction", fontsize=7, color=LIGHT_TEXT, va="bottom"
    )
    ticks = {1.0, scale, *([low] if low < 0.7 else []), *([scale**2] if scale**2 <= top else [])}
    axis.yaxis.set_major_locator(FixedLocator(sorted(ticks)))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}x")
    axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axis.tick_params(labelsize=_TEXT)


def _mark_beyond(axis: "Axes", factors: Sequence[float], most: float, top: float) -> None:
    """Mark the pairs that stop, and those slowed by more than is drawn, and say which it is."""
    beyond = [at for at, factor in enumerate(factors) if factor > most]
    if not beyond:
        return
    still = sum(math.isinf(factor) for factor in factors)
    finite = max((factors[at] for at in beyond if math.isfinite(factors[at])), default=None)
    words = [
        *([f"to {finite:,.0f}x"] if finite else []),
        *([f"{counted(still, 'pair')} stop{'s' if still == 1 else ''}"] if still else []),
    ]
    axis.plot(
        beyond, [top] * len(beyond), color=_CHANGED, marker="x", markersize=4, linestyle="none"
    )
    axis.annotate(
        ", ".join(words), (beyond[0], top), (-5, 0), textcoords="offset points", fontsize=7,
        color=_CHANGED, ha="right", va="center",
    )  # fmt: skip


def _look(pairs: int, color: str) -> dict[str, Any]:
    """Give line and marks of a curve over so many pairs."""
    size = 4 if pairs <= _MOST_MARKS else 1.6
    return {"color": color, "linewidth": 1.6, "marker": "o", "markersize": size}


def _shade(axis: "Axes", bands: Bands, pairs: int) -> None:
    """Shade the pairs that turn less than often, and those that never complete a turn."""
    for band, color in ((bands.middle, _MIDDLE), (bands.slow, _SLOW)):
        if band:
            axis.axvspan(band[0] - 0.5, band[-1] + 0.5, color=color, lw=0, zorder=0)
    axis.set_xlim(-0.5, pairs - 0.5)


def _name_bands(axis: "Axes", bands: Bands, pairs: int) -> None:
    """Write over the axes which pairs are meant, and how many they are."""
    texts = {
        "fast": f"{FAST_TURNS} turns and more",
        "middle": f"1 to {FAST_TURNS} turns",
        "slow": "never a full turn",
    }
    for name, band in bands.named().items():
        if not band:
            continue
        share = len(band) / pairs
        words = f"{counted(len(band), 'pair')}\n{texts[name]}" if share > 0.15 else str(len(band))
        axis.annotate(
            words, ((band[0] + band[-1]) / 2, 1.01), xycoords=("data", "axes fraction"),
            fontsize=_TEXT, color=LIGHT_TEXT, ha="center", va="bottom",
        )  # fmt: skip
