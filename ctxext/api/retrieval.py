"""`ctxext eval-retrieval`: does each checkpoint use what stands far back, and up to where."""

import dataclasses
import itertools
import string
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ctxext.api._arguments import checked, maybe_lengths, maybe_several, one_length, several
from ctxext.checkpoints.config.dtype import DtypeWord, check_dtype
from ctxext.checkpoints.folder import CONFIG
from ctxext.checkpoints.opened import Opened
from ctxext.checkpoints.provenance import sha256_of
from ctxext.choices import check_word
from ctxext.data.sources import Source as TextSource, what_was_lost
from ctxext.data.tokens import check_top
from ctxext.errors import BadInput
from ctxext.evaluation.earlier import Earlier, Kept, MeasuredBy, Settings, state_of
from ctxext.evaluation.measuring import weights_state
from ctxext.evaluation.session import Loading, Session, default_lengths
from ctxext.lengths import counted, show_length
from ctxext.progress import Note, Progress, silent, unheard
from ctxext.report.charts.retrieval import plot_retrieval
from ctxext.report.findings.groups import RetrievalGroup
from ctxext.report.tables.text import percent
from ctxext.runs.rows.retrieval import (
    CellRow,
    EffectiveRow,
    HaystackText,
    MiddleRow,
    RetrievalResult,
    Score,
)

if TYPE_CHECKING:
    from ctxext.evaluation.reading.forecast import Forecast
    from ctxext.evaluation.retrieval.fitting import Encoder
    from ctxext.evaluation.retrieval.haystack import Haystack
    from ctxext.evaluation.retrieval.scores import Asking
    from ctxext.evaluation.retrieval.tasks import Task, Wording
    from ctxext.evaluation.statistics.effective_length import Threshold

KIND = "eval-retrieval"
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


@checked
def retrieval(
    models: str | Sequence[str],
    *,
    lengths: int | str | Sequence[int | str] | None = None,
    tasks: str | Sequence[str] = ("passkey",),
    depths: float | Sequence[float] = DEPTHS,
    samples: int = 10,
    score: Score = "logprob",
    threshold: float | str = "own:0.85",
    data: str | None = None,
    field: str = "text",
    names: str | Sequence[str] | None = None,
    prefill_chunk: int | str = 0,
    seed: int = 0,
    output_dir: str | Path | None = None,
    overwrite: bool = False,
    revision: str | None = None,
    tokenizer: str | None = None,
    dtype: DtypeWord = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    on_note: Note = unheard,
    on_progress: Progress = silent,
) -> RetrievalResult:
    """Ask for what is hidden in long texts.

    What fails at one length (out of memory, NaN) is in `failed`, and the rest is measured. Under
    `torchrun` or `accelerate launch` the processes share the samples, and all return the same.

    Args:
        models: checkpoints, measured one after the other.
        lengths: tokens of prompt and answer together; None = `default_lengths`, as far as the
            questions fit.
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
        on_note: told what will be asked, before any model is loaded.
        output_dir: gets `eval-retrieval.json`, `retrieval.png` and `.svg`, `ctxext.json`; one that
            an earlier run of the same settings left is gone on with: what it lacks is asked.

    Raises:
        BadInput: anything the user can mend: an unknown task, a length too short for its words.
        CtxextError: nothing could be measured, corrupt weights.
    """
    from ctxext.evaluation.statistics.effective_length import parse_threshold

    models, tasks = several(models), several(tasks, commas=True)
    asked = maybe_lengths(lengths, "lengths")
    depths = sorted(set(depths if isinstance(depths, Sequence) else [depths]))
    labels, chunk = maybe_several(names), one_length(prefill_chunk, "prefill_chunk", least=0)
    _check(models, asked, depths, samples, score)
    questions = _Questions(_tasks(tasks), asked or (), depths, samples, seed, score)
    rule = parse_threshold(str(threshold))
    loading = Loading(revision, tokenizer, check_dtype(dtype), device, trust_remote_code, chunk)
    with Session.open(
        models, KIND, loading, names=labels, output_dir=output_dir, overwrite=overwrite
    ) as session:
        text = TextSource(data, field) if data is not None else None
        earlier = session.earlier(RetrievalResult)
        if earlier is not None:
            questions = questions.beside(earlier.document)
        run = session.agree(lambda: _Run.prepare(session, questions, rule, text, on_progress))
        run.states = {name: run.state(checkpoint) for name, checkpoint in session}
        settings = run.settings()
        if earlier is not None:
            run.take_over(earlier, settings)
        session.begin()
        if session.launch.main:
            on_note(run.announcement())
        run.foretell(on_note)
        for (name, checkpoint), encode in zip(session, run.encoders, strict=True):
            run.ask(name, checkpoint, encode)
        result = run.result(str(output_dir) if output_dir else None)

        def draw(path: Path) -> None:
            plot_retrieval(path, RetrievalGroup.of(result))

        measured_by = MeasuredBy.of(settings, run.states)
        session.finish(result.to_dict(), draw, "retrieval", measured_by)
        return result


