"""The JSON documents of runs, read back: what is missing is None, what is broken has a sentence.

Every value that a table, a chart or a card will touch is named here (`runs.checked`).
"""

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ctxext.errors import BadInput
from ctxext.runs.checked import (
    Shape,
    error_bar,
    flag,
    maybe,
    measured,
    name,
    perplexity,
    positive,
    read_checked,
    rows,
    section,
    sha256,
    share,
    start,
    text,
    tokens,
    word,
    words,
)

_LARGEST_NLL = 700.0  # nats; exp of more is no float
_MODEL: Shape = {"model": name}
_HASHES: Shape = {
    "config_sha256": maybe(sha256), "record_sha256": maybe(sha256), "rope_sha256": maybe(sha256)
}  # fmt: skip
_NLL: Shape = {
    "perplexity": perplexity,
    "nll": measured,
    "stderr": error_bar,
    "tokens": measured,
    "note": text,
}
_LENGTH: Shape = {
    **_MODEL,
    "length": tokens,
    **_NLL,
    **_HASHES,
    "bits_per_byte": measured,
    "window": maybe(tokens),
}
_POSITION: Shape = {**_MODEL, "start": start, "end": tokens, **_NLL}
_ACCURACY: Shape = {"accuracy": maybe(share), "low": maybe(share), "high": maybe(share)}
_PLACE: Shape = {**_MODEL, "task": name, "length": tokens}
_COMMON: Shape = {"warnings": words, "failed": maybe(rows({**_MODEL, "error": text}))}
_SHAPES: Mapping[str, Shape] = {
    "eval-ppl": {
        **_COMMON,
        "data": section({"source": name, "sha256": sha256, "tokens": measured}),
        "protocol": name,
        "stride": tokens,
        "aligned": flag,
        "window": maybe(tokens),
        "results": rows(_LENGTH),
        "by_position": rows(_POSITION),
        "key_tokens": maybe(section({"results": rows({**_LENGTH, "share": maybe(share)})})),
    },
    "eval-retrieval": {
        **_COMMON,
        "data": maybe(section({"source": maybe(name), "sha256": maybe(sha256)})),
        "score": word,
        "seed": word,
        "samples": maybe(tokens),
        "threshold": word,
        "window": maybe(tokens),
        "results": rows(
            {**_PLACE, **_HASHES, **_ACCURACY, "depth": share, "choice": maybe(share),
             "gain": measured, "chance": maybe(share), "samples": maybe(tokens)}
        ),
        "effective": rows(
            {
                **_MODEL,
                "task": name,
                "effective_length": maybe(tokens),
                "metric": word,
                "threshold": word,
                "by_length": rows({"length": tokens, **_ACCURACY}),
            }
        ),
        "middle": maybe(
            rows(
                {**_PLACE, "middle": maybe(share), "ends": maybe(share),
                 "difference": measured, "low": measured, "high": measured, "lost": flag}
            )
        ),
    },
    "eval-harness": {
        **_COMMON,
        **_MODEL,
        "harness_version": word,
        "tasks": rows(
            {"task": name, "metric": word, "filter": word, "n_shot": word,
             "value": measured, "stderr": error_bar}
        ),
    },
    "fertility": {
        **_COMMON,
        **_MODEL,
        "window": tokens,
        "reference": maybe(name),
        "results": rows(
            {"language": name, "tokens": tokens, "words": measured, "unknown": measured,
             "tokens_per_character": positive, "tokens_per_byte": positive,
             "tokens_per_word": positive, "against_reference": positive,
             "window_characters": start}
        ),
    },
    "demo": {
        **_COMMON,
        "window": section({"original": tokens, "target": tokens}),
        "by_position": rows(_POSITION),
        "copying": rows({**_MODEL, "distance": tokens, "accuracy": maybe(share)}),
    },
}  # fmt: skip
# What a row was measured at: no two rows of a model share it.
_MEASURED: Mapping[str, Mapping[str, str]] = {
    "eval-ppl": {"results": "length", "by_position": "start"},
    "demo": {"by_position": "start"},
}
KINDS = tuple(_SHAPES)
"""Kinds of runs that leave a document, `<kind>.json`."""


def read_document(folder: Path, kind: str) -> dict[str, Any]:
    """The document of a run folder; numbers that are missing or not finite are None.

    Raises:
        BadInput: it is not there, of a newer schema, or a value in it is not what it should be;
            folder, file and key are named.
    """
    path = folder / f"{kind}.json"
    if not os.path.lexists(path):
        raise BadInput(
            f"{folder} has no {path.name}: its {kind} was stopped before its end",
            "run its command again",
        )
    document = read_checked(path, f"ctxext.{kind}/1", _SHAPES[kind], hint="run its command again")
    for key, place in _MEASURED.get(kind, {}).items():
        wrong = _contradiction(document.get(key) or (), place)
        if wrong:
            raise BadInput(f"{path} is broken: {key}: {wrong}", "run its command again")
    return document


def _contradiction(measured_rows: Iterable[Mapping[str, Any]], place: str) -> str:
    """Say where rows of perplexities contradict each other or themselves; empty where none does."""
    seen = set()
    for row in measured_rows:
        model, at = row["model"], row[place]
        if (model, at) in seen:
            return f"{model} stands there twice at {place} {at}"
        seen.add((model, at))
        said, nll = row["perplexity"], row["nll"]
        if said is None or nll is None or nll > _LARGEST_NLL:
            continue
        if not math.isclose(said, math.exp(nll), rel_tol=1e-3):
            return f"{model} at {place} {at} has perplexity {said:g}, and exp(nll) is another"
    return ""
