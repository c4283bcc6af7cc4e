"""The verdicts: a card for each model, and the picture of both reaches."""

from typing import TYPE_CHECKING

from ctxext.lengths import show_length
from ctxext.report.charts.style import legend_below, new_figure
from ctxext.report.charts.svg import Chart
from ctxext.report.charts.verdict import draw_reach
from ctxext.report.findings.collected import Findings
from ctxext.report.findings.verdict import TOLERANCE, Verdict
from ctxext.report.page.html import Html, figure, section, tag
from ctxext.report.page.sections.common import WIDTH

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


def summary(findings: Findings) -> Html:
    """Show a verdict for each model, and the picture of both reaches."""
    if not findings.verdicts:
        return Html("")
    cards = [_card(verdict) for verdict in findings.verdicts]
    how = (
        f"Perplexity holds as far as it is not, beyond noise, {100 * (TOLERANCE - 1):.0f} % over "
        "the base's inside its trained window; retrieval as far as its score reaches the threshold "
        "at every length. Perplexity shows that a length is survived, retrieval that it is read."
    )
    return section(
        "verdict", "Verdict", _reach(findings), tag("ul", *cards, class_="verdicts"),
        tag("p", how, class_="note"),
    )  # fmt: skip


def _card(verdict: Verdict) -> Html:
    look, sign = _LOOK.get(verdict.word, ("plain", "–"))
    badge = tag(
        "span", tag("span", sign, aria_hidden="true"), f" {verdict.word}", class_=f"badge {look}"
    )
    return tag("li", tag("strong", verdict.model), badge, tag("p", verdict.sentence))


def _reach(findings: Findings) -> Html:
    if not any(verdict.used_to for verdict in findings.verdicts):
        return Html("")
    window, target = findings.window, findings.target
    ends = [n for verdict in findings.verdicts for n in (verdict.stable_to, verdict.used_to) if n]
    longest = max([*ends, target or 0, window or 0])
    shortest = max(1, min([*ends, window or longest]) // 2)

    def draw() -> "Figure":
        height = 1.2 + 0.42 * len(findings.verdicts)
        new, (axis,) = new_figure(1, width=WIDTH, height=height)
        draw_reach(
            axis, findings.verdicts, shortest=shortest, longest=longest, window=window,
            target=target,
        )  # fmt: skip
        legend_below(new, axis)
        return new

    tips = {}
    for at, verdict in enumerate(findings.verdicts):
        for gid, word, reach in (
            ("stable", "perplexity", verdict.stable_to), ("used", "retrieval", verdict.used_to),
        ):  # fmt: skip
            text = f"to {show_length(reach)}" if reach else "nowhere"
            tips[f"{gid}-{at}"] = [f"{verdict.model}: {word} holds {text}"]
    sentences = " ".join(verdict.sentence for verdict in findings.verdicts)
    chart = Chart(
        "How far each model is stable, and how far it is used",
        f"Two bars a model on a length axis. {sentences}",
        draw,
        tips,
    )
    return figure(chart, "reach", wide=True)
