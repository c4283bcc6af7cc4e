"""`ctxext report`: what runs measured, side by side, and as one page."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctxext.checkpoints.json_file import read_json_object
from ctxext.checkpoints.output import MARK, write_file
from ctxext.errors import BadInput
from ctxext.release.provenance import read_record
from ctxext.report.compare import number
from ctxext.report.findings import Findings, Run, findings

# Kinds with a document of their own, and what its rows must have to be placed in a table.
_MODEL: dict[str, type] = {"model": str}
_ROWS: dict[str, dict[str, dict[str, type]]] = {
    "eval-ppl": {
        "results": {**_MODEL, "length": int},
        "by_position": {**_MODEL, "start": int, "end": int},
    },
    "eval-retrieval": {
        "results": {**_MODEL, "task": str, "length": int, "depth": float},
        "effective": {**_MODEL, "task": str, "by_length": list},
    },
    "eval-harness": {"tasks": {"task": str}},
    "fertility": {"results": {"language": str, "tokens": int, "window_characters": int}},
    "demo": {
        "by_position": {**_MODEL, "start": int, "end": int},
        "copying": {**_MODEL, "distance": int},
    },
}
_KEYS = {
    "eval-ppl": ("data.source", "data.sha256", "protocol", "stride"),
    "eval-harness": ("model",),
    "fertility": ("model", "window"),
    "demo": ("window.original", "window.target"),
}
# What a row may lack or have as null, so that it is shown as a dash.
_VALUES = {
    "eval-ppl": ("perplexity", "nll", "stderr", "tokens", "share"),
    "eval-retrieval": (
        "accuracy", "low", "high", "choice", "gain", "effective_length", "middle", "ends",
        "difference", "lost",
    ),
    "eval-harness": ("metric", "filter", "n_shot", "value", "stderr"),
    "fertility": ("bytes", "words", "tokens_per_character", "tokens_per_byte", "tokens_per_word",
                  "against_reference"),
    "demo": ("perplexity", "nll", "stderr", "tokens", "accuracy"),
}  # fmt: skip
_BARE = ("extend", "finetune", "merge", "adapter", "base")  # kinds that a record alone describes
_HOLDS = ("demo", "finetune", "extend", "merge")  # kinds whose folder may hold other runs


@dataclass(frozen=True)
class Report:
    """What a report shows; `to_dict` is its JSON document."""

    findings: Findings
    output: str | None
    bytes: int

    def to_dict(self) -> dict[str, Any]:
        found = self.findings
        return {
            "schema": "ctxext.report/1",
            "output": self.output,
            "bytes": self.bytes,
            "runs": [{"name": run.name, "kind": run.kind} for run in found.runs],
            "verdicts": [one.to_dict() for one in found.verdicts],
            "differences": {
                "by_length": [
                    one.to_dict() for group in found.perplexity for one in group.length_differences
                ],
                "by_position": [
                    one.to_dict()
                    for group in found.perplexity
                    for one in group.position_differences
                ],
                "retrieval": [
                    one.to_dict() for group in found.retrieval for one in group.differences
                ],
                "harness": [
                    one.to_dict() for one in (found.harness.differences if found.harness else ())
                ],
            },
            "failed": [dict(row) for row in found.failed],
            "not_measured": list(found.not_measured),
        }


def report(
    runs: Sequence[str | Path],
    *,
    output: str | Path | None = "report.html",
    overwrite: bool = False,
) -> Report:
    """Put runs side by side, and write them as one self-contained HTML file.

    Args:
        runs: run folders of any kind; a demo's, a fine-tuning's or an extended checkpoint's also
            brings the runs one folder below.
        output: the file; None = write none.
        overwrite: replace an earlier report.

    Raises:
        BadInput: a folder is no run, a document is broken or newer than this ctxext, nothing is
            in it to show, or the file cannot be written.
    """
    if not runs:
        raise BadInput("no RUN given")
    target = Path(output) if output is not None else None
    if target is not None:
        _check_file(target, overwrite)
    found = findings(_read_all([Path(run) for run in runs]))
    size = 0
    if target is not None:
        from ctxext.report.page import page

        text = page(found)
        size = len(text.encode())
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_file(target, text)
        except OSError as error:
            raise BadInput(f"--output {target} cannot be written: {error.strerror}") from error
    return Report(found, str(target) if target is not None else None, size)


def _check_file(path: Path, overwrite: bool) -> None:
    """Refuse, before any work, a file that must not be replaced."""
    from ctxext.report.page import GENERATOR

    if path.is_dir():
        raise BadInput(f"--output {path} is a folder", "name a file, e.g. report.html in it")
    if not path.exists():
        return
    if not overwrite:
        raise BadInput(f"--output {path} exists", "choose another with -o, or add --overwrite")
    if not path.is_file():
        raise BadInput(f"--output {path} is not a regular file")
    with path.open("rb") as file:
        if GENERATOR.encode() not in file.read(1024):
            raise BadInput(f"--output {path} is no report of ctxext, and is not replaced")


def _read_all(folders: Sequence[Path]) -> list[Run]:
    """The runs and those inside them, each once."""
    found: dict[Path, Run] = {}
    for folder in folders:
        if folder.is_file():
            raise BadInput(f"{folder} is a file", "give the run's folder")
        if not folder.is_dir():
            raise BadInput(f"{folder} does not exist")
        run = _read(folder)
        if run is None:
            inside = sorted(p.parent.name for p in folder.glob(f"*/{MARK}"))
            hint = f"it holds runs: {', '.join(inside[:8])}" if inside else ""
            raise BadInput(f"{folder} has no {MARK}, so it is no run of ctxext", hint)
        found.setdefault(folder.resolve(), run)
        if run.kind in _HOLDS:
            for path in sorted(folder.glob(f"*/{MARK}")):
                inner = _read(path.parent)
                # The merged checkpoint and the adapter say what their run says.
                if inner is not None and inner.kind not in ("merge", "adapter", "stage"):
                    found.setdefault(path.parent.resolve(), inner)
    names = _names(list(found))
    return [
        Run(name, run.kind, run.record, run.document, run.log)
        for name, run in zip(names, found.values(), strict=True)
    ]


def _names(folders: Sequence[Path]) -> list[str]:
    """The shortest end of each path that is its own."""
    names = []
    for folder in folders:
        parts = 1
        while parts < len(folder.parts) and any(
            other != folder and other.parts[-parts:] == folder.parts[-parts:] for other in folders
        ):
            parts += 1
        names.append("/".join(folder.parts[-parts:]))
    return names


def _read(folder: Path) -> Run | None:
    """One folder; None where there is no record in it.

    Raises:
        BadInput: naming the folder, and the file in it that cannot be used.
    """
    record = read_record(folder)
    if record is None:
        return None
    kind = str(record.get("kind"))
    if kind in _ROWS:
        return Run(folder.name, kind, record, _document(folder, kind))
    if kind not in _BARE and kind != "stage":
        raise BadInput(
            f"{folder / MARK} is of the kind {kind!r}, which this ctxext does not know",
            "upgrade ctxext",
        )
    from ctxext.training.log import read_log

    try:
        lines = read_log(folder / "log.jsonl")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{folder / 'log.jsonl'} cannot be read") from error
    return Run(folder.name, kind, record, log=[line for line in lines if isinstance(line, dict)])


def _document(folder: Path, kind: str) -> dict[str, Any]:
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
    for key in _KEYS.get(kind, ()):
        value: Any = document
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is None:
            raise BadInput(f"{path} is broken: it has no {key}")
    for name, keys in _ROWS[kind].items():
        document[name] = [
            _row(row, keys, kind, f"{path}: {name}") for row in _list(document, name, path)
        ]
    for name, keys in (
        ("middle", {**_MODEL, "task": str, "length": int}),
        ("failed", _MODEL),
    ):
        if document.get(name) is not None:
            document[name] = [
                _row(row, keys, kind, f"{path}: {name}") for row in _list(document, name, path)
            ]
    for row in document.get("effective") or ():
        cells: dict[str, type] = {"length": int}
        row["by_length"] = [_row(c, cells, kind, f"{path}: by_length") for c in row["by_length"]]
    found = document.get("key_tokens")
    if found is not None:
        if not isinstance(found, dict):
            raise BadInput(f"{path} is broken: key_tokens is no object")
        found["results"] = [
            _row(row, {**_MODEL, "length": int}, kind, f"{path}: key_tokens")
            for row in _list(found, "results", path)
        ]
    return document


def _list(document: Mapping[str, Any], name: str, path: Path) -> list[Any]:
    value = document.get(name)
    if not isinstance(value, list):
        raise BadInput(f"{path} is broken: {name} is no list")
    return value


def _row(row: Any, keys: Mapping[str, type], kind: str, where: str) -> dict[str, Any]:
    """A row with every key that tables look for."""
    if not isinstance(row, dict):
        raise BadInput(f"{where} is broken: a row is no object")
    for key, wanted in keys.items():
        value = row.get(key)
        if wanted is float:
            good = number(value) is not None
        else:
            good = isinstance(value, wanted) and not isinstance(value, bool)
        if not good or (isinstance(value, int) and value < 0):
            raise BadInput(f"{where} is broken: a row's {key} is {value!r}")
    return {**dict.fromkeys(_VALUES.get(kind, ())), **row}
