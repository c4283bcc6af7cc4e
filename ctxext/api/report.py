"""`ctxext report`: what runs measured, side by side, and as one page."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ctxext.api._arguments import checked, several
from ctxext.checkpoints.names import shortest_ends
from ctxext.checkpoints.provenance import read_record
from ctxext.errors import BadInput, about_its_path
from ctxext.report.findings.collected import Findings, findings
from ctxext.report.findings.differences import by_accuracy, by_nll, by_value, differences
from ctxext.report.findings.groups import Run
from ctxext.runs.output import MARK, write_file
from ctxext.runs.run_documents import DOCUMENTS, read_document

_BARE = ("extend", "finetune", "merge", "adapter", "base")  # kinds that a record alone describes
_HOLDS = ("demo", "finetune", "extend", "merge")  # kinds whose folder may hold other runs


@dataclass(frozen=True)
class ReportResult:
    """What a report shows; `to_dict` is its JSON document."""

    findings: Findings
    output: str | None
    bytes: int

    def to_dict(self) -> dict[str, Any]:
        shown = self.findings
        harness = shown.harness.scores if shown.harness else ()
        compared = {
            "by_length": [d for g in shown.perplexity for d in differences(g.results, by_nll)],
            "by_position": [
                d for g in shown.perplexity for d in differences(g.by_position, by_nll)
            ],
            "retrieval": [
                d for g in shown.retrieval for d in differences(g.by_length, by_accuracy)
            ],
            "harness": differences(harness, by_value),
        }
        return {
            "schema": "ctxext.report/1",
            "output": self.output,
            "bytes": self.bytes,
            "runs": [{"name": run.name, "kind": run.kind} for run in shown.runs],
            "laboratories": [
                {"run": run, "statements": [each.to_dict() for each in result.statements]}
                for run, result in shown.labs
            ],
            "verdicts": [verdict.to_dict() for verdict in shown.verdicts],
            "differences": {name: [d.to_dict() for d in rows] for name, rows in compared.items()},
            "failed": [{"run": run, **row.to_dict()} for run, row in shown.failed],
            "not_measured": list(shown.not_measured),
        }


@checked
def make_report(
    runs: str | Path | Sequence[str | Path],
    *,
    output: str | Path | None = "report.html",
    overwrite: bool = False,
) -> ReportResult:
    """Put runs side by side, and write them as one self-contained HTML file.

    Not named `report`: `ctxext.report` is the room that draws.

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
    collected = findings(_read_all([Path(run) for run in several(runs)]))
    size = 0
    if target is not None:
        from ctxext.report.page.page import page

        text = page(collected)
        size = len(text.encode())
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_file(target, text)
        except OSError as error:
            raise BadInput(f"--output {target} cannot be written: {error.strerror}") from error
    return ReportResult(collected, str(target) if target is not None else None, size)


@about_its_path
def _check_file(path: Path, overwrite: bool) -> None:
    """Refuse, before any work, a file that must not be replaced."""
    from ctxext.report.page.page import GENERATOR

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
    """Read the runs and those inside them, each once."""
    known: dict[Path, Run] = {}
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
        known.setdefault(folder.resolve(), run)
        if run.kind in _HOLDS:
            for path in sorted(folder.glob(f"*/{MARK}")):
                inner = _read(path.parent)
                # The merged checkpoint and the adapter say what their run says.
                if inner is not None and inner.kind not in ("merge", "adapter", "stage"):
                    known.setdefault(path.parent.resolve(), inner)
    names = shortest_ends(list(known))
    return [replace(run, name=name) for name, run in zip(names, known.values(), strict=True)]


@about_its_path
def _read(folder: Path) -> Run | None:
    """Read one folder; None where there is no record in it.

    Raises:
        BadInput: naming the folder, and the file in it that cannot be used.
    """
    record = read_record(folder)
    if record is None:
        return None
    kind = str(record.kind)
    if kind in DOCUMENTS:
        return Run(folder.name, kind, record, read_document(folder, kind))
    if kind not in _BARE and kind != "stage":
        raise BadInput(
            f"{folder / MARK} is of the kind {kind!r}, which this ctxext does not know",
            "upgrade ctxext",
        )
    from ctxext.runs.log import read_log

    notes: list[str] = []
    lines = read_log(folder / "log.jsonl", notes.append)
    return Run(folder.name, kind, record, log=lines, notes=notes)
