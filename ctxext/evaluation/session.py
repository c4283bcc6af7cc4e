"""What every evaluation of checkpoints shares: who takes part, how they load, what went wrong."""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ctxext.checkpoints.config.dtype import DtypeName
from ctxext.checkpoints.config.quantised import read_unquantised
from ctxext.checkpoints.folder import CONFIG
from ctxext.checkpoints.live.tensors import check_tensors
from ctxext.checkpoints.live.tokenizer import has_tokenizer
from ctxext.checkpoints.names import names_of
from ctxext.checkpoints.opened import Opened, open_checkpoint, tokenizer_of
from ctxext.errors import BadInput, CtxextError
from ctxext.evaluation.earlier import D, Earlier, MeasuredBy
from ctxext.evaluation.measuring import Measuring, free_gpu
from ctxext.lengths import counted
from ctxext.machine.launch import Launch, launched
from ctxext.progress import Note, unheard
from ctxext.runs.journal import Journal
from ctxext.runs.numbers import whole
from ctxext.runs.rows.row import Failed

T = TypeVar("T")


@dataclass(frozen=True)
class Loading:
    """How the checkpoints of one command are found and loaded.

    Attributes:
        revision: branch, tag or sha of Hub repositories.
        tokenizer: folder or repository whose tokenizer is used; None = the checkpoint's own.
        dtype: `auto` = bfloat16 on a GPU, float32 on a CPU.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        trust_remote_code: run the checkpoint's own Python code.
        prefill_chunk: tokens that go through the model at once, the rest in the KV cache; 0 = all.
    """

    revision: str | None = None
    tokenizer: str | None = None
    dtype: DtypeName = "auto"
    device: str = "auto"
    trust_remote_code: bool = False
    prefill_chunk: int = 0

    def open(self, model: str) -> Opened:
        """Find a checkpoint whose weights can be measured.

        Raises:
            BadInput: as `open_checkpoint`; an encoder; its weights are quantised.
        """
        checkpoint = open_checkpoint(
            model, revision=self.revision, tokenizer=self.tokenizer, decoder=True
        )
        read_unquantised(checkpoint.source, "evaluate")
        return checkpoint

    def tokenizer_of(self, checkpoint: Opened) -> Any:
        """Load the tokenizer that reads a checkpoint's texts."""
        return tokenizer_of(checkpoint, trust_remote_code=self.trust_remote_code)

    def check_weights(self, checkpoint: Opened) -> int:
        """Compare the stored tensors with the model's, before anything is loaded.

        Returns:
            The rows of its embedding: every token id has to be smaller.

        Raises:
            CtxextError: as `check_tensors`.
        """
        check_tensors(checkpoint.source, trust_remote_code=self.trust_remote_code)
        rows = whole(checkpoint.config, "vocab_size", f"{checkpoint.source.name}/{CONFIG}")
        return rows or 2**31

    def load(
        self, checkpoint: Opened, launch: Launch | None = None, on_note: Note = unheard
    ) -> Any:
        """Load a checkpoint's model onto the device of this process.

        One whose config asks for dual chunk attention attends so, or `on_note` hears why not.
        """
        from ctxext.checkpoints.live.dual_chunk import use_dual_chunks
        from ctxext.checkpoints.live.load import device_of, load_model

        model = load_model(
            checkpoint.source, checkpoint.position, dtype=self.dtype,
            device=device_of(self.device, launch or Launch()),
            trust_remote_code=self.trust_remote_code, on_note=on_note,
        )  # fmt: skip
        said = use_dual_chunks(model, checkpoint.config, checkpoint.position)
        if said is not None:
            on_note(said)
        return model


