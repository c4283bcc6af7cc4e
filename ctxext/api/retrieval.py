"""`ctxext eval-retrieval`: does each checkpoint use what stands far back, and up to where."""

import gc
import string
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ctxext.api._arguments import several, several_lengths
from ctxext.checkpoints.config.dtype import check_dtype
from ctxext.checkpoints.config.quantised import read_unquantised
from ctxext.checkpoints.folder import CONFIG
from ctxext.checkpoints.live.tensors import check_tensors
from ctxext.checkpoints.names import names_of
from ctxext.checkpoints.opened import Opened, open_checkpoint, tokenizer_of
from ctxext.checkpoints.provenance import sha256_of
from ctxext.data.sources import Source as TextSource
from ctxext.data.tokens import check_top
from ctxext.errors import BadInput, CtxextError
from ctxext.evaluation.measuring import Measuring, free_gpu, weights_state
from ctxext.machine.launch import Launch, launched
from ctxext.progress import Progress, silent
from ctxext.report.charts.retrieval import plot_retrieval
from ctxext.report.tables.text import percent
from ctxext.runs.numbers import whole
from ctxext.runs.rows.retrieval import CellRow, EffectiveRow, MiddleRow
from ctxext.runs.rows.row import Failed

if TYPE_CHECKING:
    from ctxext.evaluation.retrieval.fitting import Encoder
    from ctxext.evaluation.retrieval.haystack import Haystack
    from ctxext.evaluation.retrieval.scores import Asking
    from ctxext.evaluation.retrieval.tasks import Task, Wording
    from ctxext.evaluation.statistics.effective_length import Threshold

KIND = "eval-retrieval"
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
SCORES = ("logprob", "generate")
_HAYSTACK = 64 * 1024 * 1024  # characters of a text that are read


@dataclass(frozen=True)
class RetrievalResult:
    """Cells of several models; `to_dict` is the eval-retrieval JSON document.

    `results` has a row for each model, task, length and depth, `effective` one for each model and
    task, `middle` one for each model, task and length, `failed` what could not be measured.
    """

    source: str
    sha256: str | None
    score: str
    seed: int
    samples: int
    threshold: str
    tasks: tuple[str, ...]
    wordings: dict[str, str]
    lengths: tuple[int, ...]
    depths: tuple[float, ...]
    window: int
    results: tuple[CellRow, ...]
    effective: tuple[EffectiveRow, ...]
    middle: tuple[MiddleRow, ...]
    failed: tuple[Failed, ...]
    output_dir: str | None
    warnings: tuple[str, ...]
    tokenizer: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": "ctxext.eval-retrieval/1",
            "data": {"source": self.source, "sha256": self.sha256},
            "score": self.score,
            "seed": self.seed,
            "samples": self.samples,
            "threshold": self.threshold,
            "tasks": list(self.tasks),
            "wordings": self.wordings,
            "lengths": list(self.lengths),
            "depths": list(self.depths),
            "window": self.window,
            "results": [row.to_dict() for row in self.results],
            "effective": [row.to_dict() for row in self.effective],
            "middle": [row.to_dict() for row in self.middle],
            "failed": [row.to_dict() for row in self.failed],
            "tokenizer": self.tokenizer,
            "output_dir": self.output_dir,
            "warnings": list(self.warnings),
        }


