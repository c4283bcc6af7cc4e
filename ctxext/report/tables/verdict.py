"""The verdicts, one line a model, the best first."""

from collections.abc import Sequence

from ctxext.lengths import show_length
from ctxext.report.findings.differences import nats
from ctxext.report.findings.verdict import Verdict, reach_words
from ctxext.report.tables.pivot import Table

VERDICT_NOTE = (
    "far against near: the loss at the longest length minus the model's own inside the trained "
    "window, below 0 where far text helps; inside and far, minus a model: the loss at these two "
    "places minus that model's, below 0 where this one is better. In nats a token (0.01 are 1 % of "
    "perplexity) with the 95 % interval. Perplexity holds to "
    "the length up to which nothing is lost beyond noise (nowhere, if the model costs too much "
    "inside), retrieval to where it surely reaches its threshold"
)


def verdict_table(verdicts: Sequence[Verdict]) -> Table:
    """Show what far text does to each model, and how far perplexity and retrieval hold."""
    firsts = {verdict.first for verdict in verdicts if verdict.first}
    minus = f", minus {firsts.pop()}" if len(firsts) == 1 else ", minus the first"
    return (
        ["model", "verdict", "far against near", f"inside{minus}", f"far{minus}",
         "perplexity holds to", "retrieval holds to"],
        [
            [
                verdict.model,
                verdict.word,
                _far(verdict),
                nats(verdict.cost),
                nats(verdict.behind),
                _reach(verdict.stable_to, None, verdict.stable_measured),
                "not shown"
                if verdict.use == "use not shown"
                else _reach(verdict.used_to, verdict.perhaps_used_to, verdict.use_measured),
            ]
            for verdict in verdicts
        ],
    )  # fmt: skip


def _far(verdict: Verdict) -> str:
    if verdict.far is None:
        return "–"
    return f"{nats(verdict.far.apart)} at {show_length(verdict.far.at)}"


def _reach(tokens: int | None, perhaps: int | None, measured: bool) -> str:
    return reach_words(tokens, perhaps) if measured else "not measured"
