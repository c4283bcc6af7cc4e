"""The verdicts, one line a model."""

from collections.abc import Sequence

from ctxext.lengths import show_length
from ctxext.report.findings.verdict import Verdict
from ctxext.report.tables.pivot import Table


def verdict_table(verdicts: Sequence[Verdict]) -> Table:
    """Show how far perplexity and retrieval of each model hold."""
    return (
        ["model", "verdict", "perplexity holds to", "retrieval holds to"],
        [
            [
                verdict.model,
                verdict.word,
                _reach(verdict.stable_to, verdict.stable_measured),
                _reach(verdict.used_to, verdict.use_measured),
            ]
            for verdict in verdicts
        ],
    )


def _reach(tokens: int | None, measured: bool) -> str:
    if tokens:
        return show_length(tokens)
    return "nowhere" if measured else "not measured"
