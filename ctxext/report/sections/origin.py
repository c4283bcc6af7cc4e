"""Downstream tasks, where every number comes from, and what was not measured."""

from collections.abc import Sequence
from typing import Any

from ctxext.lengths import show_length
from ctxext.report.comparison_tables import harness_comparison
from ctxext.report.findings import Findings, Row, Run
from ctxext.report.html import Html, bullets, data_table, details, join, section, tag
from ctxext.report.tables import shown

_ORDER = {"extend": 0, "finetune": 1, "merge": 2, "demo": 3}


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
