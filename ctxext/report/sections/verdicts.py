"""The verdicts: a card for each model, and the picture of both reaches."""

from typing import TYPE_CHECKING

from ctxext.lengths import show_length
from ctxext.report.accuracy import draw_reach
from ctxext.report.charts import Chart
from ctxext.report.findings import Findings
from ctxext.report.html import Html, figure, section, tag
from ctxext.report.sections.common import WIDTH
from ctxext.report.style import legend_below, new_figure
from ctxext.report.verdict import TOLERANCE, Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LOOK = {
    "used": ("good", "✓"),
    "retrieves": ("good", "✓"),
    "used in part": ("fair", "◐"),
    "used, but not the middle": ("fair", "◐"),
    "holds in part": ("fair", "◐"),
    "stable, not used": ("fair", "◐"),
    "collapses": ("bad", "✕"),
    "worse everywhere": ("bad", "✕"),
    "does not retrieve": ("bad", "✕"),
}


def summary(found: Findings) -> Html:
    """A verdict for each model, and the picture of both reaches."""
    if not found.verdicts:
        return Html("")
    cards = [_card(one) for one in found.verdicts]
    how = (
        f"Perplexity holds as far as it is not, beyond noise, {100 * (TOLERANCE - 1):.0f} % over "
        "the base's inside its trained window; retrieval as far as its score reaches the threshold "
        "at every length. Perplexity shows that a length is survived, retrieval that it is read."
    )
    return section(
        "verdict", "Verdict", _reach(found), tag("ul", *cards, class_="verdicts"),
        tag("p", how, class_="note"),
    )  # fmt: skip


def _card(one: Verdict) -> Html:
    kind, sign = _LOOK.get(one.word, ("plain", "–"))
    badge = tag(
        "span", tag("span", sign, aria_hidden="true"), f" {one.word}", class_=f"badge {kind}"
    )
    return tag("li", tag("strong", one.model), badge, tag("p", one.sentence))


def _reach(found: Findings) -> Html:
    verdicts = [one for one in found.verdicts if one.stable_to or one.used_to]
    if not verdicts or not any(one.used_to for one in verdicts):
        return Html("")
    window, target = found.window, found.target
    ends = [n for one in found.verdicts for n in (one.stable_to, one.used_to) if n]
    longest = max([*ends, target or 0, window or 0])
    shortest = max(1, min([*ends, window or longest]) // 2)

    def draw() -> "Figure":
        new, (axis,) = new_figure(1, width=WIDTH, height=1.2 + 0.42 * len(found.verdicts))
        draw_reach(
            axis, found.verdicts, shortest=shortest, longest=longest, window=window, target=target
        )
        legend_below(new, axis)
        return new

    tips = {}
    for at, one in enumerate(found.verdicts):
        for kind, word, reach in (
            ("stable", "perplexity", one.stable_to), ("used", "retrieval", one.used_to),
        ):  # fmt: skip
            text = f"to {show_length(reach)}" if reach else "nowhere"
            tips[f"{kind}-{at}"] = [f"{one.model}: {word} holds {text}"]
    chart = Chart(
        "How far each model is stable, and how far it is used",
        "Two bars a model on a length axis. " + " ".join(one.sentence for one in found.verdicts),
        draw,
        tips,
    )
    return figure(chart, "reach", wide=True)
