"""How much is retrieved, by length or by distance; and how far each model reaches."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ctxext.report.plots import Rows, models_of
from ctxext.report.style import COLORS, LIGHT_TEXT, length_axis, line_style, mark_window, short
from ctxext.report.verdict import Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_accuracy(
    axis: "Axes",
    rows: Rows,
    *,
    key: str,
    label: str,
    window: int | None,
    target: int | None = None,
    threshold: float | None = None,
    line: str = "threshold",
) -> None:
    """Accuracy in percent, one curve for each model.

    Args:
        rows: with `model`, `accuracy`, the key, and perhaps `low` and `high`, shares of 1.
        key: `length` or `distance`, in tokens; label: of its axis.
        window, target: tokens, marked.
        threshold: share of 1, a line; line: what it is called.
    """
    places = sorted({row[key] for row in rows})
    models = models_of(rows)
    for index, model in enumerate(models):
        own = sorted((r for r in rows if r["model"] == model), key=lambda r: int(r[key]))
        style = line_style(index)
        # Intervals at one length would cover each other.
        shift = 2 ** (0.02 * (index - (len(models) - 1) / 2))
        axis.plot(
            [r[key] * shift for r in own],
            [100 * r["accuracy"] for r in own],
            label=short(model),
            gid=f"accuracy-{index}",
            **style,
        )
        known = [r for r in own if r.get("low") is not None and r.get("high") is not None]
        axis.vlines(
            [r[key] * shift for r in known],
            [100 * r["low"] for r in known],
            [100 * r["high"] for r in known],
            color=style["color"],
            linewidth=1,
        )
    length_axis(axis, places, label)
    axis.set_ylim(-4, 104)
    axis.set_ylabel("right answers, %")
    if window and places[0] <= window <= places[-1]:
        mark_window(axis, window, "trained window", above=True)
    if target and target != window and places[0] <= target <= places[-1]:
        mark_window(axis, target, "target", above=True)
    if threshold:
        axis.axhline(
            100 * threshold, color=LIGHT_TEXT, linewidth=1, linestyle=":", zorder=1,
            label=f"{line} {100 * threshold:.3g} %",
        )  # fmt: skip


def draw_reach(
    axis: "Axes",
    verdicts: Sequence[Verdict],
    *,
    shortest: int,
    longest: int,
    window: int | None,
    target: int | None,
) -> None:
    """How far perplexity holds, and how far retrieval: two bars a model, on a length axis.

    Args:
        shortest, longest: ends of the axis, tokens.
    """
    for at, one in enumerate(reversed(verdicts)):
        for part, (reach, color, label) in enumerate(
            (
                (one.stable_to, COLORS[5], "perplexity holds to"),
                (one.used_to, COLORS[1], "retrieval holds to"),
            )
        ):
            y = at + 0.2 * (1 - 2 * part)
            kind = ("stable", "used")[part]
            gid = f"{kind}-{len(verdicts) - 1 - at}"
            axis.barh(
                y, (reach or shortest) - shortest, left=shortest, height=0.36, color=color, gid=gid,
                label=label if at == 0 else None,
            )  # fmt: skip
            if not reach:
                measured = (one.stable_measured, one.use_measured)[part]
                axis.annotate(
                    "nowhere" if measured else "not measured", (shortest, y), xytext=(4, 0),
                    textcoords="offset points", va="center", fontsize=8, color=LIGHT_TEXT,
                )  # fmt: skip
    lengths = [shortest]
    while lengths[-1] * 2 <= longest:
        lengths.append(lengths[-1] * 2)
    length_axis(axis, sorted({*lengths[1:], longest}), "tokens")
    axis.set_xlim(shortest, longest * 1.12)
    axis.set_yticks(range(len(verdicts)), [short(v.model, 22) for v in reversed(verdicts)])
    axis.grid(visible=False, axis="y")
    axis.tick_params(axis="y", length=0)
    for tokens, text in ((window, "trained window"), (target, "target")):
        if tokens and shortest < tokens <= longest:
            mark_window(axis, tokens, text, above=True)
