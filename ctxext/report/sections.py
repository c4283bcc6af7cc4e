"""The parts of the report's page, one function each; an empty string where there is nothing."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ctxext.lengths import show_length
from ctxext.report.accuracy import draw_accuracy, draw_reach
from ctxext.report.bars import by_cost, fertility_figure
from ctxext.report.charts import Chart
from ctxext.report.compare import number
from ctxext.report.comparison_tables import (
    NLL_NOTE,
    SHARE_NOTE,
    accuracy_difference_table,
    accuracy_table,
    cells_table,
    config_table,
    effective_table,
    fertility_comparison,
    harness_comparison,
    middle_table,
    models_and_tasks,
    nll_difference_table,
)
from ctxext.report.findings import CopyingGroup, Findings, PerplexityGroup, RetrievalGroup, Row, Run
from ctxext.report.heat import draw_heat
from ctxext.report.html import Html, bullets, data_table, details, figure, join, section, tag
from ctxext.report.plots import draw_lengths, draw_loss, draw_positions, models_of
from ctxext.report.style import legend_below, new_figure
from ctxext.report.tables import (
    bits_per_byte_table,
    by_length_table,
    by_position_table,
    copying_table,
    fertility_table,
    key_tokens_table,
    percent,
    perplexity,
    shown,
)
from ctxext.report.verdict import COPIED, TOLERANCE, Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH, _HEIGHT = 4.6, 3.7  # inches of a chart: its text is readable on a phone
_HEAT_CELLS = 2000  # more would pass 3 MB; the tables of the others stay
_POINTS = 400  # of a training curve
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


def summary(found: Findings) -> Html:
    """A verdict for each model, and the picture of both reaches."""
    if not found.verdicts:
        return Html("")
    cards = [_card(one) for one in found.verdicts]
    how = (
        f"Perplexity holds as far as it stays within {100 * (TOLERANCE - 1):.0f} % of the base's "
        "inside its trained window; retrieval as far as its accuracy stays above the threshold "
        "(RULER's rule). Perplexity shows that a length is survived, retrieval that it is read."
    )
    return section(
        "verdict", "Verdict", _reach(found), tag("ul", *cards, class_="verdicts"),
        tag("p", how, class_="note"),
    )  # fmt: skip


def _card(one: Verdict) -> Html:
    kind, sign = _LOOK.get(one.word, ("plain", "–"))
    badge = tag(
        "span", tag("span", sign, aria_hidden="true"), f" {one.word}", class_=f"badge {kind}"
    )
    return tag("li", tag("strong", one.model), badge, tag("p", one.sentence))


def _reach(found: Findings) -> Html:
    verdicts = [one for one in found.verdicts if one.stable_to or one.used_to]
    if not verdicts or not any(one.used_to for one in verdicts):
        return Html("")
    window, target = found.window, found.target
    ends = [n for one in found.verdicts for n in (one.stable_to, one.used_to) if n]
    longest = max([*ends, target or 0, window or 0])
    shortest = max(1, min([*ends, window or longest]) // 2)

    def draw() -> "Figure":
        new, (axis,) = new_figure(1, width=_WIDTH, height=1.2 + 0.42 * len(found.verdicts))
        draw_reach(
            axis, found.verdicts, shortest=shortest, longest=longest, window=window, target=target
        )
        legend_below(new, axis)
        return new

    tips = {}
    for at, one in enumerate(found.verdicts):
        for kind, word, reach in (
            ("stable", "perplexity", one.stable_to), ("used", "retrieval", one.used_to),
        ):  # fmt: skip
            text = f"to {show_length(reach)}" if reach else "nowhere"
            tips[f"{kind}-{at}"] = [f"{one.model}: {word} holds {text}"]
    chart = Chart(
        "How far each model is stable, and how far it is used",
        "Two bars a model on a length axis. " + " ".join(one.sentence for one in found.verdicts),
        draw,
        tips,
    )
    return figure(chart, "reach", wide=True)


def perplexity_section(groups: Sequence[PerplexityGroup]) -> Html:
    """Curves and tables by length and by position, differences against the first model."""
    if not groups:
        return Html("")
    parts = [
        tag("p", "Lower is better. Bars, and ± in charts, are 95 %; ± in tables is one standard "
            "error.", class_="note")
    ]  # fmt: skip
    for at, group in enumerate(groups):
        parts.append(tag("h3", group.about))
        charts, tables = [], []
        for rows, key, name, table, differences in (
            (group.results, "length", "window length", by_length_table, group.length_differences),
            (group.by_position, "end", "position", by_position_table, group.position_differences),
        ):
            finite = [row for row in rows if number(row.get("perplexity")) is not None]
            if finite and len({row[key] for row in finite}) > 1:
                draw = draw_lengths if key == "length" else draw_positions
                charts.append(_perplexity_chart(group, finite, key, name, draw, f"ppl{at}-{key}"))
            if rows:
                tables.append(data_table(f"Perplexity by {name}", table(rows)))
            if differences:
                tables.append(
                    data_table(
                        f"Difference of the negative log-likelihood by {name}",
                        nll_difference_table(differences), note=NLL_NOTE,
                    )
                )  # fmt: skip
        bits = bits_per_byte_table(group.results)
        if bits[1]:
            note = "the same unit for every tokenizer"
            tables.append(data_table("Bits per byte of text", bits, note=note))
        parts.append(tag("div", *charts, class_="charts"))
        parts.append(details("Numbers, and which differences exceed noise", *tables))
    return section("perplexity", "Perplexity", *parts)


def _perplexity_chart(
    group: PerplexityGroup,
    rows: Sequence[Row],
    key: str,
    name: str,
    draw_curves: Callable[..., None],
    identity: str,
) -> Html:
    def draw() -> "Figure":
        return _one(
            lambda axis: draw_curves(
                axis, rows, window=group.window, target=group.target, above=True
            )
        )

    tips = {}
    words = []
    for index, model in enumerate(models_of(rows)):
        own = sorted((r for r in rows if r["model"] == model), key=lambda r: int(r[key]))
        gid = f"{'length' if key == 'length' else 'position'}-{index}"
        tips[gid] = [f"{model}, {_at(row)}: {perplexity(row)}" for row in own]
        words.append(
            f"{model}: {perplexity(own[0])} at {_at(own[0])}, {perplexity(own[-1])} at "
            f"{_at(own[-1])}."
        )
    title = f"Perplexity by {name}"
    return figure(Chart(title, f"One curve a model. {' '.join(words)}", draw, tips), identity)


def _at(row: Row) -> str:
    if "length" in row:
        return show_length(row["length"])
    return f"{show_length(row['start'])}-{show_length(row['end'])}"


def _one(draw: Callable[["Axes"], None], *, height: float = _HEIGHT) -> "Figure":
    new, (axis,) = new_figure(1, width=_WIDTH, height=height)
    draw(axis)
    legend_below(new, axis)
    return new


def key_tokens_section(groups: Sequence[PerplexityGroup]) -> Html:
    """LongPPL: perplexity of the tokens that depend on far text."""
    parts: list[str] = []
    for index, found in enumerate(one for group in groups for one in group.key_tokens):
        about = (
            f"Tokens that {found.get('reference')} predicts better with the whole window than with "
            f"the {found.get('context')} tokens before them, by over {found.get('gain')} nats, and "
            f"then with a loss under {found.get('loss')} nats (LongPPL, arXiv:2410.23771)."
        )
        rows = found["results"]
        finite = [row for row in rows if number(row.get("perplexity")) is not None]
        parts.append(tag("p", about))
        if len({row["length"] for row in finite}) > 1:
            group = PerplexityGroup(about, None)
            parts.append(
                tag("div", _perplexity_chart(
                    group, finite, "length", "window length, key tokens only", draw_lengths,
                    f"key{index}",
                ), class_="charts")
            )  # fmt: skip
        parts.append(data_table("Perplexity over key tokens", key_tokens_table(rows)))
    return section("longppl", "LongPPL: tokens that need far text", *parts) if parts else Html("")


def retrieval_section(groups: Sequence[RetrievalGroup]) -> Html:
    """Effective length, accuracy by length, heat maps, and the middle."""
    if not groups:
        return Html("")
    parts: list[str] = []
    for at, group in enumerate(groups):
        parts.append(tag("h3", group.about))
        parts += [_callout(row) for row in group.middle if row["lost"]]
        if group.effective:
            parts.append(data_table("Effective length", effective_table(group)))
        charts = [
            _accuracy_chart(group, task, f"ret{at}-{i}") for i, task in enumerate(group.tasks)
        ]
        parts.append(tag("div", *charts, class_="charts"))
        tables = [data_table("Accuracy by length, Wilson's 95 % interval", accuracy_table(group))]
        if group.differences:
            tables.append(
                data_table("Difference of accuracy", accuracy_difference_table(group.differences),
                           note=SHARE_NOTE)
            )  # fmt: skip
        if group.middle:
            tables.append(data_table("The middle against both ends", middle_table(group.middle)))
        parts.append(details("Numbers, and which differences exceed noise", *tables))
        parts.append(_heat_maps(group, at, _HEAT_CELLS // len(groups)))
    return section("retrieval", "Retrieval: is far text used?", *parts)


def _callout(row: Row) -> Html:
    return tag(
        "p",
        f"Lost in the middle: {row['model']} at {show_length(row['length'])} answers "
        f"{row['task']} rightly in {percent(row['middle'])} of cases in the middle of the "
        f"text, and in {percent(row['ends'])} at its ends.",
        class_="callout",
    )


def _accuracy_chart(group: RetrievalGroup, task: str, identity: str) -> Html:
    rows = [
        row
        for row in group.by_length
        if row["task"] == task and number(row["accuracy"]) is not None
    ]
    if not rows:
        return Html("")
    threshold = next((r.get("threshold") for r in group.effective if r["task"] == task), None)

    def draw() -> "Figure":
        return _one(
            lambda axis: draw_accuracy(
                axis, rows, key="length", label="length, tokens", window=group.window,
                target=group.target, threshold=threshold,
            )
        )  # fmt: skip

    return figure(Chart(f"{task}: right answers by length", *_accuracy_words(rows, "length", draw)),
                  identity)  # fmt: skip


def _accuracy_words(
    rows: Sequence[Row], key: str, draw: Callable[[], "Figure"]
) -> tuple[str, Callable[[], "Figure"], dict[str, list[str]]]:
    """Description, drawing and tips of an accuracy chart."""
    tips, words = {}, []
    for index, model in enumerate(models_of(rows)):
        own = sorted((r for r in rows if r["model"] == model), key=lambda r: int(r[key]))
        tips[f"accuracy-{index}"] = [
            f"{model}, {show_length(r[key])}: {100 * r['accuracy']:.0f} %" for r in own
        ]
        words.append(
            f"{model}: "
            + ", ".join(f"{100 * r['accuracy']:.0f} % at {show_length(r[key])}" for r in own)
            + "."
        )
    return f"One curve a model. {' '.join(words)}", draw, tips


def _heat_maps(group: RetrievalGroup, at: int, most: int) -> Html:
    pairs = models_and_tasks(group.results)
    charts, tables, drawn = [], [], 0
    for index, (model, task) in enumerate(pairs):
        rows = [r for r in group.results if r["model"] == model and r["task"] == task]
        drawn += len(rows)
        if drawn <= most:
            charts.append(_heat_map(group, rows, f"{task}: {model}", f"heat{at}-{index}"))
        tables.append(data_table(f"{task}: {model}", cells_table(rows)))
    if not pairs:
        return Html("")
    parts: list[str] = [tag("h3", "By length and depth, % right")]
    if len(charts) < len(pairs):
        parts.append(tag("p", f"{len(pairs) - len(charts)} more are in the tables below only."))
    parts.append(tag("div", *charts, class_="charts"))
    parts.append(details("Every cell with its interval", *tables))
    return join(parts)


def _heat_map(group: RetrievalGroup, rows: Sequence[Row], title: str, identity: str) -> Html:
    lengths = sorted({row["length"] for row in rows})
    depths = sorted({row["depth"] for row in rows})

    def draw() -> "Figure":
        height = 1.2 + 0.3 * len(depths)
        return _one(lambda axis: draw_heat(axis, rows, window=group.window), height=height)

    tips = {
        f"cell-{lengths.index(row['length'])}-{depths.index(row['depth'])}": [
            f"{show_length(row['length'])}, depth {100 * row['depth']:.0f} %: "
            f"{100 * row['accuracy']:.0f} %"
        ]
        for row in rows
        if number(row["accuracy"]) is not None
    }
    known = [row["accuracy"] for row in rows if number(row["accuracy"]) is not None]
    words = (
        f"Heat map of {len(lengths)} lengths by {len(depths)} depths; cells from "
        f"{100 * min(known):.0f} to {100 * max(known):.0f} % right, all of them in the table below."
        if known
        else "Heat map without a measured cell."
    )
    return figure(Chart(title, words, draw, tips), identity)


def copying_section(groups: Sequence[CopyingGroup]) -> Html:
    """The demo's planted strings."""
    parts: list[str] = []
    for at, group in enumerate(groups):
        rows = [row for row in group.results if number(row["accuracy"]) is not None]

        def draw(group: CopyingGroup = group, rows: list[Row] = rows) -> "Figure":
            return _one(
                lambda axis: draw_accuracy(
                    axis, rows, key="distance", label="how far back it stands, tokens",
                    window=group.window, threshold=COPIED,
                )
            )  # fmt: skip

        parts.append(tag("h3", f"A planted string, {group.about}"))
        if rows:
            words = _accuracy_words(rows, "distance", draw)
            chart = figure(Chart("Tokens copied rightly by distance", *words), f"copy{at}")
            parts.append(tag("div", chart, class_="charts"))
        parts.append(details("Numbers", data_table("Copied", copying_table(group.results))))
    return section("copying", "Copying from far back", *parts) if parts else Html("")


