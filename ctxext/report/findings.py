"""What several runs found, put together: which numbers may stand side by side, and what they say.

Pure: runs are read by `ctxext.api.report`, drawn by `ctxext.report.page`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ctxext.evaluation.statistics.intervals import wilson
from ctxext.lengths import show_length
from ctxext.report.compare import (
    Difference,
    Z,
    accuracy_differences,
    mean_differences,
    nll_differences,
    number,
)
from ctxext.report.plots import models_of
from ctxext.report.verdict import Evidence, Task, Verdict, copied_to, reach, verdict

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """A run folder as it was read.

    Attributes:
        name: the folder's own name, or the shortest end of its path that tells it from others.
        kind: as in its record, which is its parsed ctxext.json.
        document: its `<kind>.json`, where the kind has one.
        log: the lines of its log.jsonl.
        notes: what was wrong with its files.
    """

    name: str
    kind: str
    record: Row
    document: Row | None = None
    log: Sequence[Row] = ()
    notes: Sequence[str] = ()


@dataclass
class PerplexityGroup:
    """Perplexities that may be compared: the same text, protocol and stride.

    Attributes:
        about: what they were measured on, a phrase.
        window, target: trained and extended to, tokens; marked in the curves.
        key_tokens: of LongPPL: the documents' own objects.
    """

    about: str
    window: int | None
    target: int | None = None
    results: list[Row] = field(default_factory=list)
    by_position: list[Row] = field(default_factory=list)
    key_tokens: list[Row] = field(default_factory=list)

    @property
    def models(self) -> list[str]:
        return models_of([*self.results, *self.by_position])

    @property
    def length_differences(self) -> list[Difference]:
        return nll_differences(self.results, ("length",))

    @property
    def position_differences(self) -> list[Difference]:
        return nll_differences(self.by_position, ("start", "end"))


@dataclass
class RetrievalGroup:
    """Retrieval scores that may be compared: the same text, way to score, seed and samples.

    Attributes:
        threshold: as asked for: a share, or `own:0.85`, that share of a model's own accuracy in
            its window.
    """

    about: str
    window: int | None
    threshold: Any = None
    target: int | None = None
    results: list[Row] = field(default_factory=list)
    effective: list[Row] = field(default_factory=list)
    middle: list[Row] = field(default_factory=list)

    @property
    def models(self) -> list[str]:
        return models_of(self.effective or self.results)

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(str(row["task"]) for row in self.effective or self.results))

    @property
    def by_length(self) -> list[Row]:
        """Accuracy by length: rows with model, task, length, accuracy, low, high."""
        return [
            {"model": row["model"], "task": row["task"], **cell}
            for row in self.effective
            for cell in row["by_length"]
        ]

    @property
    def by_choice(self) -> list[Row]:
        """Forced choice over all depths: rows as in `by_length`, with `chance` and the mean gain in
        nats per token; none where it was not asked."""
        cells: dict[tuple[str, str, int], list[Row]] = {}
        for row in self.results:
            if row.get("choice") is not None and number(row.get("samples")):
                cells.setdefault((row["model"], row["task"], row["length"]), []).append(row)
        found: list[Row] = []
        for (model, task, length), rows in cells.items():
            samples = sum(int(row["samples"]) for row in rows)
            right = sum(row["choice"] * row["samples"] for row in rows)
            low, high = wilson(right, samples)
            gains = [row["gain"] for row in rows if row.get("gain") is not None]
            found.append(
                {
                    "model": model,
                    "task": task,
                    "length": length,
                    "accuracy": right / samples,
                    "low": low,
                    "high": high,
                    "chance": rows[0].get("chance"),
                    "gain": sum(gains) / len(gains) if gains else None,
                }
            )
        return found

    @property
    def differences(self) -> list[Difference]:
        return accuracy_differences(self.by_length, ("task", "length"))

    @property
    def unsolved(self) -> list[str]:
        """Tasks that no model solves at any length: they tell nothing about windows."""
        return [
            task
            for task in self.tasks
            if all(row["effective_length"] is None for row in self.effective if row["task"] == task)
        ]


@dataclass(frozen=True)
class CopyingGroup:
    """The demo's own measure of use: a planted string copied from so many tokens back."""

    about: str
    window: int
    results: Sequence[Row]


