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
from ctxext.errors import CtxextError
from ctxext.machine.launch import Launch
from ctxext.runs.journal import Journal
from ctxext.runs.json_file import dump_measured, finite
from ctxext.runs.output import MARK, check_output, locked, write_file


class Measuring:
    """One command's output folder, of one `kind` of run, from its first check to its last file.

    While numbers are missing, `ctxext.json` says `finished: false` and the journal lies beside it;
    the same command again goes on from there, and so does one with other lengths.
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
        self._fresh = overwrite or not self._is_unfinished(output_dir)
        check_output(
            output_dir,
            overwrite=not self._fresh or overwrite,
            inputs=tuple(inputs),
            may_lie_inside=True,
        )
        held.enter_context(locked(output_dir))

    def begin(self) -> Journal:
        """Make the folder; an older one is removed, an unfinished one of this kind kept."""
        out = self.output_dir

        def make() -> None:
            if out is None:
                return
            if self._fresh:
                shutil.rmtree(out, ignore_errors=True)
                out.mkdir(parents=True, exist_ok=True)
                self._record(out, finished=False, documents=[])

        self.launch.on_main(make)
        journal = Journal(out, self.launch)
        self._held.callback(journal.close)
        return journal

    def finish(
        self,
        document: Mapping[str, Any],
        draw: Callable[[Path], None],
        *,
        finished: bool,
    ) -> None:
        """Write the document and its plots; when nothing is missing, drop the journal.

        Args:
            document: what `--json` prints, less the folder's own name.
            draw: puts plots into a folder.
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
            self._record(out, finished=finished, documents=[name])
        except OSError as error:
            raise CtxextError(
                f"{out} cannot be written: {error.strerror}",
                "what was measured is kept; the same command goes on from there",
            ) from error
        if finished:
            for path in out.glob("measured-*.jsonl"):
                path.unlink(missing_ok=True)

    def _is_unfinished(self, out: Path) -> bool:
        if not (out / MARK).is_file():
            return False
        record = read_record(out)
        return record is not None and record.kind == self.kind and not record.finished

    def _record(self, out: Path, *, finished: bool, documents: list[str]) -> None:
        missing: dict[str, Any] = {} if finished else {"finished": False}
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


def weights_state(source: Source) -> str:
    """Name what a checkpoint's numbers depend on: config, and names, sizes and times of files.

    For the journal of a run that goes on on the same machine; no hash of gigabytes.
    """
    config = sha256_of(source.folder / CONFIG)
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