@dataclass(frozen=True)
class _Questions:
    """What every checkpoint is asked alike; no `lengths`: those of `default_lengths` that fit."""

    tasks: Sequence["Task"]
    lengths: Sequence[int]
    depths: Sequence[float]
    samples: int
    seed: int
    score: "Score"

    def beside(self, earlier: RetrievalResult) -> "_Questions":
        """Add the tasks and lengths that were asked before."""
        from ctxext.evaluation.retrieval.tasks import get_task

        tasks = {name: get_task(name) for name in earlier.tasks} | {t.name: t for t in self.tasks}
        lengths = sorted({*self.lengths, *earlier.lengths})
        return replace(self, tasks=list(tasks.values()), lengths=lengths)


@dataclass
class _Run:
    """The checkpoints, what their questions are made of, and the rows so far."""

    session: Session
    questions: _Questions
    rule: "Threshold"
    text: TextSource | None
    haystack: "Haystack"
    encoders: Sequence["Encoder"]
    wordings: dict[str, "Wording"]
    warnings: list[str]
    on_progress: Progress
    forecast: "Forecast | None" = None
    cells: list[CellRow] = dataclasses.field(default_factory=list)
    states: dict[str, str] = dataclasses.field(default_factory=dict)
    earlier: RetrievalResult | None = None
    kept: Kept | None = None

    @classmethod
    def prepare(
        cls,
        session: Session,
        questions: _Questions,
        rule: "Threshold",
        text: TextSource | None,
        listen: Progress,
    ) -> "_Run":
        """Load what needs no model: tokenizers and the haystack.

        Raises:
            BadInput: a length too short for a task's words, a tokenizer that is not the model's.
            CtxextError: stored tensors that are not the model's.
        """
        from ctxext.evaluation.retrieval.fitting import Encoder
        from ctxext.evaluation.retrieval.haystack import NOISE, haystack_of

        loading = session.loading
        encoders = [Encoder(loading.tokenizer_of(each)) for each in session.checkpoints]
        for checkpoint, encode in zip(session.checkpoints, encoders, strict=True):
            embeddings = loading.check_weights(checkpoint)
            check_top(max(encode(NOISE + string.printable)), embeddings)
        if not questions.lengths:
            usual = default_lengths(session.checkpoints)
            fitting = [n for n in usual if _fit(questions.tasks, encoders, n)]
            questions = replace(questions, lengths=fitting or usual[-1:])
        lengths: Sequence[int] = questions.lengths
        warnings: list[str] = []
        if rule.relative:
            lengths, warnings = _with_one_inside(questions, session.checkpoints, encoders)
        wordings = _wordings(questions.tasks, encoders, lengths[0])
        return cls(
            session, replace(questions, lengths=lengths), rule, text, haystack_of(text), encoders,
            wordings, warnings, listen,
        )  # fmt: skip

    def settings(self) -> Settings:
        """List all that every cell depends on, whatever its model, task and length."""
        asked, session, data = self.questions, self.session, self.text
        other = session.checkpoints[0].tokenizer
        return {
            "--data": f"text {data.sha256}" if data else "RULER's noise",
            "--depths": ", ".join(map(str, asked.depths)),
            "--samples": asked.samples,
            "--seed": asked.seed,
            "--score": asked.score,
            "--threshold": str(self.rule),
            "--tokenizer": other.name if other else None,
            "--prefill-chunk": session.loading.prefill_chunk or None,
            "--dtype": session.dtype_setting(),
        }

    def take_over(self, earlier: Earlier[RetrievalResult], settings: Settings) -> None:
        """Take the cells that the output folder has, where they are what would be asked now.

        Raises:
            BadInput: other settings or words, or models that would lack a task or length.
        """
        earlier.check(settings)
        document, session = earlier.document, self.session
        for task, wording in document.wordings.items():
            if wording == "full" and self.wordings[task] == "compact":
                raise BadInput(
                    f"--tasks {task} would be asked in compact words now (a shorter length, or "
                    f"another tokenizer), and {earlier.folder} was asked in the published ones",
                    "choose another --output-dir",
                )
            self.wordings[task] = "full" if wording == "full" else "compact"
        kept = earlier.match(document.results, session.names, session.checkpoints, self.states)
        kept.check_complete(
            [_place(task.name, n) for task in self.questions.tasks for n in self.questions.lengths],
            [(row.model, _place(row.task, row.length)) for row in document.results]
            + [(row.model, _place(row.task, row.length)) for row in document.failed],
        )
        self.earlier, self.kept, self.cells = document, kept, kept.rows(document.results)
        session.failed += [row for row in document.failed if row.model in kept.others]
        theirs = earlier.measured_by.states
        self.states = {name: theirs[name] for name in kept.others if name in theirs} | self.states

    def state(self, checkpoint: Opened) -> str:
        """Hash what a checkpoint's cells depend on, the settings aside."""
        return state_of(weights_state(checkpoint.source), checkpoint.identity, _tokens(checkpoint))

    def missing(self, name: str) -> list[tuple["Task", int]]:
        """List the tasks and lengths that a model is yet to be asked."""
        known = {(cell.task, cell.length) for cell in self.cells if cell.model == name}
        asked = itertools.product(self.questions.tasks, self.questions.lengths)
        return [(task, length) for task, length in asked if (task.name, length) not in known]

    def announcement(self) -> str:
        """Say what will be asked."""
        asked = self.questions
        each = len(asked.depths) * asked.samples
        cells = len(asked.tasks) * len(asked.lengths)
        return (
            f"asking {counted(len(self.session.names), 'model')} "
            f"{', '.join(task.name for task in asked.tasks)} at "
            f"{', '.join(show_length(length) for length in asked.lengths)} tokens: "
            f"{counted(each, 'question')} at each length, {each * cells:,} a model"
            f"{self.kept.said(len(self.cells)) if self.kept else ''}"
        )

    def foretell(self, on_note: Note) -> None:
        """Add up all that is to be read, so that how long it takes can be said soon."""
        from ctxext.evaluation.reading.forecast import Forecast, cost_of

        asked, launch = self.questions, self.session.launch
        total = 0.0
        for name, checkpoint in self.session:
            cost = cost_of(checkpoint)
            total += sum(cost(length) for _, length in self.missing(name))
        total *= len(asked.depths) * asked.samples
        self.forecast = Forecast(total, launch.ranks, on_note if launch.main else unheard)

    def ask(self, name: str, checkpoint: Opened, encode: "Encoder") -> None:
        """Ask a checkpoint all tasks at all lengths."""
        asked, identity = self.questions, checkpoint.identity.to_dict()
        missing = [
            (task, length)
            for task, length in self.missing(name)
            if self.session.reaches(name, checkpoint, length, task=task.name)
        ]
        if not missing:
            return
        asking = self._asking(name, checkpoint, encode)
        for task, length in missing:
            with self.session.failing(name, length, task=task.name):
                cells = asking.cells(
                    task, self.wordings[task.name], length, depths=asked.depths,
                    samples=asked.samples, seed=asked.seed,
                )  # fmt: skip
                self.cells += [replace(cell, **identity) for cell in cells]

    def _asking(self, name: str, checkpoint: Opened, encode: "Encoder") -> "Asking":
        """Load a checkpoint, to be asked."""
        from ctxext.evaluation.reading.forecast import Forecast, cost_of
        from ctxext.evaluation.retrieval.answering import Answerer
        from ctxext.evaluation.retrieval.scores import Asking

        session, loading = self.session, self.session.loading
        answerer = session.load(
            name, checkpoint, lambda model: Answerer(model, prefill_chunk=loading.prefill_chunk)
        )
        tokenizer = _tokens(checkpoint)
        text = self.text.sha256 if self.text else "noise"
        identity = f"{weights_state(checkpoint.source)} {tokenizer} {loading.dtype} {text}"
        return Asking(
            answerer, encode, self.haystack, self.questions.score, name, identity,
            f"{tokenizer} {text}", session.journal, session.launch, self.on_progress,
            self.forecast or Forecast(), cost_of(checkpoint),
        )  # fmt: skip

    def result(self, output_dir: str | None) -> RetrievalResult:
        """Put the cells together, with what follows from them.

        Raises:
            CtxextError: nothing could be measured.
        """
        self.session.check_measured(self.cells)
        asked, first, before = self.questions, self.session.checkpoints[0], self.earlier
        names, tasks = list(self.session.names), [task.name for task in self.questions.tasks]
        order = self.kept.in_order(names) if self.kept else names
        effective, middle, warnings = self._by_task()

        def place(row: CellRow | EffectiveRow | MiddleRow) -> tuple[int, int]:
            return order.index(row.model), tasks.index(row.task)

        def cell_place(row: CellRow) -> tuple[int, int, int, float]:
            return *place(row), row.length, row.depth

        return RetrievalResult(
            data=HaystackText(
                source=self.text.name if self.text else "noise",
                sha256=self.text.sha256 if self.text else None,
            ),
            score=asked.score,
            seed=asked.seed,
            samples=asked.samples,
            threshold=str(self.rule),
            tasks=tuple(tasks),
            wordings={name: str(wording) for name, wording in self.wordings.items()},
            lengths=tuple(asked.lengths),
            depths=tuple(asked.depths),
            window=before.window if before else first.position.trained_tokens,
            results=tuple(sorted(self.cells, key=cell_place)),
            effective=tuple(sorted(effective, key=place)),
            middle=tuple(sorted(middle, key=place)),
            failed=tuple(self.session.failed),
            output_dir=output_dir,
            tokenizer=first.tokenizer.name if first.tokenizer else None,
            warnings=tuple(dict.fromkeys([*self.session.warnings(), *warnings, *self._warnings()])),
        )

    def _by_task(self) -> tuple[list[EffectiveRow], list[MiddleRow], list[str]]:
        """Say for each model and task how far it reaches, and what is lost in the middle."""
        from ctxext.evaluation.retrieval.pooling import effective_row, middle_rows

        effective: list[EffectiveRow] = []
        middle: list[MiddleRow] = []
        warnings = []
        if self.earlier is not None and self.kept is not None:
            others = self.kept.others
            effective += [row for row in self.earlier.effective if row.model in others]
            middle += [row for row in self.earlier.middle if row.model in others]
            warnings += self.kept.warnings(self.earlier)
        for (name, checkpoint), task in itertools.product(self.session, self.questions.tasks):
            cells = [cell for cell in self.cells if (cell.model, cell.task) == (name, task.name)]
            if not cells:
                continue
            row = effective_row(cells, self.rule, checkpoint.position.trained_tokens)
            effective.append(row)
            if row.perhaps_length is None and self.rule.relative and row.own is not None:
                warnings.append(
                    f"{name} is right in {percent(row.own.accuracy)} of {task.name} at "
                    f"{row.own.length} tokens, inside its window: no effective length follows"
                )
            middle += middle_rows(cells)
        return effective, middle, warnings

    def _warnings(self) -> list[str]:
        warnings = list(self.warnings)
        compact = [name for name, wording in self.wordings.items() if wording == "compact"]
        short = [name for name in compact if name != "copy"]
        if short:
            warnings.append(
                f"asked in compact words, since {self.questions.lengths[0]} tokens are too few "
                f"for the published ones: {', '.join(short)}"
            )
        if self.text is not None:
            warnings += what_was_lost(self.text.name, self.text.replaced, self.text.empty)
        return warnings


