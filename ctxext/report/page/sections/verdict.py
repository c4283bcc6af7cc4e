"""The verdicts: a card for each model, and the picture of both reaches."""

from typing import TYPE_CHECKING

from ctxext.report.charts.style import chart_title, legend_below, new_figure
from ctxext.report.charts.svg import Chart
from ctxext.report.charts.verdict import draw_reach
from ctxext.report.findings.collected import Findings
from ctxext.report.findings.reading import TOLERANCE
from ctxext.report.findings.verdict import Verdict, reach_words
from ctxext.report.page.html import Html, data_table, figure, section, tag
from ctxext.report.page.sections.common import WIDTH
from ctxext.report.tables.verdict import VERDICT_NOTE, verdict_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIGNS = {"good": "✓", "fair": "◐", "bad": "✕", "plain": "–"}
_FEW = 4  # models: each gets its sentence


def summary(findings: Findings) -> Html:
    """Show all models in one table, the picture of both reaches, and sentences where they help."""
    verdicts = findings.verdicts
    if not verdicts:
        return Html("")
    told = verdicts if len(verdicts) <= _FEW else [each for each in verdicts if _has_more(each)]
    cells = verdict_table(verdicts)
    table = data_table("Models, the best first", cells, note=VERDICT_NOTE, stacked=True)
    cards = tag("ul", *(_card(verdict) for verdict in told), class_="verdicts")
    how = (
        "Perplexity shows that a length is survived, retrieval that it is read. Losses are held "
        "to the model's own inside the trained window, on the same text; a model collapses where "
        f"perplexity is surely more than {100 * (TOLERANCE - 1):.0f} % higher, and costs too much "
        "inside where that holds against the first model at the same length. Retrieval holds as "
        "far as its score reaches the threshold at every length."
    )
    return section(
        "verdict", "Verdict", table, _reach(findings), cards if told else "",
        tag("p", how, class_="note"),
    )  # fmt: skip


def _has_more(verdict: Verdict) -> bool:
    """Tell whether a sentence says what the table does not."""
    return verdict.use == "used but not the middle" or verdict.costs_too_much


def _look(verdict: Verdict) -> str:
    if verdict.step == "collapses" or verdict.costs_too_much:
        return "bad"
    if verdict.use is None and verdict.step is None:
        return "plain"
    far_is_used = verdict.use == "used"
    if far_is_used and verdict.step in (None, "gains", "holds"):
        return "good"
    return "bad" if verdict.step is None and verdict.use == "not used" else "fair"


def _card(verdict: Verdict) -> Html:
    look = _look(verdict)
    sign = tag("span", _SIGNS[look], aria_hidden="true")
    badge = tag("span", sign, f" {verdict.word}", class_=f"badge {look}")
    return tag("li", tag("strong", verdict.model), badge, tag("p", verdict.sentence))


def _ends(verdict: Verdict) -> tuple[int | None, ...]:
    return verdict.stable_to, verdict.used_to, verdict.perhaps_used_to


def _reach(findings: Findings) -> Html:
    if not any(each.used_to or each.perhaps_used_to for each in findings.verdicts):
        return Html("")
    window, target = findings.window, findings.target
    ends = [n for verdict in findings.verdicts for n in _ends(verdict) if n]
    longest = max([*ends, target or 0, window or 0])
    shortest = max(1, min([*ends, window or longest]) // 2)

    def draw() -> "Figure":
        height = 1.2 + 0.42 * len(findings.verdicts)
        new, (axis,) = new_figure(1, width=WIDTH, height=height)
        draw_reach(
            axis, findings.verdicts, ends=(shortest, longest), window=window, target=target,
            order=findings.models,
        )  # fmt: skip
        legend_below(new, axis)
        return new

    tips = {}
    for at, verdict in enumerate(findings.verdicts):
        for gid, word, reach, perhaps in (
            ("stable", "perplexity", verdict.stable_to, None),
            ("used", "retrieval", verdict.used_to, verdict.perhaps_used_to),
        ):
            text = f"{verdict.model}: {word} holds to: {reach_words(reach, perhaps)}"
            tips[f"{gid}-{at}"] = [text]
    models = [verdict.model for verdict in findings.verdicts]
    texts = [*(g.text for g in findings.perplexity), *(g.text for g in findings.retrieval)]
    text = ", ".join(dict.fromkeys(text for text in texts if text))
    sentences = " ".join(verdict.sentence for verdict in findings.verdicts)
    chart = Chart(
        chart_title("How far perplexity and retrieval hold", models, text),
        f"Two bars a model on a length axis. {sentences}",
        draw,
        tips,
    )
    return figure(chart, "reach", wide=True)