@dataclass(frozen=True)
class HarnessGroup:
    """Scores of lm-evaluation-harness tasks: rows as in the document, with `model`."""

    rows: Sequence[Row]
    versions: Mapping[str, str]

    @property
    def models(self) -> list[str]:
        return models_of(self.rows)

    @property
    def differences(self) -> list[Difference]:
        return mean_differences(self.rows, ("task", "metric", "filter", "n_shot"))


@dataclass(frozen=True)
class Findings:
    """Everything a report shows, in the order it shows it."""

    runs: Sequence[Run]
    verdicts: Sequence[Verdict]
    perplexity: Sequence[PerplexityGroup]
    retrieval: Sequence[RetrievalGroup]
    copying: Sequence[CopyingGroup]
    configs: Sequence[tuple[str, Row]]
    trainings: Sequence[Run]
    fertility: Sequence[Row]
    harness: HarnessGroup | None
    failed: Sequence[Row]
    warnings: Sequence[tuple[str, str]]
    not_measured: Sequence[str]

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
    perplexity = _perplexity(runs)
    retrieval = _retrieval(runs)
    reached = max((group.target or 0 for group in perplexity), default=0)
    for scores in retrieval:
        scores.target = reached or None
    copying = [
        CopyingGroup(f"in {run.name}", run.document["window"]["original"], run.document["copying"])
        for run in runs
        if run.kind == "demo" and run.document is not None
    ]
    harness = _harness(runs)
    fertility = [run.document for run in runs if run.kind == "fertility" and run.document]
    failed = [
        {"run": run.name, **row}
        for run in runs
        if run.document is not None
        for row in run.document.get("failed") or ()
    ]
    return Findings(
        runs=runs,
        verdicts=[verdict(one) for one in _evidence(perplexity, retrieval, copying)],
        perplexity=perplexity,
        retrieval=retrieval,
        copying=copying,
        configs=_configs(runs),
        trainings=[run for run in runs if any("loss" in line for line in run.log)],
        fertility=fertility,
        harness=harness,
        failed=failed,
        warnings=[
            (run.name, str(text))
            for run in runs
            for text in (*run.notes, *((run.document or {}).get("warnings") or ()))
        ],
        not_measured=_not_measured(perplexity, retrieval, copying, harness, fertility),
    )


def _perplexity(runs: Sequence[Run]) -> list[PerplexityGroup]:
    groups: dict[tuple[Any, ...], PerplexityGroup] = {}
    for run in runs:
        document = run.document
        if document is None or run.kind not in ("eval-ppl", "demo"):
            continue
        if run.kind == "demo":
            window = document["window"]
            group = PerplexityGroup(
                f"{run.name}: held-out text", window["original"], window["target"]
            )
            group.by_position += document["by_position"]
            groups["demo", run.name] = group
            continue
        data = document["data"]
        key = (data["sha256"], document["protocol"], document["stride"], document.get("aligned"))
        group = groups.setdefault(
            key, PerplexityGroup(_about_text(document), document.get("window"))
        )
        results = _renamed(run, document["results"], group.results, ("model", "length"))
        # The buckets carry no hashes: they follow the names that the lengths got.
        names = {row["model"].removesuffix(f" ({run.name})"): row["model"] for row in results}
        buckets = [
            {**row, "model": names.get(row["model"], row["model"])}
            for row in document["by_position"]
        ]
        group.results += results
        placed = {(row["model"], row["start"], row["end"]) for row in group.by_position}
        group.by_position += [
            row for row in buckets if (row["model"], row["start"], row["end"]) not in placed
        ]
        if document.get("key_tokens"):
            group.key_tokens.append(document["key_tokens"])
        reached = [int(row["window"]) for row in group.results if row.get("window")]
        group.target = max(reached, default=None)
    return list(groups.values())


def _about_text(document: Row) -> str:
    data = document["data"]
    tokens = number(data.get("tokens"))
    read = f", {tokens:,.0f} tokens read" if tokens else ""
    aligned = ", the same tokens at every length" if document.get("aligned") else ""
    return (
        f"{data['source']}{read}, {document['protocol']} windows, stride {document['stride']}"
        f"{aligned}"
    )


