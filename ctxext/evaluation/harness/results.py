"""What goes into lm-evaluation-harness and what comes out, as plain data: nothing is imported."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ctxext.choices import suggestion
from ctxext.errors import BadInput
from ctxext.lengths import show_length
from ctxext.masking import masked
from ctxext.runs.rows.harness import HarnessRow

Counts = Mapping[str, int]
_AT_LENGTH = re.compile(r"[0-9]+")


def unknown_task(name: str, known: Iterable[str], *, own_folder: str | None) -> BadInput:
    """Make the error for a task that the harness does not have, with the nearest ones it has."""
    where = f", nor in --include-path {own_folder}" if own_folder else ""
    return BadInput(
        f"--tasks has {name!r}, which is no task, group or tag of the harness{where}",
        suggestion(name, known, "lm-eval ls tasks prints all of them", most=3),
    )


def lengths_for(task: str, lengths: Sequence[int]) -> list[int] | str:
    """Write `max_seq_lengths` as a task reads it: RULER a list of numbers, BABILong one of `4k`.

    Raises:
        BadInput: several lengths for BABILong, which takes one.
    """
    if not task.startswith("babilong"):
        return list(lengths)
    if len(lengths) > 1:
        raise BadInput(f"--tasks {task} takes one of --lengths, and {len(lengths)} are given")
    return show_length(lengths[0])


def chosen_documents(lengths: Sequence[int] | None, total: int, limit: int) -> list[int]:
    """Choose the first `limit` documents; of a task with several lengths, of each length.

    The harness's own limit takes the first documents of all, which are all of the first length.

    >>> chosen_documents([512, 512, 1024, 1024], 4, 1)
    [0, 2]
    """
    if lengths is None:
        return list(range(min(limit, total)))
    taken: dict[int, int] = {}
    out = []
    for index, length in enumerate(lengths):
        taken[length] = taken.get(length, 0) + 1
        if taken[length] <= limit:
            out.append(index)
    return out


def rows_of(
    results: Mapping[str, Any], *, at_length: Mapping[str, Counts], cut: Counts
) -> list[HarnessRow]:
    """Make a row for each task, metric and filter of the harness's results, groups last.

    Args:
        results: what `lm_eval.evaluate` returned.
        at_length: for tasks that are measured at lengths: documents read at each. Their metrics
            are called like the lengths, and those of other lengths hold -1, not a score.
        cut: documents of each task that did not fit in the window.
    """
    groups = set(results.get("group_subtasks", {}))
    names = sorted(results["results"], key=lambda name: name in groups)
    rows = []
    for name in names:
        for key, value in results["results"][name].items():
            metric, comma, filtered = key.partition(",")
            if not comma or metric.endswith("_stderr") or not _is_number(value):
                continue
            samples = _samples(results, name)
            if _AT_LENGTH.fullmatch(metric) and at_length:
                of_task = at_length.get(name)
                if of_task is not None:
                    samples = of_task.get(metric)
                if value == -1 or (of_task is not None and samples is None):
                    continue
            stderr = results["results"][name].get(f"{metric}_stderr,{filtered}")
            rows.append(
                HarnessRow(
                    task=name,
                    version=results.get("versions", {}).get(name),
                    n_shot=results.get("n-shot", {}).get(name),
                    metric=metric,
                    filter=filtered,
                    value=float(value),
                    stderr=float(stderr) if _is_number(stderr) else None,
                    samples=samples,
                    cut=cut.get(name, 0),
                )
            )
    return rows


def _samples(results: Mapping[str, Any], name: str) -> int | None:
    counts = results.get("n-samples", {}).get(name)
    if counts is not None:
        return int(counts["effective"])
    members = [_samples(results, n) for n in results.get("group_subtasks", {}).get(name, [])]
    known = [n for n in members if n is not None]
    return sum(known) if known else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def publishable(value: Any, folders: Sequence[Path]) -> Any:
    """Turn whatever the harness reports into JSON, without secrets or this machine's paths.

    Args:
        folders: their own paths are cut off wherever they stand, also within a longer text.
    """
    if isinstance(value, Mapping):
        return {publishable(str(k), folders): publishable(v, folders) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [publishable(v, folders) for v in value]
    if isinstance(value, str):
        return _without_paths(masked(value), folders)
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no word for it
    if value is None or isinstance(value, bool | int | float):
        return value
    item = getattr(value, "item", None)  # a numpy number
    return publishable(item() if callable(item) else f"<{type(value).__name__}>", folders)


def _without_paths(text: str, folders: Sequence[Path]) -> str:
    for folder in sorted((str(f) for f in folders), key=len, reverse=True):
        if folder in ("/", "."):
            continue
        text = text.replace(f"{folder}/", "").replace(folder, Path(folder).name)
    if text.startswith("/") and "\n" not in text and len(text) < 1000 and Path(text).exists():
        return Path(text).name
    return text
