"""The output folder of a measurement: what is done lies there, and a killed run goes on from it."""

import gc
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ctxext.checkpoints.folder import CONFIG, Source
from ctxext.checkpoints.provenance import (
    SCHEMA,
    command_line,
    read_record,
    sha256_of,
    versions,
    write_record,
)
from ctxext.checkpoints.weights.files import read_weights
from ctxext.errors import BadInput, CtxextError
from ctxext.evaluation.earlier import D, Earlier, MeasuredBy
from ctxext.machine.launch import Launch
from ctxext.methods.dual_chunk import CONFIG_KEY
from ctxext.runs.checked import Broken, read_checked
from ctxext.runs.journal import Journal
from ctxext.runs.json_file import dump_measured, finite
from ctxext.runs.output import MARK, check_output, locked, write_file
from ctxext.runs.rows.record import RunRecord


class Measuring:
    """One command's output folder, of one `kind` of run, from its first check to its last file.

    While numbers are missing, the journal lies there; `ctxext.json` says `finished: false`, or is
    that of an earlier run, whose document stays until the new one is complete. The same command
    again goes on from there, and so does one with other lengths or models.
    """

    def __init__(
        self,
        output_dir: Path | None,
        kind: str,
        launch: Launch,
        held: ExitStack,
        *,
        overwrite: bool,
        inputs: Sequence[Path],
    ) -> None:
        """Check the folder and take its lock; nothing is written yet.

        Raises:
            BadInput: as `check_output` and `locked`.
        """
        self.output_dir, self.kind, self.launch, self._held = output_dir, kind, launch, held
        self._fresh = True
        if output_dir is None or not launch.main:
            return
        self._fresh = overwrite or not self._can_go_on(output_dir)
        check_output(
            output_dir,
            overwrite=not self._fresh or overwrite,
            inputs=tuple(inputs),
            may_lie_inside=True,
        )
        held.enter_context(locked(output_dir))

    def earlier(self, document: type[D]) -> "Earlier[D] | None":
        """Read the document that is there already, if its rows can be taken over.

        Raises:
            BadInput: it is broken.
        """

        def read() -> Earlier[D] | None:
            out = self.output_dir
            if out is None or self._fresh:
                return None
            measured_by = _measured_by(read_record(out))
            if measured_by is None or not (out / f"{self.kind}.json").exists():
                return None
            return Earlier(out, read_checked(
                out / f"{self.kind}.json", document.schema, document.from_dict,
                hint="--overwrite measures all again",
            ), measured_by)  # fmt: skip

        return self.launch.on_main(read)

    def begin(self) -> Journal:
        """Make the folder; an older one is removed, one that can be gone on with kept."""
        out = self.output_dir

        def make() -> None:
            if out is None:
                return
            if self._fresh:
                shutil.rmtree(out, ignore_errors=True)
                out.mkdir(parents=True, exist_ok=True)
                self._record(out, finished=False, documents=[], measured_by=None)

        self.launch.on_main(make)
        journal = Journal(out, self.launch)
        self._held.callback(journal.close)
        return journal

    def finish(
        self,
        document: Mapping[str, Any],
        draw: Callable[[Path], None],
        *,
        measured_by: MeasuredBy,
        finished: bool,
    ) -> None:
        """Write the document and its plots; when nothing is missing, drop the journal.

        Args:
            document: what `--json` prints, less the folder's own name.
            draw: puts plots into a folder.
            measured_by: what the rows depend on.
            finished: False keeps what was measured, for another try at what failed.

        Raises:
            CtxextError: the disk is full.
        """
        out = self.output_dir
        if out is None or not self.launch.main:
            return
        name = f"{self.kind}.json"
        try:
            kept = {k: v for k, v in document.items() if k != "output_dir"}
            write_file(out / name, dump_measured(finite(kept)))
            draw(out)
            self._record(out, finished=finished, documents=[name], measured_by=measured_by)
        except OSError as error:
            raise CtxextError(
                f"{out} cannot be written: {error.strerror}",
                "what was measured is kept; the same command goes on from there",
            ) from error
        if finished:
            for path in out.glob("measured-*.jsonl"):
                path.unlink(missing_ok=True)

    def _can_go_on(self, out: Path) -> bool:
        if not (out / MARK).is_file():
            return False
        record = read_record(out)
        if record is None or record.kind != self.kind:
            return False
        return not record.finished or _measured_by(record) is not None

    def _record(
        self, out: Path, *, finished: bool, documents: list[str], measured_by: MeasuredBy | None
    ) -> None:
        missing: dict[str, Any] = {} if finished else {"finished": False}
        if measured_by is not None:
            missing["measured_by"] = measured_by.to_dict()
        write_record(
            out,
            {
                "schema": SCHEMA,
                "kind": self.kind,
                **missing,
                "versions": versions(),
                "evaluations": documents,
                "command": command_line(),
            },
        )


def _measured_by(record: RunRecord | None) -> MeasuredBy | None:
    """Read what a folder's rows depend on; None where an older version did not write it down.

    Raises:
        BadInput: it is broken.
    """
    written = record.document.get("measured_by") if record is not None else None
    if written is None:
        return None
    try:
        return MeasuredBy.from_dict(written)
    except Broken as error:
        raise BadInput(
            f"{MARK} is broken: in measured_by, {error}", "--overwrite measures all again"
        ) from error


def weights_state(source: Source) -> str:
    """Name what a checkpoint's numbers depend on: config, and names, sizes and times of files.

    For the journal of a run that goes on on the same machine; no hash of gigabytes.
    """
    config = sha256_of(source.folder / CONFIG)
    if CONFIG_KEY in (source.folder / CONFIG).read_text(encoding="utf-8", errors="replace"):
        config = f"{config} by dual chunks"  # not so in folders of earlier versions
    files = []
    for name in sorted(read_weights(source.folder).shards):
        stat = (source.folder / name).stat()
        files.append(f"{name} {stat.st_size} {stat.st_mtime_ns}")
    return f"{config} {'; '.join(files)}"


def free_gpu() -> None:
    """Give back what a failed length held, so that the next one finds it."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
