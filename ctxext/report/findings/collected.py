"""What several runs found, put together: which numbers may stand side by side, and what they say.

Pure: runs are read by `ctxext.api.report`, drawn by `ctxext.report.page`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from ctxext.lengths import show_length
from ctxext.report.findings.groups import (
    CopyingGroup,
    HarnessGroup,
    ModelScore,
    PerplexityGroup,
    RetrievalGroup,
    Run,
    Score,
    haystack_name,
)
from ctxext.report.findings.joining import joined
from ctxext.report.findings.reading import read_far
from ctxext.report.findings.verdict import Evidence, Task, Verdict, copied_to, reach, verdict
from ctxext.runs.rows.demo import CopyRow, DemoResult
from ctxext.runs.rows.fertility import FertilityResult
from ctxext.runs.rows.harness import HarnessResult
from ctxext.runs.rows.lab import LabResult
from ctxext.runs.rows.perplexity import LengthRow, PerplexityResult
from ctxext.runs.rows.retrieval import CellRow, PooledRow, RetrievalResult
from ctxext.runs.rows.row import Failed, Identity, models_of

Measured = TypeVar("Measured", LengthRow, CellRow)


@dataclass(frozen=True)
class Findings:
    """Everything a report shows; `failed`, `warnings` and `labs` name the run."""

    runs: Sequence[Run]
    labs: Sequence[tuple[str, LabResult]]
    verdicts: Sequence[Verdict]
    perplexity: Sequence[PerplexityGroup]
    retrieval: Sequence[RetrievalGroup]
    copying: Sequence[CopyingGroup]
    configs: Sequence[tuple[str, Mapping[str, Any]]]
    trainings: Sequence[Run]
    fertility: Sequence[FertilityResult]
    harness: HarnessGroup | None
    failed: Sequence[tuple[str, Failed]]
    warnings: Sequence[tuple[str, str]]
    not_measured: Sequence[str]

    @property
    def models(self) -> list[str]:
        """All models of curves and bars: a model's place gives its look on the whole page."""
        keys = [keys for group in self.perplexity for keys in group.key_tokens]
        measured = [
            *(group.models for group in self.perplexity),
            *(group.models for group in self.retrieval),
            *(models_of(group.results) for group in self.copying),
            *(models_of(each.results) for each in keys),
        ]
        return list(dict.fromkeys(name for names in measured for name in names))

    @property
    def window(self) -> int | None:
        """The first model's trained window, tokens."""
        known = [g.window for g in self.perplexity] + [g.window for g in self.retrieval]
        return next((tokens for tokens in known if tokens), None)

    @property
    def target(self) -> int | None:
        """The longest window that a model was extended to, where a run says so; tokens."""
        return max((group.target or 0 for group in self.perplexity), default=0) or None


def findings(runs: Sequence[Run]) -> Findings:
    """Put runs together; the first model named is what others are compared with."""
    runs = joined(runs)
    perplexity = _perplexity(runs)
    retrieval = _retrieval(runs)
    reached = max((group.target or 0 for group in perplexity), default=0)
    for scores in retrieval:
        scores.target = reached or None
    copying = [
        CopyingGroup(f"in {run.name}", document.window.original, document.copying)
        for run in runs
        if isinstance(document := run.document, DemoResult)
    ]
    harness = _harness(runs)
    fertility = [run.document for run in runs if isinstance(run.document, FertilityResult)]
    measured = [(run, run.document) for run in runs if run.document is not None]
    labs = [(run.name, document) for run, document in measured if isinstance(document, LabResult)]
    # A page of laboratories alone is about no checkpoint.
    not_measured = (
        _not_measured(perplexity, retrieval, copying, harness, fertility)
        if len(labs) < len(runs)
        else []
    )
    return Findings(
        runs=runs,
        labs=labs,
        verdicts=sorted(
            (verdict(evidence) for evidence in _evidence(perplexity, retrieval, copying)),
            key=lambda each: each.rank,
        ),
        perplexity=perplexity,
        retrieval=retrieval,
        copying=copying,
        configs=_configs(runs),
        trainings=[run for run in runs if run.log],
        fertility=fertility,
        harness=harness,
        failed=[(run.name, row) for run, document in measured for row in document.failed],
        warnings=[
            (run.name, text)
            for run in runs
            for text in (*run.notes, *(run.document.warnings if run.document else ()))
        ],
        not_measured=[*not_measured, *_beyond_the_lab(labs)],
    )