def retrieval(
    models: str | Sequence[str],
    *,
    lengths: str | Sequence[int | str],
    tasks: str | Sequence[str] = ("passkey",),
    depths: Sequence[float] = DEPTHS,
    samples: int = 10,
    score: Literal["logprob", "generate"] = "logprob",
    threshold: str = "own:0.85",
    data: str | None = None,
    field: str = "text",
    names: Sequence[str] | None = None,
    prefill_chunk: int = 0,
    seed: int = 0,
    output_dir: str | Path | None = None,
    overwrite: bool = False,
    revision: str | None = None,
    tokenizer: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    on_progress: Progress = silent,
) -> RetrievalResult:
    """Ask for what is hidden in long texts.

    What fails at one length (out of memory, NaN) is in `failed`, and the rest is measured. Under
    `torchrun` or `accelerate launch` the processes share the samples, and all return the same.

    Args:
        models: checkpoints, measured one after the other.
        lengths: tokens of prompt and answer together.
        tasks: names of `evaluation.retrieval.tasks`, or `all`.
        depths: where the needle stands, 0 = beginning, 1 = end.
        samples: questions for each task, length and depth.
        score: `logprob`, or `generate` (greedy, RULER's string match).
        threshold: of the effective length: a share, or `own:SHARE` of the model's own score in its
            original window.
        data: text to hide needles in, as `--data`; None = RULER's noise.
        names: what the rows call the models; None = the ends of their paths.
        prefill_chunk: tokens of a prompt that go through the model at once; 0 = all.
        tokenizer: folder or repository whose tokenizer is used; None = the checkpoint's own.
        output_dir: gets `eval-retrieval.json`, `retrieval.png` and `.svg`, `ctxext.json`; one that
            a killed run left is gone on with.

    Raises:
        BadInput: anything the user can mend: an unknown task, a length too short for its words.
        CtxextError: nothing could be measured, corrupt weights.
    """
    from ctxext.evaluation.retrieval.haystack import NOISE
    from ctxext.evaluation.statistics.effective_length import parse_threshold

    models, tasks = several(models), several(tasks)
    lengths, depths = several_lengths(lengths, "lengths"), sorted(set(depths))
    _check(models, lengths, depths, samples, score)
    chosen = _tasks(tasks)
    rule = parse_threshold(threshold)
    kind = check_dtype(dtype)
    with launched(device) as launch, ExitStack() as held:

        def look() -> tuple[list[Opened], Measuring]:
            opened = [
                open_checkpoint(model, revision=revision, tokenizer=tokenizer) for model in models
            ]
            measuring = Measuring(
                Path(output_dir) if output_dir is not None else None, KIND, overwrite=overwrite,
                inputs=tuple(one.source.folder for one in opened), launch=launch, held=held,
            )  # fmt: skip
            for one in opened:
                read_unquantised(one.source, "evaluate")
            return opened, measuring

        opened, measuring = launch.agree(look)
        source = TextSource(data, field) if data is not None else None

        def prepare() -> tuple["Haystack", list["Encoder"], dict[str, "Wording"]]:
            encoders = [_encoder(one, trust_remote_code) for one in opened]
            for one, encode in zip(opened, encoders, strict=True):
                check_tensors(one.source, trust_remote_code=trust_remote_code)
                embeddings = whole(one.config, "vocab_size", f"{one.source.name}/{CONFIG}")
                check_top(max(encode(NOISE + string.printable)), embeddings or 2**31)
            return _haystack(source), encoders, _wordings(chosen, encoders, lengths[0])

        haystack, encoders, wordings = launch.agree(prepare)
        run = _Run(
            launch, measuring.begin(), haystack, wordings, depths, samples, seed, score,
            source.sha256 if source else "noise", on_progress,
        )  # fmt: skip
        names = list(names) if names is not None else names_of(models, opened)
        for name, one, encode in zip(names, opened, encoders, strict=True):
            asking = run.asking(name, one, encode, kind, device, trust_remote_code, prefill_chunk)
            run.ask(asking, name, one, chosen, lengths)
            del asking
            gc.collect()
        result = _result(
            run, opened, names, chosen, lengths, rule, source,
            str(output_dir) if output_dir else None,
        )  # fmt: skip

        def draw(folder: Path) -> None:
            for suffix in ("png", "svg"):
                plot_retrieval(folder / f"retrieval.{suffix}", result.results, window=result.window)

        launch.on_main(lambda: measuring.finish(result.to_dict(), draw, finished=not result.failed))
        return result


@dataclass
class _Run:
    """What all models are asked alike, and what was found."""

    launch: Launch
    journal: Any
    haystack: "Haystack"
    wordings: dict[str, "Wording"]
    depths: Sequence[float]
    samples: int
    seed: int
    score: Literal["logprob", "generate"]
    data_sha256: str
    on_progress: Progress

    def __post_init__(self) -> None:
        self.cells: list[CellRow] = []
        self.failed: list[Failed] = []
        self.why: CtxextError | None = None
        self.notes: list[str] = []

    def asking(
        self,
        name: str,
        one: Opened,
        encode: "Encoder",
        dtype: Any,
        device: str,
        trust_remote_code: bool,
        prefill_chunk: int,
    ) -> "Asking":
        """A checkpoint, loaded."""
        from ctxext.checkpoints.live.load import device_of, load_model
        from ctxext.evaluation.retrieval.answering import Answerer
        from ctxext.evaluation.retrieval.scores import Asking

        def load() -> Answerer:
            place = device_of(device, self.launch)
            live = load_model(
                one.source, one.position, dtype=dtype, device=place,
                trust_remote_code=trust_remote_code,
                on_note=lambda note: self.notes.append(f"{name}: {note}"),
            )  # fmt: skip
            return Answerer(live, prefill_chunk=prefill_chunk)

        tokenizer = sha256_of(one.tokens_from.folder / "tokenizer.json")
        identity = f"{weights_state(one.source)} {tokenizer} {dtype} {self.data_sha256}"
        return Asking(
            self.launch.agree(load), encode, self.haystack, self.score, name, identity,
            self.journal, self.launch, self.on_progress,
        )  # fmt: skip

    def ask(
        self,
        asking: "Asking",
        name: str,
        one: Opened,
        tasks: Sequence["Task"],
        lengths: Sequence[int],
    ) -> None:
        """All tasks at all lengths."""
        identity = one.identity.to_dict()
        for task in tasks:
            for length in lengths:
                try:
                    cells = asking.cells(
                        task, self.wordings[task.name], length, depths=self.depths,
                        samples=self.samples, seed=self.seed,
                    )  # fmt: skip
                except BadInput:
                    raise
                except CtxextError as error:
                    self.why = error
                    self.failed.append(
                        Failed(model=name, task=task.name, length=length, error=str(error))
                    )
                    free_gpu()
                    continue
                self.cells += [replace(cell, **identity) for cell in cells]