class Session:
    """An evaluation of several checkpoints, one after the other, alike on all its processes.

    Iterating gives each checkpoint with its name in the table.

    Attributes:
        checkpoints, names: what is measured, and what tables call it.
        reference: a checkpoint that is read but not measured.
        failed: a row for everything that could not be measured.
    """

    def __init__(
        self,
        launch: Launch,
        loading: Loading,
        checkpoints: Sequence[Opened],
        names: Sequence[str],
        reference: Opened | None,
        folder: Measuring,
    ) -> None:
        self.launch, self.loading = launch, loading
        self.checkpoints, self.names, self.reference = tuple(checkpoints), tuple(names), reference
        self.failed: list[Failed] = []
        self.journal = Journal()
        self._folder = folder
        self._notes: list[str] = []
        self._failure: CtxextError | None = None

    @classmethod
    @contextmanager
    def open(
        cls,
        models: Sequence[str],
        kind: str,
        loading: Loading,
        *,
        names: Sequence[str] | None = None,
        reference: str | None = None,
        output_dir: str | Path | None = None,
        overwrite: bool = False,
    ) -> Iterator["Session"]:
        """Join the processes, find the checkpoints, and check and lock the output folder.

        Nothing is written before `begin`.

        Args:
            models: folders or Hub repositories.
            kind: of the run, as its `ctxext.json` says it.
            names: what tables call the models; None = the ends of their paths.

        Raises:
            BadInput: as `Loading.open`, `check_output` and `locked`.
        """
        if names is not None and (
            len(set(names) - {""}) != len(models) or len(names) != len(models)
        ):
            raise BadInput(
                f"--names has {', '.join(names)}, and has to name {counted(len(models), 'model')}, "
                "no two alike"
            )
        with launched(loading.device) as launch, ExitStack() as held:

            def look() -> Session:
                checkpoints = [loading.open(model) for model in models]
                other = _reference(reference, loading) if reference is not None else None
                every = [*checkpoints, *([other] if other else [])]
                folder = Measuring(
                    Path(output_dir) if output_dir is not None else None, kind, launch, held,
                    overwrite=overwrite, inputs=[each.source.folder for each in every],
                )  # fmt: skip
                called = names if names is not None else names_of(models, checkpoints)
                return cls(launch, loading, checkpoints, called, other, folder)

            yield launch.agree(look)

    def __iter__(self) -> Iterator[tuple[str, Opened]]:
        return zip(self.names, self.checkpoints, strict=True)

    @property
    def every(self) -> tuple[Opened, ...]:
        """All checkpoints that are read."""
        return (*self.checkpoints, *([self.reference] if self.reference else []))

    def agree(self, work: Callable[[], T]) -> T:
        """Do the same on every process; where one fails, all fail alike."""
        return self.launch.agree(work)

    def earlier(self, document: type[D]) -> "Earlier[D] | None":
        """Read what the output folder has already of this kind; on every process alike."""
        return self._folder.earlier(document)

    def begin(self) -> None:
        """Make the output folder, and read what a killed run measured already."""
        self.journal = self._folder.begin()

    def dtype_setting(self) -> str:
        """Name the numbers that models compute in, where `auto` is another on another device."""
        from ctxext.checkpoints.live.load import device_of

        asked = self.loading.dtype
        return (
            f"auto on {device_of(self.loading.device, self.launch).type}"
            if asked == "auto"
            else asked
        )

    def load(self, name: str, checkpoint: Opened, into: Callable[[Any], T]) -> T:
        """Load a model on every process; what it says of its dtype becomes a warning.

        The model before is freed first: two at once would not fit.

        Args:
            into: makes of the model what reads texts or answers questions.
        """

        def note(text: str) -> None:
            self._notes.append(f"{name}: {text}")

        gc.collect()
        return self.launch.agree(lambda: into(self.loading.load(checkpoint, self.launch, note)))

    @contextmanager
    def failing(self, name: str, length: int, *, task: str | None = None) -> Iterator[None]:
        """Keep what fails (out of memory, NaN) for the result: another length may do."""
        try:
            yield
        except BadInput:
            raise
        except CtxextError as error:
            free_gpu()
            self._fail(error, Failed(model=name, task=task, length=length, error=str(error)))

    def reaches(
        self, name: str, checkpoint: Opened, length: int, *, task: str | None = None
    ) -> bool:
        """Tell whether a checkpoint has positions for so many tokens; if not, note that."""
        most = checkpoint.position.reads_at_most
        if most is None or length <= most:
            return True
        error = CtxextError(
            f"{name} has positions for {most:,} tokens, and none for {length:,}",
            "give shorter --lengths, or more positions: ctxext extend",
        )
        self._fail(
            error,
            Failed(model=name, task=task, length=length, error=str(error), reads_at_most=most),
        )
        return False

    def _fail(self, error: CtxextError, what: Failed) -> None:
        """Note what could not be measured, once."""
        self._failure = error
        place = (what.model, what.task, what.length)
        if place not in [(row.model, row.task, row.length) for row in self.failed]:
            self.failed.append(what)

    def check_measured(self, rows: Sequence[Any]) -> None:
        """Raise the last failure where nothing was measured at all."""
        if self._failure is not None and not rows:
            raise self._failure

    def warnings(self) -> list[str]:
        """List what the checkpoints' files and their loading gave reason to say."""
        said = [f"{name}: {text}" for name, each in self for text in each.warnings]
        return said + self._notes

    def finish(
        self,
        document: dict[str, Any],
        draw: Callable[[Path], None],
        stem: str,
        measured_by: MeasuredBy,
    ) -> None:
        """Write the document and its plot, on rank 0.

        Args:
            document: what `--json` prints.
            measured_by: what its rows depend on.
            draw: makes the plot, as PNG or SVG by its path's suffix.
            stem: the plot's name without a suffix.
        """

        def plots(folder: Path) -> None:
            for suffix in ("png", "svg"):
                draw(folder / f"{stem}.{suffix}")

        finished = all(row.reads_at_most for row in self.failed)
        self.launch.on_main(
            lambda: self._folder.finish(document, plots, measured_by=measured_by, finished=finished)
        )


def default_lengths(checkpoints: Sequence[Opened]) -> list[int]:
    """Choose the lengths of an evaluation that names none, tokens.

    A quarter, half and all of the first checkpoint's trained window, then twice that and so on up
    to the longest window that a checkpoint claims.

    Raises:
        BadInput: a checkpoint states no window.
    """
    try:
        windows = [each.position.window for each in checkpoints]
    except BadInput as error:
        raise BadInput(str(error), "say how far: --lengths, e.g. --lengths 1k,2k,4k") from error
    window, claimed = windows[0].original, max(each.current for each in windows)
    lengths = [window // 4, window // 2, window]
    while lengths[-1] * 2 <= claimed:
        lengths.append(lengths[-1] * 2)
    return [length for length in lengths if length > 1]


def _reference(model: str, loading: Loading) -> Opened:
    """Open it at its default revision, with the named tokenizer only where it has none."""
    plain = Loading(trust_remote_code=loading.trust_remote_code)
    checkpoint = plain.open(model)
    if loading.tokenizer is None or has_tokenizer(checkpoint.source.folder):
        return checkpoint
    return Loading(tokenizer=loading.tokenizer).open(model)
