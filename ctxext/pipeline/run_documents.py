"""The JSON documents of runs, read back: what is missing is None, what is broken has a sentence.

A document may come from another machine or another hand: every value that a table or chart will
touch is looked at here, so that nothing behind this file has to doubt it.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ctxext.checkpoints.json_file import read_json_object
from ctxext.errors import BadInput
from ctxext.report.compare import number

Check = Callable[[Any], Any]
Shape = Mapping[str, Check]


class _Wrong(ValueError):
    """A value that is not what its key promises."""


def _name(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise _Wrong
    return value


def _tokens(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
        raise _Wrong
    return value


def _start(value: Any) -> int:
    return 0 if value == 0 and not isinstance(value, bool) else _tokens(value)


def _share(value: Any) -> float:
    known = number(value)
    if known is None or not 0 <= known <= 1:
        raise _Wrong
    return known


def _measured(value: Any) -> int | float | None:
    """A number, None where there is none or it is not finite."""
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        raise _Wrong
    if number(value) is None:
        return None
    if abs(value or 0) > 1e15:
        raise _Wrong
    return value


def _positive(value: Any) -> int | float | None:
    known = _measured(value)
    if known is not None and known <= 0:
        raise _Wrong
    return known


def _error(value: Any) -> int | float | None:
    known = _measured(value)
    if known is not None and not 0 <= known < 100:
        raise _Wrong
    return known


def _flag(value: Any) -> bool:
    if not isinstance(value, bool | None):
        raise _Wrong
    return bool(value)


def _word(value: Any) -> str | int | float | bool | None:
    if not isinstance(value, str | int | float | bool | None):
        raise _Wrong
    return value


def _words(value: Any) -> list[Any]:
    if not isinstance(value, list | None):
        raise _Wrong
    return [str(one) for one in value or ()]


def _maybe(check: Check) -> Check:
    return lambda value: None if value is None else check(value)


def _rows(shape: Shape) -> Check:
    def check(value: Any) -> list[dict[str, Any]]:
        if not isinstance(value, list):
            raise _Wrong
        return [_checked(row, shape) for row in value]

    return check


class _Broken(Exception):
    """Where in a document, and what stands there."""


def _checked(value: Any, shape: Shape) -> dict[str, Any]:
    """The object with every key of the shape, each value as its check returns it."""
    if not isinstance(value, dict):
        raise _Broken(f"{repr(value)[:60]} is no object")
    found = dict(value)
    for key, check in shape.items():
        try:
            found[key] = check(value.get(key))
        except _Wrong as error:
            shown = repr(value[key])[:60] if key in value else "missing"
            raise _Broken(f"{key} is {shown}") from error
        except _Broken as error:
            raise _Broken(f"in {key}, {error}") from error
    return found


_MODEL: Shape = {"model": _name}
_NLL: Shape = {"perplexity": _positive, "nll": _measured, "stderr": _error, "tokens": _measured}
_LENGTH: Shape = {
    **_MODEL,
    "length": _tokens,
    **_NLL,
    "bits_per_byte": _measured,
    "window": _maybe(_tokens),
}
_POSITION: Shape = {**_MODEL, "start": _start, "end": _tokens, **_NLL}
_ACCURACY: Shape = {"accuracy": _maybe(_share), "low": _maybe(_share), "high": _maybe(_share)}
_PLACE: Shape = {**_MODEL, "task": _name, "length": _tokens}
_COMMON: Shape = {"warnings": _words, "failed": _maybe(_rows(_MODEL))}
_SHAPES: Mapping[str, Shape] = {
    "eval-ppl": {
        **_COMMON,
        "data": lambda value: _checked(value, {"source": _name, "sha256": _name,
                                               "tokens": _measured}),
        "protocol": _name,
        "stride": _tokens,
        "aligned": _flag,
        "window": _maybe(_tokens),
        "results": _rows(_LENGTH),
        "by_position": _rows(_POSITION),
        "key_tokens": _maybe(
            lambda value: _checked(value, {"results": _rows({**_LENGTH, "share": _maybe(_share)})})
        ),
    },
    "eval-retrieval": {
        **_COMMON,
        "data": _maybe(lambda value: _checked(value, {"source": _word, "sha256": _word})),
        "score": _word,
        "seed": _word,
        "samples": _word,
        "threshold": _word,
        "window": _maybe(_tokens),
        "results": _rows(
            {**_PLACE, "depth": _share, **_ACCURACY, "choice": _maybe(_share), "gain": _measured,
             "chance": _maybe(_share), "samples": _maybe(_tokens)}
        ),
        "effective": _rows(
            {
                **_MODEL,
                "task": _name,
                "effective_length": _maybe(_tokens),
                "metric": _word,
                "threshold": _word,
                "by_length": _rows({"length": _tokens, **_ACCURACY}),
            }
        ),
        "middle": _maybe(
            _rows(
                {**_PLACE, "middle": _maybe(_share), "ends": _maybe(_share),
                 "difference": _measured, "low": _measured, "high": _measured, "lost": _flag}
            )
        ),
    },
    "eval-harness": {
        **_COMMON,
        **_MODEL,
        "harness_version": _word,
        "tasks": _rows(
            {"task": _name, "metric": _word, "filter": _word, "n_shot": _word,
             "value": _measured, "stderr": _error}
        ),
    },
    "fertility": {
        **_COMMON,
        **_MODEL,
        "window": _tokens,
        "reference": _maybe(_name),
        "results": _rows(
            {"language": _name, "tokens": _tokens, "words": _measured, "unknown": _measured,
             "tokens_per_character": _positive, "tokens_per_byte": _positive,
             "tokens_per_word": _positive, "against_reference": _positive,
             "window_characters": _start}
        ),
    },
    "demo": {
        **_COMMON,
        "window": lambda value: _checked(value, {"original": _tokens, "target": _tokens}),
        "by_position": _rows(_POSITION),
        "copying": _rows({**_MODEL, "distance": _tokens, "accuracy": _maybe(_share)}),
    },
}  # fmt: skip
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
    document, _ = read_json_object(path)
    schema, known = str(document.get("schema")), f"ctxext.{kind}/1"
    if schema != known:
        raise BadInput(
            f"{path} has the schema {schema!r}, and this ctxext reads {known}", "upgrade ctxext"
        )
    try:
        return _checked(document, _SHAPES[kind])
    except _Broken as error:
        raise BadInput(f"{path} is broken: {error}", "run its command again") from error
