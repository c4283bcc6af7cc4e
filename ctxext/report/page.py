"""The report as one HTML file: no network, no script, light and dark, for screen and reader."""

from importlib.resources import files

from ctxext.lengths import show_length
from ctxext.report.findings import Findings
from ctxext.report.html import Html, tag
from ctxext.report.sections import languages, origin, perplexity, retrieval, training, verdicts

GENERATOR = "ctxext report"


def page(found: Findings) -> str:
    """The whole document; the same findings give the same text."""
    body = [
        verdicts.summary(found),
        perplexity.perplexity_section(found.perplexity),
        perplexity.key_tokens_section(found.perplexity),
        retrieval.retrieval_section(found.retrieval),
        retrieval.copying_section(found.copying),
        training.config_section(found.configs),
        training.training_section(found.trainings),
        languages.fertility_section(found.fertility),
        origin.harness_section(found),
        origin.missing_section(found),
        origin.provenance_section(found.runs),
    ]
    title = _title(found)
    style = files("ctxext.report").joinpath("page.css").read_text(encoding="utf-8")
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
        tag("p", _lead(found), class_="lead"),
        tag("nav", tag("ul", *_links(found)), aria_label="Sections"),
    )
    footer = tag("footer", tag("p", f"Made by ctxext from {_runs(found)}."))
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


def _title(found: Findings) -> str:
    models = [one.model for one in found.verdicts] or [
        str(document["model"]) for document in found.fertility
    ]
    if not models:
        return "Context window report"
    shown = ", ".join(models[:4]) + (f" and {len(models) - 4} more" if len(models) > 4 else "")
    return f"Context window: {shown}"


def _lead(found: Findings) -> str:
    """One sentence: how many models are what."""
    if not found.verdicts:
        return f"From {_runs(found)}."
    counted: dict[str, int] = {}
    for one in found.verdicts:
        counted[one.word] = counted.get(one.word, 0) + 1
    window, target = found.window, found.target
    reach = f", from {show_length(window)}" if window else ""
    if window:
        reach += f" to {show_length(target)} tokens" if target else " tokens"
    models = f"{len(found.verdicts)} model{'s' if len(found.verdicts) > 1 else ''}"
    return f"{models}{reach}: " + "; ".join(f"{n} {word}" for word, n in counted.items()) + "."


def _runs(found: Findings) -> str:
    names = ", ".join(f"{run.name} ({run.kind})" for run in found.runs)
    return f"{len(found.runs)} run{'s' if len(found.runs) > 1 else ''}: {names}"


def _links(found: Findings) -> list[Html]:
    present = (
        ("verdict", "Verdict", found.verdicts),
        ("perplexity", "Perplexity", found.perplexity),
        ("longppl", "LongPPL", any(group.key_tokens for group in found.perplexity)),
        ("retrieval", "Retrieval", found.retrieval),
        ("copying", "Copying", found.copying),
        ("config", "Config", found.configs),
        ("training", "Training", found.trainings),
        ("fertility", "Languages", found.fertility),
        ("harness", "Tasks", found.harness),
        ("missing", "Not measured", True),
        ("provenance", "Provenance", True),
    )
    return [
        tag("li", tag("a", text, href=f"#{identity}")) for identity, text, there in present if there
    ]
