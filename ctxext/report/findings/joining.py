"""One checkpoint is one model, whatever each of its evaluations calls it: joined by its hashes."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ctxext.report.findings.groups import Run
from ctxext.runs.rows.harness import HarnessResult
from ctxext.runs.rows.perplexity import PerplexityResult
from ctxext.runs.rows.retrieval import RetrievalResult
from ctxext.runs.rows.row import Document, Identity


def joined(runs: Sequence[Run]) -> list[Run]:
    """Call each checkpoint in all runs by the name that it has in the first one.

    Only where its hashes leave no doubt. A later checkpoint of a name that is taken gets its run's
    name added.
    """
    known: list[tuple[Identity, str]] = []
    out = []
    for run in runs:
        names = {
            model: _name(model, identity, run.name, known)
            for model, identity in _measured(run.document).items()
        }
        document = _renamed(run.document, names) if run.document else None
        out.append(replace(run, document=document))
    return out


def _name(model: str, identity: Identity, run: str, known: list[tuple[Identity, str]]) -> str:
    """Find the name of a checkpoint, or take its own and keep it."""
    if not identity.is_certain:
        return model
    for other, name in known:
        if identity.same_files(other):
            return name
    if any(name == model for _, name in known):
        model = f"{model} ({run})"
    known.append((identity, model))
    return model


def _measured(document: Document | None) -> dict[str, Identity]:
    """Map the models of a document to their hashes, in order of appearance."""
    if isinstance(document, HarnessResult):
        return {document.model: document.checkpoint or Identity()}
    if not isinstance(document, PerplexityResult | RetrievalResult):
        return {}
    models: dict[str, Identity] = {}
    for row in document.results:
        models.setdefault(row.model, Identity.of(row))
    return models


def _renamed(document: Document, names: dict[str, str]) -> Document:
    def each(rows: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(replace(row, model=names.get(row.model, row.model)) for row in rows)

    if all(model == name for model, name in names.items()):
        return document
    if isinstance(document, HarnessResult):
        return replace(document, model=names[document.model])
    if not isinstance(document, PerplexityResult | RetrievalResult):
        return document
    changes: dict[str, Any] = {"results": each(document.results), "failed": each(document.failed)}
    if isinstance(document, PerplexityResult):
        changes["by_position"] = each(document.by_position)
        if keys := document.key_tokens:
            changes["key_tokens"] = replace(keys, results=each(keys.results))
    if isinstance(document, RetrievalResult):
        changes |= {"effective": each(document.effective), "middle": each(document.middle)}
    return replace(document, **changes)
