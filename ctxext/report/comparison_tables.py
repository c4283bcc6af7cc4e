"""Several runs side by side, as rows of text: the same for the terminal and for the page."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from ctxext.checkpoints.config.patch import ABSENT
from ctxext.lengths import show_length
from ctxext.report.compare import Difference, number
from ctxext.report.findings import HarnessGroup, RetrievalGroup, Row
from ctxext.report.plots import Rows, models_of
from ctxext.report.tables import Table, percent, shown
from ctxext.report.verdict import Verdict

NLL_NOTE = (
    "nats per token, ± 1.96 sqrt(se1² + se2²); (noise) = that interval holds 0. Both scored the "
    "same text, so their errors go together and this is cautious."
)
SHARE_NOTE = (
    "percentage points with Newcombe's 95 % interval from the two Wilson intervals; (noise) = it "
    "holds 0"
)


def verdict_table(verdicts: Sequence[Verdict]) -> Table:
    """Columns and rows: one row for each model."""
    return (
        ["model", "verdict", "perplexity holds to", "retrieval holds to"],
        [
            [
                one.model,
                one.word,
                _reach(one.stable_to, one.stable_measured),
                _reach(one.used_to, one.use_measured),
            ]
            for one in verdicts
        ],
    )


def _reach(tokens: int | None, measured: bool) -> str:
    if tokens:
        return show_length(tokens)
    return "nowhere" if measured else "not measured"


def show_place(place: tuple[Any, ...]) -> str:
    """`2k` or `256-512`."""
    return "-".join(show_length(n) for n in place)


def nll_difference_table(differences: Sequence[Difference]) -> Table:
    """Columns and rows: one row for each model but the first, one column for each place."""
    return _by_place(differences, show_place, _nll_cell)


def _nll_cell(one: Difference) -> str:
    margin = "" if one.high is None else f" ± {one.high - one.difference:.3f}"
    return f"{one.difference:+.3f}{margin}{_noise(one)}"


def _noise(one: Difference) -> str:
    return " (noise)" if one.beyond_noise is False else ""


def _by_place(
    differences: Sequence[Difference],
    head: Callable[[tuple[Any, ...]], str],
    cell: Callable[[Difference], str],
) -> Table:
    places = sorted({one.place for one in differences})
    cells = {(one.model, one.place): cell(one) for one in differences}
    models = list(dict.fromkeys(one.model for one in differences))
    against = differences[0].against if differences else ""
    return (
        [f"model, minus {against}", *(head(place) for place in places)],
        [[m, *(cells.get((m, place), "–") for place in places)] for m in models],
    )


def accuracy_table(group: RetrievalGroup) -> Table:
    """Columns and rows: one row for each task and model, one column for each length."""
    rows = group.by_length
    lengths = sorted({row["length"] for row in rows})
    cells = {(r["task"], r["model"], r["length"]): _accuracy(r) for r in rows}
    return (
        ["task", "model", *(show_length(n) for n in lengths)],
        [
            [task, model, *(cells.get((task, model, n), "–") for n in lengths)]
            for task in group.tasks
            for model in group.models
        ],
    )


def _accuracy(row: Row) -> str:
    low, high = number(row.get("low")), number(row.get("high"))
    interval = "" if low is None or high is None else f" [{100 * low:.0f}, {100 * high:.0f}]"
    value = number(row["accuracy"])
    return "–" if value is None else f"{100 * value:.0f} %{interval}"


def choice_table(group: RetrievalGroup) -> Table:
    """Columns and rows as `accuracy_table`: forced choice, and the gain in nats per token."""
    rows = group.by_choice
    lengths = sorted({row["length"] for row in rows})
    cells = {
        (r["task"], r["model"], r["length"]): f"{_accuracy(r)}, {shown(r['gain'], '+.2f')}"
        for r in rows
    }
    pairs = dict.fromkeys((str(row["task"]), str(row["model"])) for row in rows)
    return (
        ["task", "model", *(show_length(n) for n in lengths)],
        [
            [task, model, *(cells.get((task, model, n), "–") for n in lengths)]
            for task, model in pairs
        ],
    )


def accuracy_difference_table(differences: Sequence[Difference]) -> Table:
    """Columns and rows: one row for each task and model but the first, a column for each length."""
    lengths = sorted({one.place[1] for one in differences})
    cells = {(one.place[0], one.model, one.place[1]): _share_cell(one) for one in differences}
    pairs = list(dict.fromkeys((one.place[0], one.model) for one in differences))
    against = differences[0].against if differences else ""
    return (
        ["task", f"model, minus {against}", *(show_length(n) for n in lengths)],
        [
            [task, model, *(cells.get((task, model, n), "–") for n in lengths)]
            for task, model in pairs
        ],
    )


def _share_cell(one: Difference) -> str:
    if one.low is None or one.high is None:
        return f"{100 * one.difference:+.0f}"
    interval = f"[{100 * one.low:+.0f}, {100 * one.high:+.0f}]"
    return f"{100 * one.difference:+.0f} {interval}{_noise(one)}"


def effective_table(group: RetrievalGroup) -> Table:
    """Columns and rows: one row for each model, one column for each task."""
    cells = {
        (row["model"], row["task"]): show_length(row["effective_length"])
        + (" by choice" if row.get("metric") == "choice" else "")
        if row["effective_length"]
        else "none"
        for row in group.effective
    }
    above = threshold_words(group.threshold)
    return (
        [f"effective length ({above})" if above else "effective length", *group.tasks],
        [[m, *(cells.get((m, task), "–") for task in group.tasks)] for m in group.models],
    )


def threshold_words(threshold: Any) -> str:
    """`at least 85.6 %`, or `at least 85 % of its own in its window`; nothing where it is unknown.

    >>> threshold_words("0.856"), threshold_words("own:0.85")
    ('at least 85.6 %', 'at least 85 % of its own in its window')
    """
    text = str(threshold)
    own = text.startswith("own:")
    try:
        share = 100 * float(text.removeprefix("own:"))
    except ValueError:
        return ""
    return f"at least {share:g} %" + (" of its own in its window" if own else "")


def middle_table(rows: Rows) -> Table:
    """Columns and rows: one row for each model, task and length."""
    return (
        ["model", "task", "length", "middle", "ends", "middle minus ends", "lost in the middle"],
        [
            [
                str(row["model"]),
                str(row["task"]),
                show_length(row["length"]),
                percent(row["middle"]),
                percent(row["ends"]),
                f"{percent(row['difference'], '+.0f')} [{percent(row['low'], '+.0f')}, "
                f"{percent(row['high'], '+.0f')}]",
                "yes" if row["lost"] else "no",
            ]
            for row in rows
        ],
    )


def cells_table(rows: Rows) -> Table:
    """The cells of one model at one task: one row for each depth, one column for each length."""
    lengths = sorted({row["length"] for row in rows})
    cells = {(row["depth"], row["length"]): _cell(row) for row in rows}
    return (
        ["depth", *(show_length(n) for n in lengths)],
        [
            [f"{100 * depth:.0f} %", *(cells.get((depth, n), "–") for n in lengths)]
            for depth in sorted({row["depth"] for row in rows})
        ],
    )


def _cell(row: Row) -> str:
    gain = number(row.get("gain"))
    choice = number(row.get("choice"))
    parts = [_accuracy(row)]
    parts += [f"choice {100 * choice:.0f} %"] if choice is not None else []
    parts += [f"gain {gain:+.2f}"] if gain is not None else []
    return ", ".join(parts)


def harness_comparison(group: HarnessGroup) -> Table:
    """Columns and rows: one row for each task and metric, one column for each model."""
    keys = ("task", "metric", "filter", "n_shot")
    places = list(dict.fromkeys(tuple(row.get(k) for k in keys) for row in group.rows))
    cells = {(*(r.get(k) for k in keys), r["model"]): _harness_cell(r) for r in group.rows}
    noise = {
        (*one.place, one.model): _noise(one) if one.beyond_noise is not None else ""
        for one in group.differences
    }
    return (
        ["task", "metric", "shots", *group.models],
        [
            [
                str(place[0]),
                str(place[1]) if place[2] in (None, "none") else f"{place[1]} ({place[2]})",
                "–" if place[3] is None else str(place[3]),
                *(
                    cells.get((*place, m), "–") + noise.get((*place, m), "")
                    for m in group.models
                ),
            ]
            for place in places
        ],
    )  # fmt: skip


def _harness_cell(row: Row) -> str:
    stderr = number(row.get("stderr"))
    return shown(row.get("value"), ".4f") + ("" if stderr is None else f" ± {stderr:.4f}")


def fertility_comparison(documents: Sequence[Row]) -> Table:
    """Several tokenizers: one row for each language, the window in characters of each."""
    names = _distinct([str(document["model"]) for document in documents])
    languages = list(dict.fromkeys(str(r["language"]) for d in documents for r in d["results"]))
    cells = {
        (name, str(row["language"])): (
            f"{row['window_characters']:,} ({shown(row['tokens_per_character'], '.2f')})"
        )
        for name, document in zip(names, documents, strict=True)
        for row in document["results"]
    }
    return (
        ["language", *names],
        [[one, *(cells.get((name, one), "–") for name in names)] for one in languages],
    )


def _distinct(names: Sequence[str]) -> list[str]:
    out: list[str] = []
    for name in names:
        while name in out:
            name += "'"
        out.append(name)
    return out


def config_table(diff: Row) -> Table:
    """A config diff: key, before, after; keys inside a block stand on lines of their own."""
    rows = []
    for key, pair in diff.items():
        before, after = pair if isinstance(pair, list | tuple) and len(pair) == 2 else ("?", pair)
        if isinstance(before, dict | None) and isinstance(after, dict):
            inside = before or {}
            for name in dict.fromkeys([*inside, *after]):
                one, other = inside.get(name, ABSENT), after.get(name, ABSENT)
                if one != other:
                    rows.append([f"{key}.{name}", _json(one), _json(other)])
        else:
            rows.append([str(key), _json(before), _json(after)])
    return ["key", "before", "after"], rows


def _json(value: Any) -> str:
    return "absent" if value == ABSENT else json.dumps(value, ensure_ascii=False)


def models_and_tasks(rows: Rows) -> list[tuple[str, str]]:
    """Each model with each task that it has rows for."""
    return [
        (model, task)
        for task in dict.fromkeys(str(row["task"]) for row in rows)
        for model in models_of([row for row in rows if row["task"] == task])
    ]