def _tokens(checkpoint: Opened) -> str | None:
    """Hash what cuts a checkpoint's texts into tokens."""
    return sha256_of(checkpoint.tokens_from.folder / "tokenizer.json")


def _place(task: str | None, length: int | None) -> str:
    return f"{show_length(length or 0)} in {task}"


def _with_one_inside(
    questions: _Questions, checkpoints: Sequence[Opened], encoders: Sequence["Encoder"]
) -> tuple[Sequence[int], list[str]]:
    """Add a length inside each trained window that has none: a relative threshold needs it.

    Returns:
        All lengths, sorted, and what has to be said of those that were added or would not do.
    """
    lengths, warnings = list(questions.lengths), []
    for checkpoint, encode in zip(checkpoints, encoders, strict=True):
        window = checkpoint.position.trained_tokens
        if window is None:
            warnings.append(
                f"{checkpoint.source.name}/{CONFIG} states no window: there is no score inside it "
                "to hold the others to"
            )
            continue
        if min(lengths) <= window:
            continue
        said = f"--lengths has none inside the trained window of {window} tokens"
        if _fit(questions.tasks, [encode], window):
            lengths.insert(0, window)
            warnings.append(f"{said}: {window} is asked too, for a model's own score")
        else:
            warnings.append(f"{said}, and the questions do not fit in it: nothing to hold them to")
    return sorted(set(lengths)), warnings


def _fit(tasks: Sequence["Task"], encoders: Sequence["Encoder"], length: int) -> bool:
    """Tell whether the questions of all tasks can be asked at a length."""
    from ctxext.evaluation.retrieval.scores import wording_of

    try:
        for task, encode in itertools.product(tasks, encoders):
            wording_of(task, encode, length)
    except BadInput:
        return False
    return True


def _wordings(
    tasks: Sequence["Task"], encoders: Sequence["Encoder"], shortest: int
) -> dict[str, "Wording"]:
    """Choose one wording of each task for all models and lengths, so that they are asked alike."""
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
    lengths: Sequence[int] | None,
    depths: Sequence[float],
    samples: int,
    score: str,
) -> None:
    if not models:
        raise BadInput("no MODEL given")
    if lengths is not None and (not lengths or lengths[0] < 2):
        raise BadInput("--lengths has to hold at least one length of 2 tokens or more")
    if not depths or not all(0 <= depth <= 1 for depth in depths):
        raise BadInput("--depths have to lie between 0 (beginning) and 1 (end)")
    if samples < 1:
        raise BadInput(f"--samples is {samples}, and has to be at least 1")
    check_word(score, Score, "--score")