def _renamed(run: Run, rows: Sequence[Row], known: Sequence[Row], keys: Sequence[str]) -> list[Row]:
    """Rows that are not known yet; a name that already means another checkpoint gets the run's.

    Another one: its hashes differ, or where rows carry none, what was measured at the same place.
    """
    identity = ("config_sha256", "record_sha256", "rope_sha256")
    places = {tuple(row[k] for k in keys): row for row in known}
    hashes = {row["model"]: [row.get(k) for k in identity] for row in known}
    foreign = set()
    for row in rows:
        same = places.get(tuple(row[k] for k in keys))
        if same is not None and any(row.get(k) != same.get(k) for k in ("accuracy", "nll")):
            foreign.add(row["model"])
        if hashes.get(row["model"], own := [row.get(k) for k in identity]) != own:
            foreign.add(row["model"])
    named = [
        row | {"model": f"{row['model']} ({run.name})"} if row["model"] in foreign else row
        for row in map(dict, rows)
    ]
    return [row for row in named if tuple(row[k] for k in keys) not in places]


def _retrieval(runs: Sequence[Run]) -> list[RetrievalGroup]:
    groups: dict[tuple[Any, ...], RetrievalGroup] = {}
    for run in runs:
        document = run.document
        if document is None or run.kind != "eval-retrieval":
            continue
        data = document.get("data") or {}
        key = tuple([data.get("sha256"), *(document.get(k) for k in ("score", "seed", "samples"))])
        if key not in groups:
            about = f"{document.get('samples')} samples a cell, scored by {document.get('score')}"
            source = f"text from {data['source']}, " if data.get("source") else ""
            threshold = document.get("threshold")
            groups[key] = RetrievalGroup(source + about, document.get("window"), threshold)
        group = groups[key]
        results = _renamed(
            run, document["results"], group.results, ("model", "task", "length", "depth")
        )
        names = {row["model"].removesuffix(f" ({run.name})"): row["model"] for row in results}
        group.results += results
        for held, name, keys in (
            (group.effective, "effective", ("model", "task")),
            (group.middle, "middle", ("model", "task", "length")),
        ):
            known = {tuple(row[k] for k in keys) for row in held}
            rows = [
                {**row, "model": names.get(row["model"], row["model"])}
                for row in document.get(name) or ()
            ]
            held += [row for row in rows if tuple(row[k] for k in keys) not in known]
    return list(groups.values())


def _harness(runs: Sequence[Run]) -> HarnessGroup | None:
    rows: list[Row] = []
    versions: dict[str, str] = {}
    for run in runs:
        if run.kind != "eval-harness" or run.document is None:
            continue
        model = str(run.document["model"])
        keys = ("task", "metric", "filter", "n_shot")
        known = {tuple(row[k] for k in keys) for row in rows if row["model"] == model}
        if any(tuple(row[k] for k in keys) in known for row in run.document["tasks"]):
            model = f"{model} ({run.name})"  # measured twice: another checkpoint, or other settings
        versions[model] = str(run.document.get("harness_version"))
        rows += [{"model": model, **row} for row in run.document["tasks"]]
    return HarnessGroup(rows, versions) if rows else None


def _configs(runs: Sequence[Run]) -> list[tuple[str, Row]]:
    """Each distinct config diff, under the names of the runs that have it."""
    found: list[tuple[list[str], Row]] = []
    for run in runs:
        diff = run.record.get("config_diff")
        if not isinstance(diff, Mapping) or not diff:
            continue
        for names, known in found:
            if known == diff:
                names.append(run.name)
                break
        else:
            found.append(([run.name], diff))
    return [(", ".join(names), diff) for names, diff in found]


def _evidence(
    perplexity: Sequence[PerplexityGroup],
    retrieval: Sequence[RetrievalGroup],
    copying: Sequence[CopyingGroup],
) -> list[Evidence]:
    """One for each model; where several groups measured it, the first counts."""
    measured = [*(g.models for g in perplexity), *(g.models for g in retrieval)]
    models = list(dict.fromkeys(name for names in measured for name in names))
    found = []
    for model in models:
        # By length says more than by position, where a model has both.
        group = next((g for g in perplexity if model in models_of(g.results)), None) or next(
            (g for g in perplexity if model in g.models), None
        )
        asked = next((g for g in retrieval if model in g.models), None)
        tasks: list[Task] = []
        lost: list[tuple[str, int]] = []
        chosen: list[Task] = []
        window = group.window if group else asked.window if asked else None
        if asked is not None:
            tasks = [
                Task(
                    f"{row['task']} by choice" if row.get("metric") == "choice" else row["task"],
                    row["effective_length"],
                    max((cell["length"] for cell in row["by_length"]), default=0),
                    _best(row["by_length"]),
                )
                for row in asked.effective
                if row["model"] == model and row["task"] not in asked.unsolved
            ]
            lost = [
                (str(r["task"]), r["length"])
                for r in asked.middle
                if r["model"] == model and r["lost"]
            ]
            chosen = [_chosen(asked, model, task) for task in asked.unsolved]
        else:
            tasks = _copied(model, copying)
        points, reference, noise = _points(group, model) if group else ([], None, {})
        found.append(Evidence(model, window, points, reference, tasks, lost, chosen, noise))
    return found