def _perplexity(runs: Sequence[Run]) -> list[PerplexityGroup]:
    groups: dict[tuple[Any, ...], PerplexityGroup] = {}
    for run in runs:
        document = run.document
        if isinstance(document, DemoResult):
            window = document.window
            group = PerplexityGroup(
                f"{run.name}: held-out text", window.original, window.target, text="held-out text"
            )
            group.by_position += document.by_position
            groups["demo", run.name] = group
        if not isinstance(document, PerplexityResult):
            continue
        key = (
            document.data.sha256,
            document.protocol,
            document.stride,
            document.aligned,
            document.bos,
        )
        about, text = _about_text(document), document.data.source
        group = groups.setdefault(key, PerplexityGroup(about, document.window, text=text))
        results = _renamed(run, document.results, group.results, lambda row: row.nll)
        # The buckets carry no hashes: they follow the names that the lengths got.
        names = _names(run, results)
        buckets = [replace(b, model=names.get(b.model, b.model)) for b in document.by_position]
        group.results += results
        placed = {(row.model, row.place) for row in group.by_position}
        group.by_position += [row for row in buckets if (row.model, row.place) not in placed]
        if document.key_tokens is not None:
            group.key_tokens.append(document.key_tokens)
        group.target = max((row.window for row in group.results if row.window), default=None)
    return list(groups.values())


def _about_text(document: PerplexityResult) -> str:
    data = document.data
    read = f", {data.tokens:,.0f} tokens read" if data.tokens else ""
    return f"{data.source}{read}, {document.how_read}"


def _renamed(
    run: Run,
    rows: Sequence[Measured],
    known: Sequence[Measured],
    value: Callable[[Measured], float | None],
) -> list[Measured]:
    """Return the rows not known yet; a name that already means another checkpoint gets the run's.

    Another one: its hashes differ, or where rows carry none, what was measured at the same place.
    """
    places = {(row.model, row.place): value(row) for row in known}
    hashes = {row.model: Identity.of(row) for row in known}
    foreign = {
        row.model
        for row in rows
        if not Identity.of(row).same_files(hashes.get(row.model, Identity.of(row)))
        or places.get((row.model, row.place), value(row)) != value(row)
    }
    named = [
        replace(row, model=f"{row.model} ({run.name})") if row.model in foreign else row
        for row in rows
    ]
    return [row for row in named if (row.model, row.place) not in places]


def _names(run: Run, rows: Sequence[LengthRow] | Sequence[CellRow]) -> dict[str, str]:
    """Map the names in a run's document to what they are called here."""
    return {row.model.removesuffix(f" ({run.name})"): row.model for row in rows}


def _retrieval(runs: Sequence[Run]) -> list[RetrievalGroup]:
    groups: dict[tuple[Any, ...], RetrievalGroup] = {}
    for run in runs:
        document = run.document
        if not isinstance(document, RetrievalResult):
            continue
        data = document.data
        key = (data and data.sha256, document.score, document.seed, document.samples)
        if key not in groups:
            about = f"{document.samples} samples a cell, scored by {document.score}"
            text = haystack_name(document)
            source = f"text from {text}, " if text else ""
            groups[key] = RetrievalGroup(
                source + about, document.window, document.threshold, text=text
            )
        group = groups[key]
        results = _renamed(run, document.results, group.results, lambda row: row.accuracy)
        names = _names(run, results)
        group.results += results
        tasks = {(row.model, row.task) for row in group.effective}
        effective = [replace(r, model=names.get(r.model, r.model)) for r in document.effective]
        group.effective += [row for row in effective if (row.model, row.task) not in tasks]
        places = {(row.model, row.task, row.length) for row in group.middle}
        middle = [replace(row, model=names.get(row.model, row.model)) for row in document.middle]
        group.middle += [r for r in middle if (r.model, r.task, r.length) not in places]
    return list(groups.values())


def _harness(runs: Sequence[Run]) -> HarnessGroup | None:
    scores: list[ModelScore] = []
    versions: dict[str, str] = {}
    for run in runs:
        document = run.document
        if not isinstance(document, HarnessResult):
            continue
        model = document.model
        known = {score.place for score in scores if score.model == model}
        if any(row.place in known for row in document.tasks):
            model = f"{model} ({run.name})"  # measured twice: another checkpoint, or other settings
        versions[model] = str(document.harness_version)
        scores += [ModelScore(model, row) for row in document.tasks]
    return HarnessGroup(scores, versions) if scores else None


def _configs(runs: Sequence[Run]) -> list[tuple[str, Mapping[str, Any]]]:
    """List each distinct config diff, under the names of the runs that have it."""
    distinct: list[tuple[list[str], Mapping[str, Any]]] = []
    for run in runs:
        diff = run.record.config_diff
        if not diff:
            continue
        for names, known in distinct:
            if known == diff:
                names.append(run.name)
                break
        else:
            distinct.append(([run.name], diff))
    return [(", ".join(names), diff) for names, diff in distinct]


