"""What has to be said of perplexities beside their numbers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ctxext.runs.rows.perplexity import LengthRow, PerplexityRow, unlike_counts
from ctxext.runs.rows.row import models_of

if TYPE_CHECKING:  # torch would come with it
    from ctxext.evaluation.perplexity.scores import Protocols


def strides(protocols: "Protocols", lengths: Sequence[int]) -> list[str]:
    """Warn where the stride was not the one asked for, or leaves tokens between windows out."""
    asked, lengths = protocols.stride, sorted(set(lengths))
    if protocols.aligned:
        scored = min(protocols.aligned) - 1
        return [
            f"--aligned scores {scored} of every {asked} tokens, since windows of {scored + 1} "
            f"have no more before their end than --stride moves: --stride {scored} scores all, or "
            "leave out the short lengths"
        ] if scored < asked else []  # fmt: skip
    if protocols.protocol == "disjoint":
        return []  # strides of its own
    shorter = [length for length in lengths if length < asked]
    return [
        f"--stride {asked} is longer than windows of {listed(shorter)} tokens: there the stride "
        f"was {listed([protocols.step(length) for length in shorter])}"
    ] if shorter else []  # fmt: skip


def unlike(protocols: "Protocols", rows: Sequence[LengthRow]) -> list[str]:
    """Warn where lengths do not score the same tokens, so that their numbers differ by that too."""
    counts = unlike_counts(rows)
    if counts is None:
        return []
    stride = f"--stride {protocols.stride}"
    how = "--protocol disjoint" if protocols.protocol == "disjoint" else stride
    return [
        f"{how}: lengths do not score the same tokens ({counts[0]:,} to {counts[1]:,}), since the "
        "first of each window has nothing before it; --aligned compares lengths on the same ones"
    ]


def exploded(rows: Sequence[PerplexityRow]) -> list[str]:
    """Warn of models with a perplexity that no number holds."""
    models = models_of([row for row in rows if row.note is not None])
    return [
        f"{model}: a perplexity is beyond what a number can hold (null; its nll is there): the "
        "model has exploded"
        for model in models
    ]


def listed(numbers: Sequence[int]) -> str:
    """Write numbers with commas."""
    return ", ".join(map(str, numbers))
