"""How far perplexity holds, and how far retrieval: two bars a model, on a length axis."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ctxext.report.charts.style import (
    LIGHT_TEXT,
    NEUTRAL,
    length_axis,
    line_style,
    mark_windows,
    short,
)
from ctxext.report.findings.verdict import Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_reach(
    axis: "Axes",
    verdicts: Sequence[Verdict],
    *,
    ends: tuple[int, int],
    window: int | None,
    target: int | None,
    order: Sequence[str],
) -> None:
    """Draw the bars in each model's colour: hollow for perplexity, full for retrieval.

    What retrieval may reach is hatched.

    Args:
        ends: of the axis, tokens.
        window, target: trained and extended to, tokens; marked.
        order: all models of the page; a model's place gives its colour.
    """
    shortest, longest = ends
    for at, verdict in enumerate(reversed(verdicts)):
        color = line_style(order.index(verdict.model))["color"]
        for name, y, reach, measured in (
            ("stable", at + 0.2, verdict.stable_to, verdict.stable_measured),
            ("used", at - 0.2, verdict.used_to, verdict.use_measured),
        ):
            axis.barh(
                y, (reach or shortest) - shortest, left=shortest, height=0.34,
                gid=f"{name}-{len(verdicts) - 1 - at}", edgecolor=color, linewidth=1.5,
                color=color if name == "used" else "none",
            )  # fmt: skip
            perhaps = verdict.perhaps_used_to if name == "used" else None
            if perhaps and perhaps > (reach or 0):
                start = reach or shortest
                axis.barh(
                    y, perhaps - start, left=start, height=0.34, color="none", edgecolor=color,
                    linewidth=0, hatch="////",
                )  # fmt: skip
            elif not reach:
                axis.annotate(
                    "nowhere" if measured else "not measured", (shortest, y), xytext=(4, 0),
                    textcoords="offset points", va="center", fontsize=8, color=LIGHT_TEXT,
                )  # fmt: skip
    for label, face, hatch in (
        ("perplexity holds to", "none", ""), ("retrieval holds to", NEUTRAL, ""),
        ("perhaps", "none", "////"),
    ):  # fmt: skip
        if label != "perhaps" or any(verdict.perhaps_used_to for verdict in verdicts):
            axis.barh(
                0, 0, color=face, edgecolor=NEUTRAL, label=label, hatch=hatch,
                linewidth=0 if hatch else 1.5,
            )  # fmt: skip
    lengths = [shortest]
    while lengths[-1] * 2 <= longest:
        lengths.append(lengths[-1] * 2)
    length_axis(axis, sorted({*lengths[1:], longest}), "tokens")
    axis.set_xlim(shortest, longest * 1.12)
    axis.set_yticks(range(len(verdicts)), [short(v.model, 22) for v in reversed(verdicts)])
    axis.grid(visible=False, axis="y")
    axis.tick_params(axis="y", length=0)
    mark_windows(axis, (shortest + 1, longest), window, target)