def _evidence(
    perplexity: Sequence[PerplexityGroup],
    retrieval: Sequence[RetrievalGroup],
    copying: Sequence[CopyingGroup],
) -> list[Evidence]:
    """Gather the evidence for each model; where several groups measured it, the first counts."""
    measured = [*(g.models for g in perplexity), *(g.models for g in retrieval)]
    models = dict.fromkeys(name for names in measured for name in names)
    evidence = []
    for model in models:
        # By length says more than by position, where a model has both.
        group = next((g for g in perplexity if model in models_of(g.results)), None) or next(
            (g for g in perplexity if model in g.models), None
        )
        asked = next((g for g in retrieval if model in g.models), None)
        window = group.window if group else asked.window if asked else None
        evidence.append(
            Evidence(
                model, window, read_far(group, model) if group else None,
                tasks=_solved(asked, model) if asked else _copied(model, copying),
                lost=[(r.task, r.length) for r in asked.middle if r.model == model and r.lost]
                if asked
                else [],
                chosen=[_chosen(asked, model, task) for task in asked.unsolved] if asked else [],
            )
        )  # fmt: skip
    return evidence


def _solved(group: RetrievalGroup, model: str) -> list[Task]:
    """Tell how far a model holds each task that some model solves."""
    return [
        Task(
            f"{row.task} by choice" if row.metric == "choice" else row.task,
            row.effective_length,
            max((pool.length for pool in row.by_length), default=0),
            _best(row.by_length),
            row.perhaps_length,
        )
        for row in group.effective
        if row.model == model and row.task not in group.unsolved
    ]


def _copied(model: str, copying: Sequence[CopyingGroup]) -> list[Task]:
    for group in copying:
        rows = [row for row in group.results if row.model == model]
        if rows:
            points = [(row.distance, row.accuracy) for row in rows]
            farthest = max(distance for distance, _ in points)
            return [Task("copying", copied_to(points), farthest, _best(rows))]
    return []


def _chosen(group: RetrievalGroup, model: str, task: str) -> Task:
    """Tell how far, beyond chance, a right answer is told from distractors in an unsolved task."""
    scores = [s for s in group.by_choice if s.model == model and s.task == task]
    points = [(s.length, -1.0 if (s.low or 0) > (s.chance or 0) else 0.0) for s in scores]
    longest = max((score.length for score in scores), default=0)
    return Task(task, reach(points, -1.0), longest, _best(scores))


def _best(rows: Sequence[PooledRow] | Sequence[CopyRow] | Sequence[Score]) -> float | None:
    return max((row.accuracy for row in rows if row.accuracy is not None), default=None)


def _beyond_the_lab(labs: Sequence[tuple[str, LabResult]]) -> list[str]:
    sizes = [result.parameters for _, result in labs]
    if not sizes:
        return []
    return [
        f"Large models: the laboratory's decoders have up to {max(sizes):,} parameters, trained on "
        "one kind of text. What holds for them is a hint, not a law."
    ]


def _not_measured(
    perplexity: Sequence[PerplexityGroup],
    retrieval: Sequence[RetrievalGroup],
    copying: Sequence[CopyingGroup],
    harness: HarnessGroup | None,
    fertility: Sequence[FertilityResult],
) -> list[str]:
    """List sentences about what nobody should conclude from this report."""
    sentences = []
    if not perplexity:
        sentences.append("Perplexity: ctxext eval-ppl measures it by length and by position.")
    if not retrieval:
        also = " beyond the demo's copying" if copying else ""
        sentences.append(
            f"Whether far text is used{also}: ctxext eval-retrieval measures it. Perplexity that "
            "stays low does not show it."
        )
    asked = {name for group in retrieval for name in group.models}
    for group in perplexity if retrieval else ():
        missing = [name for name in group.models if name not in asked]
        if missing:
            sentences.append(f"Retrieval of {', '.join(missing)}.")
    for group in perplexity:
        lengths = {row.length for row in group.results}
        for name in models_of(group.results):
            left = lengths - {row.length for row in group.results if row.model == name}
            if left:
                sentences.append(
                    f"Perplexity of {name} at {', '.join(show_length(n) for n in sorted(left))}."
                )
        if group.results and group.target and max(lengths) < group.target:
            sentences.append(
                f"Perplexity from {show_length(max(lengths))} up to the target, "
                f"{show_length(group.target)}."
            )
    for scores in retrieval:
        if scores.unsolved:
            sentences.append(
                f"Anything by {', '.join(scores.unsolved)}: no model solves it at any length, so "
                "it counts in no verdict."
            )
    if perplexity and not any(group.key_tokens for group in perplexity):
        sentences.append(
            "LongPPL: eval-ppl --key-tokens looks only at the tokens that depend on far text."
        )
    if harness is None:
        sentences.append("Downstream tasks and short-context retention: ctxext eval-harness.")
    if not fertility:
        sentences.append("What other languages cost: ctxext fertility.")
    if len(perplexity) == 1:
        sentences.append("Any text but the one named above.")
    return sentences
