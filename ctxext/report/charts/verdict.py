"""How far perplexity holds, and how far retrieval: two bars a model, on a length axis."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ctxext.report.charts.style import COLORS, LIGHT_TEXT, length_axis, mark_window, short
from ctxext.report.findings.verdict import Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_reach(
    axis: "Axes",
    verdicts: Sequence[Verdict],
    *,
    shortest: int,
    longest: int,
    window: int | None,
    target: int | None,
) -> None:
    """Draw the bars.

    Args:
        shortest, longest: ends of the axis, tokens.
    """
    for at, verdict in enumerate(reversed(verdicts)):
        for name, offset, reach, measured, color, label in (
            ("stable", 0.2, verdict.stable_to, verdict.stable_measured, COLORS[5],
             "perplexity holds to"),
            ("used", -0.2, verdict.used_to, verdict.use_measured, COLORS[1], "retrieval holds to"),
        ):  # fmt: skip
            y, gid = at + offset, f"{name}-{len(verdicts) - 1 - at}"
            axis.barh(
                y, (reach or shortest) - shortest, left=shortest, height=0.36, color=color, gid=gid,
                label=label if at == 0 else None,
            )  # fmt: skip
            if not reach:
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