def _copied(model: str, copying: Sequence[CopyingGroup]) -> list[Task]:
    for group in copying:
        rows = [row for row in group.results if row["model"] == model]
        if rows:
            points = [(row["distance"], number(row["accuracy"])) for row in rows]
            farthest = max(distance for distance, _ in points)
            return [Task("copying", copied_to(points), farthest, _best(rows))]
    return []


def _chosen(group: RetrievalGroup, model: str, task: str) -> Task:
    """How far the right answer is told from distractors, beyond chance, in a task not solved."""
    rows = [r for r in group.by_choice if r["model"] == model and r["task"] == task]
    points = [(r["length"], -1.0 if r["low"] > (r["chance"] or 0) else 0.0) for r in rows]
    longest = max((row["length"] for row in rows), default=0)
    return Task(task, reach(points, -1.0), longest, _best(rows))


def _best(rows: Sequence[Row]) -> float | None:
    known = [value for row in rows if (value := number(row["accuracy"])) is not None]
    return max(known, default=None)


def _points(
    group: PerplexityGroup, model: str
) -> tuple[list[tuple[int, float | None]], float | None, dict[int, float]]:
    """A model's perplexity by length, or by position where only one length was measured; the first
    model's inside its window in the same measure; and how far the two may be apart by chance at
    each length, nats (95 %)."""
    for rows, key in ((group.results, "length"), (group.by_position, "end")):
        mine = [row for row in rows if row["model"] == model]
        own = [(row[key], number(row.get("perplexity"))) for row in mine]
        first = [row for row in rows if row["model"] == group.models[0]]
        inside = [
            (row[key], value, number(row.get("stderr")) or 0.0)
            for row in first
            if row[key] <= (group.window or 0) and (value := number(row.get("perplexity")))
        ]
        if own and inside:
            _, reference, error = max(inside)
            noise = {
                row[key]: Z * math.hypot(number(row.get("stderr")) or 0.0, error) for row in mine
            }
            return own, reference, noise
    return [(row["length"], number(row.get("perplexity"))) for row in group.results
            if row["model"] == model], None, {}  # fmt: skip


def _not_measured(
    perplexity: Sequence[PerplexityGroup],
    retrieval: Sequence[RetrievalGroup],
    copying: Sequence[CopyingGroup],
    harness: HarnessGroup | None,
    fertility: Sequence[Row],
) -> list[str]:
    """Sentences about what nobody should conclude from this report."""
    found = []
    if not perplexity:
        found.append("Perplexity: ctxext eval-ppl measures it by length and by position.")
    if not retrieval:
        also = " beyond the demo's copying" if copying else ""
        found.append(
            f"Whether far text is used{also}: ctxext eval-retrieval measures it. Perplexity that "
            "stays low does not show it."
        )
    asked = {name for group in retrieval for name in group.models}
    for group in perplexity if retrieval else ():
        missing = [name for name in group.models if name not in asked]
        if missing:
            found.append(f"Retrieval of {', '.join(missing)}.")
    for group in perplexity:
        lengths = {row["length"] for row in group.results}
        for name in models_of(group.results):
            left = lengths - {row["length"] for row in group.results if row["model"] == name}
            if left:
                found.append(
                    f"Perplexity of {name} at {', '.join(show_length(n) for n in sorted(left))}."
                )
        if group.results and group.target and max(lengths) < group.target:
            found.append(
                f"Perplexity from {show_length(max(lengths))} up to the target, "
                f"{show_length(group.target)}."
            )
    for scores in retrieval:
        if scores.unsolved:
            found.append(
                f"Anything by {', '.join(scores.unsolved)}: no model solves it at any length, so "
                "it counts in no verdict."
            )
    if perplexity and not any(group.key_tokens for group in perplexity):
        found.append(
            "LongPPL: eval-ppl --key-tokens looks only at the tokens that depend on far text."
        )
    if harness is None:
        found.append("Downstream tasks and short-context retention: ctxext eval-harness.")
    if not fertility:
        found.append("What other languages cost: ctxext fertility.")
    if len(perplexity) == 1:
        found.append("Any text but the one named above.")
    return found