def _result(
    run: _Run,
    opened: Sequence[Opened],
    names: Sequence[str],
    tasks: Sequence["Task"],
    lengths: Sequence[int],
    rule: "Threshold",
    source: TextSource | None,
    output_dir: str | None,
) -> RetrievalResult:
    """What was found, and what follows from it.

    Raises:
        CtxextError: nothing could be measured.
    """
    if run.why is not None and not run.cells:
        raise run.why
    from ctxext.evaluation.retrieval.pooling import effective_row, middle_rows

    effective: list[EffectiveRow] = []
    middle: list[MiddleRow] = []
    warnings = [f"{n}: {w}" for n, one in zip(names, opened, strict=True) for w in one.warnings]
    warnings += run.notes
    for name, one in zip(names, opened, strict=True):
        for task in tasks:
            cells = [cell for cell in run.cells if (cell.model, cell.task) == (name, task.name)]
            if not cells:
                continue
            row = effective_row(cells, rule, one.position.window.original)
            effective.append(row)
            if row.effective_length is None and rule.relative and row.own is not None:
                warnings.append(
                    f"{name} is right in {percent(row.own.accuracy)} of {task.name} at "
                    f"{row.own.length} tokens, inside its window: it has no length to keep it to"
                )
            middle += middle_rows(cells)
    compact = [name for name, wording in run.wordings.items() if wording == "compact"]
    short = [name for name in compact if name != "copy"]
    if short:
        warnings.append(
            f"asked in compact words, since {lengths[0]} tokens are too few for the published "
            f"ones: {', '.join(short)}"
        )
    if source is not None and source.replaced:
        warnings.append(f"--data {source.name}: {source.replaced} bytes were not UTF-8")
    return RetrievalResult(
        source=source.name if source else "noise",
        sha256=source.sha256 if source else None,
        score=run.score,
        seed=run.seed,
        samples=run.samples,
        threshold=str(rule),
        tasks=tuple(task.name for task in tasks),
        wordings={name: str(wording) for name, wording in run.wordings.items()},
        lengths=tuple(lengths),
        depths=tuple(run.depths),
        window=opened[0].position.window.original,
        results=tuple(run.cells),
        effective=tuple(effective),
        middle=tuple(middle),
        failed=tuple(run.failed),
        output_dir=output_dir,
        tokenizer=opened[0].tokenizer.name if opened[0].tokenizer else None,
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _encoder(one: Opened, trust_remote_code: bool) -> "Encoder":
    from ctxext.evaluation.retrieval.fitting import Encoder

    return Encoder(tokenizer_of(one, trust_remote_code=trust_remote_code))


def _haystack(source: TextSource | None) -> "Haystack":
    from ctxext.evaluation.retrieval.haystack import noise, text_haystack

    if source is None:
        return noise
    documents: list[str] = []
    size = 0
    for piece in source.pieces():
        if piece.continues and documents:
            documents[-1] += piece.text
        else:
            documents.append(piece.text)
        size += len(piece.text)
        if size > _HAYSTACK:
            break
    return text_haystack(documents)


def _wordings(
    tasks: Sequence["Task"], encoders: Sequence["Encoder"], shortest: int
) -> dict[str, "Wording"]:
    """One wording of each task for all models and lengths, so that they are asked alike."""
    from ctxext.evaluation.retrieval.scores import wording_of

    out: dict[str, Wording] = {}
    for task in tasks:
        each = {wording_of(task, encode, shortest) for encode in encoders}
        out[task.name] = "full" if each == {"full"} else "compact"
    return out


def _tasks(names: Sequence[str]) -> list["Task"]:
    from ctxext.evaluation.retrieval.tasks import TASKS, get_task

    if "all" in names:
        return list(TASKS.values())
    if not names:
        raise BadInput("--tasks names none", f"there is {', '.join(TASKS)}, or all")
    return [get_task(name) for name in dict.fromkeys(names)]


def _check(
    models: Sequence[str],
    lengths: Sequence[int],
    depths: Sequence[float],
    samples: int,
    score: str,
) -> None:
    if not models:
        raise BadInput("no MODEL given")
    if not lengths or lengths[0] < 2:
        raise BadInput("--lengths has to hold at least one length of 2 tokens or more")
    if not depths or not all(0 <= depth <= 1 for depth in depths):
        raise BadInput("--depths have to lie between 0 (beginning) and 1 (end)")
    if samples < 1:
        raise BadInput(f"--samples is {samples}, and has to be at least 1")
    if score not in SCORES:
        raise BadInput(f"--score is {score!r}; there is {', '.join(SCORES)}")
