"""The report as one HTML file: no network, no script, light and dark, for screen and reader."""

from collections.abc import Sequence
from importlib.resources import files

from ctxext.lengths import show_length
from ctxext.report.findings.collected import Findings
from ctxext.report.findings.lab import headline
from ctxext.report.page.html import Html, tag
from ctxext.report.page.sections import (
    harness,
    lab,
    languages,
    perplexity,
    provenance,
    retrieval,
    training,
    verdict,
)

GENERATOR = "ctxext report"
_NAMED = 4  # models by their names; the others are counted


def page(findings: Findings) -> str:
    """Make the whole document; the same findings give the same text."""
    body = [
        verdict.summary(findings),
        perplexity.perplexity_section(findings.perplexity, findings.models),
        perplexity.key_tokens_section(findings.perplexity, findings.models),
        retrieval.retrieval_section(findings.retrieval, findings.models),
        retrieval.copying_section(findings.copying, findings.models),
        training.config_section(findings.configs),
        training.training_section(findings.trainings),
        languages.fertility_section(findings.fertility),
        harness.harness_section(findings.harness),
        lab.lab_section(findings.labs),
        provenance.missing_section(findings),
        provenance.provenance_section(findings.runs),
    ]
    title = _title(findings)
    style = files("ctxext.report.page").joinpath("page.css").read_text(encoding="utf-8")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="generator", content=GENERATOR),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Html(style)),
    )
    header = tag(
        "header",
        tag("h1", title),
        tag("p", _lead(findings), class_="lead"),
        tag("nav", tag("ul", *_links(findings)), aria_label="Sections"),
    )
    footer = tag("footer", tag("p", f"Made by ctxext from {_runs(findings)}."))
    whole = tag(
        "html",
        head,
        tag(
            "body",
            tag("a", "To the content", href="#content", class_="skip"),
            header,
            tag("main", *body, id="content", tabindex="-1"),
            footer,
        ),
        lang="en",
    )
    return f"<!doctype html>\n{whole}\n"


def _title(findings: Findings) -> str:
    models = [v.model for v in findings.verdicts] or [
        document.model for document in findings.fertility
    ]
    if not models:
        return "Position laboratory" if findings.labs else "Context window report"
    return f"Context window: {_few(models)}"


def _lead(findings: Findings) -> str:
    """Say in one sentence which models are what, the best first."""
    if not findings.verdicts:
        headlines = " ".join(f"{headline(result)}." for _, result in findings.labs)
        return headlines or f"From {_runs(findings)}."
    named: dict[str, list[str]] = {}
    for each in findings.verdicts:
        named.setdefault(each.word, []).append(each.model)
    window, target = findings.window, findings.target
    reach = f", from {show_length(window)}" if window else ""
    if window:
        reach += f" to {show_length(target)} tokens" if target else " tokens"
    models = f"{len(findings.verdicts)} model{'s' if len(findings.verdicts) > 1 else ''}"
    said = [f"{_few(names)}: {word}" for word, names in named.items()]
    return f"{models}{reach}. " + ". ".join(said) + "."


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _runs(findings: Findings) -> str:
    names = ", ".join(f"{run.name} ({run.kind})" for run in findings.runs)
    return f"{len(findings.runs)} run{'s' if len(findings.runs) > 1 else ''}: {names}"


def _links(findings: Findings) -> list[Html]:
    present = (
        ("verdict", "Verdict", findings.verdicts),
        ("perplexity", "Perplexity", findings.perplexity),
        ("longppl", "LongPPL", any(group.key_tokens for group in findings.perplexity)),
        ("retrieval", "Retrieval", findings.retrieval),
        ("copying", "Copying", findings.copying),
        ("config", "Config", findings.configs),
        ("training", "Training", findings.trainings),
        ("fertility", "Languages", findings.fertility),
        ("harness", "Tasks", findings.harness),
        ("lab", "Laboratory", findings.labs),
        ("missing", "Not measured", True),
        ("provenance", "Provenance", True),
    )
    return [
        tag("li", tag("a", text, href=f"#{identity}")) for identity, text, there in present if there
    ]
