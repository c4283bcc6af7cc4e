"""Downstream tasks: scores of the lm-evaluation-harness."""

from ctxext.report.findings.groups import HarnessGroup
from ctxext.report.page.html import Html, data_table, section
from ctxext.report.tables.harness import harness_comparison


def harness_section(group: HarnessGroup | None) -> Html:
    """Show the scores of all models."""
    if group is None:
        return Html("")
    used = ", ".join(sorted(set(group.versions.values())))
    note = f"lm-evaluation-harness {used}; ± is one standard error"
    if len(group.models) > 1:
        note += f"; (noise) = no difference to {group.models[0]} beyond 1.96 errors"
    table = data_table("Scores", harness_comparison(group), note=note, stacked=True)
    return section("harness", "Downstream tasks", table)
