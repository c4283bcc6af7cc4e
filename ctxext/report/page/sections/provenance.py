"""Where every number comes from, and what was not measured."""

from collections.abc import Sequence

from ctxext.lengths import show_length
from ctxext.report.findings.collected import Findings
from ctxext.report.findings.groups import Run
from ctxext.report.page.html import Html, bullets, details, join, section, tag
from ctxext.runs.rows.perplexity import PerplexityResult
from ctxext.runs.rows.record import BaseCheckpoint, Training
from ctxext.runs.rows.retrieval import RetrievalResult
from ctxext.runs.rows.row import Failed

_ORDER = {"extend": 0, "finetune": 1, "merge": 2, "demo": 3}


def provenance_section(runs: Sequence[Run]) -> Html:
    """Say where every number comes from, and the commands that make it again."""
    commands = dict.fromkeys(
        shell_line(command)
        for run in sorted(runs, key=lambda run: _ORDER.get(run.kind, 9))
        for command in (run.record.extend_command, run.record.command)
        if command
    )
    parts: list[str] = []
    if commands:
        parts.append(tag("p", "The commands as they were typed, paths cut to their last part:"))
        block = tag("code", "\n".join(commands))
        parts.append(tag("pre", block, tabindex="0", role="region", aria_label="commands"))
    parts += [details(f"{run.name} ({run.kind})", _facts(run)) for run in runs]
    return section("provenance", "Provenance", *parts)


def shell_line(command: str) -> str:
    """Write a recorded command; started as `python -m ctxext`, it was recorded by its file."""
    return "ctxext" + command.removeprefix("__main__.py") if command.startswith(
        "__main__.py"
    ) else command  # fmt: skip


def _facts(run: Run) -> Html:
    record, document = run.record, run.document
    base = record.base or BaseCheckpoint()
    window = record.window
    measured = document if isinstance(document, PerplexityResult | RetrievalResult) else None
    text = measured.data if measured else None
    rows: list[tuple[str, str | None]] = [
        ("versions", ", ".join(f"{k} {v}" for k, v in record.versions.items())),
        ("base", base.id),
        ("base revision", base.revision),
        ("sha256 of the base's config", base.config_sha256),
        ("method", record.method),
        ("window", f"{window.original} to {window.target}" if window else None),
        ("training", _training(record.training)),
        ("text", text.source if text else None),
        ("sha256 of the text", text.sha256 if text else None),
        ("command", shell_line(record.command)),
    ]
    results = measured.results if measured else ()
    hashes = {row.model: row.config_sha256 for row in results if row.config_sha256}
    rows += [(f"sha256 of {name}'s config", value) for name, value in hashes.items()]
    return tag(
        "dl",
        *(
            join([tag("dt", key), tag("dd", tag("code", value) if "sha256" in key else value)])
            for key, value in rows
            if value
        ),
    )


def _training(training: Training | None) -> str | None:
    if training is None or not training.steps:
        return None
    return f"{training.steps} steps, {training.tokens:,} tokens, {training.headline}"


def missing_section(findings: Findings) -> Html:
    """Say what nobody should conclude; what failed; what the runs warned of."""
    beyond = [_failure(run, row) for run, row in findings.failed if row.reads_at_most]
    failed = [_failure(run, row) for run, row in findings.failed if not row.reads_at_most]
    parts: list[str] = [bullets([*findings.not_measured, *beyond])]
    if failed:
        parts.append(tag("h3", "Failed"))
        parts.append(bullets(failed))
    if findings.warnings:
        parts.append(tag("h3", "Warnings of the runs"))
        parts.append(bullets([f"{name}: {text}" for name, text in findings.warnings]))
    return section("missing", "What was not measured", *parts)


def _failure(run: str, row: Failed) -> str:
    place = f" at {show_length(row.length)}" if row.length is not None else ""
    task = f", {row.task}" if row.task else ""
    return f"{row.model}{place}{task} (in {run}): {row.error}"