def config_section(configs: Sequence[tuple[str, Row]]) -> Html:
    """What `extend` changed."""
    if not configs:
        return Html("")
    tables = [data_table(name, config_table(diff), words=True) for name, diff in configs]
    return section("config", "What changed in the config", *tables)


def training_section(runs: Sequence[Run]) -> Html:
    """Loss of each step, and the run's own summary."""
    if not runs:
        return Html("")
    charts, parts = [], []
    for at, run in enumerate(runs):
        lines = thinned(run.log)
        losses = [row["loss"] for row in lines if number(row.get("loss")) is not None]
        if losses:
            words = (
                f"Loss by optimizer step: {losses[0]:.3f} at first, {losses[-1]:.3f} at the end, "
                f"{lines[-1]['step']} steps."
            )

            def draw(lines: Sequence[Row] = lines) -> "Figure":
                return _one(lambda axis: draw_loss(axis, lines))

            charts.append(figure(Chart(f"Training of {run.name}", words, draw), f"loss{at}"))
        parts.append(data_table(f"{run.name}: every so many steps", _log_table(run.log)))
    return section(
        "training", "Training", tag("div", *charts, class_="charts"), details("Numbers", *parts)
    )


def thinned(log: Sequence[Row]) -> Sequence[Row]:
    """At most `_POINTS` lines: of each stretch its mean loss, left-out steps left out."""
    lines = [
        {**line, "loss": number(line.get("loss"))}
        for line in log
        if number(line.get("step")) is not None
    ]
    if len(lines) <= _POINTS:
        return lines
    kept = [line for line in lines if line["loss"] is not None and "skipped" not in line]
    size = -(-len(kept) // _POINTS)
    return [
        {
            "step": kept[min(at + size, len(kept)) - 1]["step"],
            "loss": sum(line["loss"] for line in kept[at : at + size]) / len(kept[at : at + size]),
        }
        for at in range(0, len(kept), size)
    ]


def _log_table(log: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    lines = [line for line in log if number(line.get("step")) is not None]
    step = max(1, len(lines) // 12)
    chosen = [*lines[:-1:step], lines[-1]] if lines else []
    forms = (
        ("loss", ".4f"), ("grad_norm", ".3f"), ("lr", ".2e"), ("tokens", ",.0f"),
        ("tokens_per_second", ",.0f"),
    )  # fmt: skip
    return (
        ["step", *(key.replace("_", " ") for key, _ in forms)],
        [[str(line["step"]), *(shown(line.get(k), form) for k, form in forms)] for line in chosen],
    )


def fertility_section(documents: Sequence[Row]) -> Html:
    """Bars and table for each tokenizer."""
    parts: list[str] = []
    for at, document in enumerate(documents):
        rows, reference = document["results"], document.get("reference")
        charts = [
            _fertility_chart(document, panel, f"fert{at}-{panel}")
            for panel in (0, 1)
        ]  # fmt: skip
        parts.append(tag("h3", f"{document['model']}, window {show_length(document['window'])}"))
        parts.append(tag("div", *charts, class_="charts"))
        table = fertility_table(rows, reference=reference)
        parts.append(details("Numbers", data_table(f"Text in {document['model']}", table)))
    if len(documents) > 1:
        table = fertility_comparison(documents)
        parts.append(data_table("Characters in the window (tokens per character)", table))
    return section("fertility", "What other languages cost", *parts) if parts else Html("")


def _fertility_chart(document: Row, panel: int, identity: str) -> Html:
    rows, reference, window = document["results"], document.get("reference"), document["window"]
    ordered = by_cost(rows)

    def draw() -> "Figure":
        return fertility_figure(
            rows, reference=reference, window=window, width=_WIDTH, panels=(panel,), titled=False
        )

    if panel == 1:
        title, key, form = "Characters in the window", "window_characters", ",.0f"
    elif reference is None:
        title, key, form = "Tokens per character", "tokens_per_character", ".2f"
    else:
        title, key, form = f"Tokens, times those of {reference}", "against_reference", ".2f"
    texts = [f"{row['language']}: {shown(row[key], form)}" for row in ordered]
    tips = {f"bar-{at}": [text] for at, text in enumerate(texts)}
    words = f"One bar a language. {', '.join(reversed(texts))}."
    return figure(Chart(title, words, draw, tips), identity)


def harness_section(found: Findings) -> Html:
    """Tasks of the lm-evaluation-harness."""
    if found.harness is None:
        return Html("")
    used = ", ".join(sorted(set(found.harness.versions.values())))
    note = f"lm-evaluation-harness {used}; ± is one standard error"
    if len(found.harness.models) > 1:
        note += f"; (noise) = no difference to {found.harness.models[0]} beyond 1.96 errors"
    return section(
        "harness", "Downstream tasks",
        data_table("Scores", harness_comparison(found.harness), note=note),
    )  # fmt: skip


def provenance_section(runs: Sequence[Run]) -> Html:
    """Where every number comes from, and the commands that make it again."""
    commands = dict.fromkeys(
        shell_line(str(run.record[key]))
        for run in sorted(runs, key=lambda run: _ORDER.get(run.kind, 9))
        for key in ("extend_command", "command")
        if run.record.get(key)
    )
    parts: list[str] = []
    if commands:
        parts.append(tag("p", "The commands as they were typed, paths cut to their last part:"))
        block = tag("code", "\n".join(commands))
        parts.append(tag("pre", block, tabindex="0", role="region", aria_label="commands"))
    parts += [details(f"{run.name} ({run.kind})", _facts(run)) for run in runs]
    return section("provenance", "Provenance", *parts)


_ORDER = {"extend": 0, "finetune": 1, "merge": 2, "demo": 3}


def shell_line(command: str) -> str:
    """A recorded command; started as `python -m ctxext`, it was recorded by its file."""
    return "ctxext" + command.removeprefix("__main__.py") if command.startswith(
        "__main__.py"
    ) else command  # fmt: skip


def _facts(run: Run) -> Html:
    record, document = run.record, run.document or {}
    base = _mapping(record.get("base"))
    data = _mapping(document.get("data"))
    window = _mapping(record.get("window"))
    training = _mapping(record.get("training"))
    rows = [
        ("versions", ", ".join(f"{k} {v}" for k, v in _mapping(record.get("versions")).items())),
        ("base", base.get("id")),
        ("base revision", base.get("revision")),
        ("sha256 of the base's config", base.get("config_sha256")),
        ("method", record.get("method")),
        ("window", f"{window.get('original')} to {window.get('target')}" if window else None),
        ("training", _training(training)),
        ("text", data.get("source")),
        ("sha256 of the text", data.get("sha256")),
        ("command", shell_line(str(record["command"])) if record.get("command") else None),
    ]
    hashes = {
        str(row["model"]): row["config_sha256"]
        for row in document.get("results") or ()
        if row.get("config_sha256")
    }
    rows += [(f"sha256 of {name}'s config", value) for name, value in hashes.items()]
    return tag(
        "dl",
        *(
            join(
                [
                    tag("dt", key),
                    tag("dd", tag("code", str(value)) if "sha256" in key else str(value)),
                ]
            )
            for key, value in rows
            if value
        ),
    )


def _mapping(value: Any) -> Row:
    return value if isinstance(value, dict) else {}


def _training(training: Row) -> str | None:
    if not training.get("steps"):
        return None
    tokens, loss = training.get("tokens"), training.get("final_loss")
    return f"{training['steps']} steps, {shown(tokens, ',.0f')} tokens, loss {shown(loss, '.4f')}"


def missing_section(found: Findings) -> Html:
    """What nobody should conclude; what failed; what the runs warned of."""
    parts: list[str] = [bullets(found.not_measured)]
    if found.failed:
        parts.append(tag("h3", "Failed"))
        parts.append(bullets([_failure(row) for row in found.failed]))
    if found.warnings:
        parts.append(tag("h3", "Warnings of the runs"))
        parts.append(bullets([f"{name}: {text}" for name, text in found.warnings]))
    return section("missing", "What was not measured", *parts)


def _failure(row: Row) -> str:
    length = row.get("length")
    place = f" at {show_length(length)}" if isinstance(length, int) else ""
    task = f", {row['task']}" if row.get("task") else ""
    return f"{row.get('model')}{place}{task} (in {row.get('run')}): {row.get('error')}"
