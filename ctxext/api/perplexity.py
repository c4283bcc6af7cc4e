"""`ctxext eval-ppl`: several checkpoints, several lengths, one text, one table."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ctxext.api._arguments import (
    check_fields,
    checked,
    maybe_lengths,
    maybe_several,
    maybe_tokens,
    one_length,
    several,
)
from ctxext.checkpoints.config.dtype import DtypeWord, check_dtype
from ctxext.checkpoints.opened import Opened
from ctxext.choices import check_word
from ctxext.data.sources import what_was_lost
from ctxext.errors import BadInput
from ctxext.evaluation.earlier import Earlier, Kept, MeasuredBy, Settings, state_of
from ctxext.evaluation.measuring import weights_state
from ctxext.evaluation.perplexity.cautions import exploded, listed, strides, unlike
from ctxext.evaluation.session import Loading, Session, default_lengths
from ctxext.lengths import counted, show_length
from ctxext.progress import Note, Progress, silent, unheard
from ctxext.report.charts.perplexity import plot_perplexity
from ctxext.runs.rows.perplexity import (
    Bos,
    KeyRow,
    LengthRow,
    LongPerplexity,
    PerplexityResult,
    PositionRow,
    Protocol,
    ReadText,
)

if TYPE_CHECKING:
    from ctxext.evaluation.perplexity.key_tokens import KeyRule, Mask
    from ctxext.evaluation.perplexity.scores import Measured, Protocols
    from ctxext.evaluation.perplexity.texts import Texts
    from ctxext.evaluation.reading.forecast import Forecast
    from ctxext.evaluation.reading.reading import Reading

KIND = "eval-ppl"
DOCUMENT = f"{KIND}.json"


@dataclass(frozen=True)
class KeyTokens:
    """`--key-tokens`: whose key tokens, and by which rule; None = the paper's, scaled.

    Attributes:
        reference: the checkpoint that says which tokens need far context.
        context: tokens of short context.
        gain, loss: nats.
    """

    reference: str
    context: int | str | None = None
    gain: float = 2.0
    loss: float = 2.0

    def __post_init__(self) -> None:
        check_fields(self)
        object.__setattr__(self, "context", maybe_tokens(self.context, "context"))


@checked
def perplexity(
    models: str | Sequence[str],
    *,
    data: str,
    lengths: int | str | Sequence[int | str] | None = None,
    names: str | Sequence[str] | None = None,
    stride: int | str = 256,
    protocol: Protocol = "sliding",
    aligned: bool = False,
    bos: Bos = "tokenizer",
    key_tokens: KeyTokens | None = None,
    prefill_chunk: int | str = 0,
    batch_size: int | None = None,
    tokens: int | str | None = None,
    field: str = "text",
    output_dir: str | Path | None = None,
    overwrite: bool = False,
    revision: str | None = None,
    tokenizer: str | None = None,
    dtype: DtypeWord = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    on_note: Note = unheard,
    on_progress: Progress = silent,
) -> PerplexityResult:
    """Measure perplexity by window length and by position.

    Only documents that fill the longest window are read, so every length scores the same text.
    What fails at one length (out of memory, NaN) is in `failed`, and the rest is measured. Under
    `torchrun` or `accelerate launch` the processes share the windows, and all return the same.

    Args:
        models: checkpoints, measured one after the other.
        data: as `--data`.
        lengths: window lengths in tokens, or as `1k,8k`; None = `default_lengths`.
        names: what the rows call the models; None = the ends of their paths.
        stride: tokens between windows, for `sliding` and `yarn`.
        aligned: score the same tokens at every length.
        bos: `tokenizer` = where that puts it by itself; `every-window` = in place of the first
            token of each window, which is never scored, as llama.cpp's perplexity has it.
        key_tokens: measure LongPPL too.
        prefill_chunk: tokens that go through the model at once, the rest in the KV cache; 0 = all.
        batch_size: windows of one length that are read together; None = one, and of short ones as
            many as have 8192 tokens together.
        tokens: read only the first so many tokens of the text.
        tokenizer: folder or repository whose tokenizer is used; None = the checkpoint's own.
        on_note: told what will be read, before any model is loaded.
        output_dir: gets `eval-ppl.json`, `perplexity.png` and `.svg`, `ctxext.json`; one that an
            earlier run of the same settings left is gone on with: what it lacks is measured.

    Raises:
        BadInput: anything the user can mend, text shorter than a window included.
        CtxextError: nothing could be measured, corrupt weights.
    """
    models = several(models)
    asked = maybe_lengths(lengths, "lengths")
    step, read = one_length(stride, "stride"), maybe_tokens(tokens, "tokens")
    labels, chunk = maybe_several(names), one_length(prefill_chunk, "prefill_chunk", least=0)
    _check(models, asked, protocol, aligned=aligned)
    _check_reading(bos, batch_size)
    loading = Loading(revision, tokenizer, check_dtype(dtype), device, trust_remote_code, chunk)
    with Session.open(
        models, KIND, loading, names=labels, output_dir=output_dir, overwrite=overwrite,
        reference=key_tokens.reference if key_tokens else None,
    ) as session:  # fmt: skip
        from ctxext.evaluation.perplexity.texts import Texts

        earlier = session.earlier(PerplexityResult)
        windows = _lengths(asked, earlier) or default_lengths(session.checkpoints)
        rule = _rule(key_tokens, windows[-1])
        texts = Texts(data, field, read or 0, windows[-1], loading)
        begins = session.agree(lambda: _read(texts, session, bos))
        from ctxext.evaluation.perplexity.scores import Protocols

        protocols = Protocols(protocol, step, tuple(windows) if aligned else ())
        run = _Run(session, texts, windows, protocols, on_progress, begins, batch_size)
        run.states = {name: run.state(checkpoint) for name, checkpoint in session}
        settings = run.settings(rule, read)
        if earlier is not None:
            run.take_over(earlier, settings)
        session.begin()
        if session.launch.main:
            on_note(run.announcement())
        run.foretell(rule, on_note)
        run.find_keys(rule)
        for name, checkpoint in session:
            run.measure(name, checkpoint)
        result = run.result(rule, str(output_dir) if output_dir else None)

        def draw(path: Path) -> None:
            plot_perplexity(
                path, result.results, result.by_position, window=result.window,
                text=result.data.source,
            )  # fmt: skip

        measured_by = MeasuredBy.of(settings, run.states)
        session.finish(result.to_dict(), draw, "perplexity", measured_by)
        return result


def _read(texts: "Texts", session: Session, bos: Bos) -> dict[Path, int]:
    """Read the text for all checkpoints, before any model is loaded.

    Returns:
        The token that each tokenizer begins every window with, by its folder; none by default.
    """
    for checkpoint in session.every:
        _check_chunks(checkpoint, session.loading.prefill_chunk)
    texts.read(session.every)
    if session.reference:
        texts.check_comparable(session.every)
    if bos == "tokenizer":
        return {}
    return {each.tokens_from.folder: texts.bos_of(each) for each in session.every}


@dataclass
class _Run:
    """What is measured alike of every checkpoint, and the rows so far."""

    session: Session
    texts: "Texts"
    lengths: Sequence[int]
    protocols: "Protocols"
    on_progress: Progress
    bos: dict[Path, int] = dataclasses.field(default_factory=dict)
    batch_size: int | None = None
    forecast: "Forecast | None" = None
    keys: "_KeyTokens | None" = None
    results: list[LengthRow] = dataclasses.field(default_factory=list)
    positions: list[PositionRow] = dataclasses.field(default_factory=list)
    key_rows: list[KeyRow] = dataclasses.field(default_factory=list)
    states: dict[str, str] = dataclasses.field(default_factory=dict)
    earlier: PerplexityResult | None = None
    kept: Kept | None = None

    def state(self, checkpoint: Opened) -> str:
        """Hash what a checkpoint's rows depend on, the settings aside."""
        cut = self.lengths[-1] if self.protocols.protocol == "disjoint" else ""
        files = weights_state(checkpoint.source), checkpoint.identity
        return state_of(*files, self.texts.state(checkpoint), cut)

    def settings(self, rule: "KeyRule | None", tokens: int | None) -> Settings:
        """List all that every row depends on, whatever its model and length."""
        session, protocols, keys = self.session, self.protocols, None
        if rule is not None and session.reference is not None:
            reference = state_of(self.state(session.reference))[:16]
            keys = f"{session.reference.source.name} ({reference}) to {self.lengths[-1]}, {rule}"
        other = session.checkpoints[0].tokenizer
        return {
            "--data": f"text {self.texts.of(session.checkpoints[0]).text_sha256}",
            "--tokens": tokens,
            "--protocol": protocols.protocol,
            "--stride": protocols.stride,
            "--aligned": listed(protocols.aligned) or None,
            "--bos": "every-window" if self.bos else None,
            "--key-tokens": keys,
            "--tokenizer": other.name if other else None,
            "--prefill-chunk": session.loading.prefill_chunk or None,
            "--dtype": session.dtype_setting(),
        }

    def take_over(self, earlier: Earlier[PerplexityResult], settings: Settings) -> None:
        """Take the rows that the output folder has, where they are what would be measured now.

        Raises:
            BadInput: other settings, or models that would lack a length.
        """
        earlier.check(settings)
        document, names = earlier.document, self.session.names
        kept = earlier.match(document.results, names, self.session.checkpoints, self.states)
        known = [(row.model, show_length(row.length)) for row in document.results]
        known += [(row.model, show_length(row.length or 0)) for row in document.failed]
        kept.check_complete([show_length(length) for length in self.lengths], known)
        self.earlier, self.kept = document, kept
        self.results = kept.rows(document.results)
        if self.lengths[-1] == max(row.length for row in document.results):
            self.positions = kept.rows(document.by_position)
        if document.key_tokens is not None:
            self.key_rows = kept.rows(document.key_tokens.results)
        if self.protocols.aligned:  # what a length gains is told by the windows of the shortest too
            partly = {name for name in names if self.missing(name)}
            self.results = [row for row in self.results if row.model not in partly]
            self.key_rows = [row for row in self.key_rows if row.model not in partly]
        self.session.failed += [row for row in document.failed if row.model in kept.others]
        theirs = earlier.measured_by.states
        self.states = {name: theirs[name] for name in kept.others if name in theirs} | self.states

    def missing(self, name: str) -> list[int]:
        """List the lengths that a model is yet to be measured at."""
        known = {row.length for row in self.results if row.model == name}
        return [length for length in self.lengths if length not in known]

    def lacks_positions(self, name: str) -> bool:
        """Tell whether a model's buckets of positions are yet to be measured."""
        return all(row.model != name for row in self.positions)

    def announcement(self) -> str:
        """Say what will be read, and how much of it is scored."""
        first = self.session.checkpoints[0]
        documents, _ = self.texts.readable(first)
        plans = [self.protocols.plan(documents, length) for length in self.lengths]
        scored = sorted({int(plan.scored.sum()) for plan in plans})
        least = f"{scored[0]:,} to " if len(scored) > 1 else ""
        return (
            f"reading {counted(len(self.session.names), 'model')} at "
            f"{', '.join(show_length(length) for length in self.lengths)} tokens: "
            f"{counted(len(documents), 'document')}, {sum(map(len, documents)):,} tokens, of which "
            f"{least}{scored[-1]:,} are scored at each length, in "
            f"{counted(sum(map(len, plans)), 'window')} a model"
            f"{self.kept.said(len(self.results)) if self.kept else ''}"
        )

    def foretell(self, rule: "KeyRule | None", on_note: Note) -> None:
        """Add up all that is to be read, so that how long it takes can be said soon."""
        from ctxext.evaluation.perplexity.key_tokens import key_windows, token_plan
        from ctxext.evaluation.perplexity.scores import position_plan
        from ctxext.evaluation.reading.forecast import Forecast, cost_of

        longest, total = self.lengths[-1], 0.0
        for name, checkpoint in self.session:
            documents, _ = self.texts.readable(checkpoint)
            plans = [self.protocols.plan(documents, length) for length in self.missing(name)]
            if self.lacks_positions(name):
                plans.append(position_plan(documents, longest))
            total += sum(plan.cost(cost_of(checkpoint)) for plan in plans)
        if rule is not None and self.session.reference is not None:
            documents, _ = self.texts.readable(self.session.reference)
            cost = cost_of(self.session.reference)
            for length, step in key_windows(longest, self.protocols.stride, rule):
                total += token_plan(documents, length, step).cost(cost)
        launch = self.session.launch
        told = on_note if launch.main else unheard
        self.forecast = Forecast(total, launch.ranks, told)

    def reading(self, name: str, checkpoint: Opened) -> "Reading":
        """Load a checkpoint, to be read in windows."""
        from ctxext.evaluation.reading.forecast import Forecast, cost_of
        from ctxext.evaluation.reading.reading import Reading
        from ctxext.evaluation.reading.scoring import Scorer

        session, loading = self.session, self.session.loading
        scorer = session.load(
            name, checkpoint, lambda model: Scorer(model, prefill_chunk=loading.prefill_chunk)
        )
        bos = self.bos.get(checkpoint.tokens_from.folder)
        identity = (
            f"{weights_state(checkpoint.source)} {self.texts.state(checkpoint)} {loading.dtype} "
            f"{loading.prefill_chunk}{'' if bos is None else f' bos {bos}'}"
        )
        return Reading(
            scorer, name, identity, session.journal, session.launch, self.on_progress,
            self.forecast or Forecast(), cost_of(checkpoint), bos, self.batch_size,
        )  # fmt: skip

    def find_keys(self, rule: "KeyRule | None") -> None:
        """Let the reference say which tokens need far context."""
        from ctxext.evaluation.perplexity.key_tokens import key_tokens

        reference = self.session.reference
        if rule is None or reference is None or not any(map(self.missing, self.session.names)):
            return
        documents, _ = self.texts.readable(reference)
        reading = self.reading(f"reference {reference.source.name}", reference)
        masks = key_tokens(reading, documents, self.lengths[-1], self.protocols.stride, rule)
        name = f"{weights_state(reference.source)} {rule}{' bos' if self.bos else ''}"
        self.keys = _KeyTokens(reference, tuple(masks), name)

    def measure(self, name: str, checkpoint: Opened) -> None:
        """Measure all lengths of one model that are missing, and its buckets of positions."""
        from ctxext.evaluation.perplexity.scores import by_length, by_position

        longest = self.lengths[-1]
        missing = [n for n in self.missing(name) if self.session.reaches(name, checkpoint, n)]
        buckets = self.lacks_positions(name) and self.session.reaches(name, checkpoint, longest)
        if not missing and not buckets:
            return
        documents, sizes = self.texts.readable(checkpoint)
        keys = self.keys
        masks = self.texts.carried(keys.reference, keys.masks, checkpoint) if keys else None
        reading = self.reading(name, checkpoint)
        identity, window = checkpoint.identity.to_dict(), checkpoint.position.claimed_tokens
        disjoint = self.protocols.protocol == "disjoint"
        grid = self.texts.grid(checkpoint, longest if disjoint else self.protocols.stride)
        shortest: Measured | None = None
        for length in missing:
            with self.session.failing(name, length):
                measured = by_length(
                    reading, documents, length, self.protocols, sizes=sizes, keys=masks,
                    keys_name=keys.name if keys else "", grid=grid,
                )  # fmt: skip
                row = replace(measured.score, window=window, **identity)
                if self.protocols.aligned and shortest:
                    gain, stderr = measured.gain_over(shortest)
                    row = replace(row, gain=gain, gain_stderr=stderr)
                if length == self.lengths[0]:
                    shortest = measured
                self.results.append(row)
                if measured.keys:
                    self.key_rows.append(measured.keys)
        if not buckets:
            return
        with self.session.failing(name, longest):
            whole = self.texts.grid(checkpoint, longest)
            self.positions += by_position(reading, documents, longest, grid=whole)

    def result(self, rule: "KeyRule | None", output_dir: str | None) -> PerplexityResult:
        """Put the rows together, with what has to be said of them.

        Raises:
            CtxextError: nothing was measured.
        """
        self.session.check_measured(self.results)
        first, before = self.session.checkpoints[0], self.earlier
        text = self.texts.of(first)
        data = ReadText(source=text.source, tokens=len(text.ids), sha256=text.text_sha256)
        names = list(self.session.names)
        order = self.kept.in_order(names) if self.kept else names
        return PerplexityResult(
            data=before.data if before else data,
            protocol=self.protocols.protocol,
            stride=self.protocols.stride,
            aligned=bool(self.protocols.aligned),
            bos="every-window" if self.bos else None,
            results=tuple(sorted(self.results, key=lambda r: (order.index(r.model), r.length))),
            by_position=tuple(
                sorted(self.positions, key=lambda r: (order.index(r.model), r.start))
            ),
            key_tokens=self._long_perplexity(rule),
            failed=tuple(self.session.failed),
            window=before.window if before else first.position.trained_tokens,
            tokenizer=first.tokenizer.name if first.tokenizer else None,
            output_dir=output_dir,
            warnings=tuple(dict.fromkeys(self._warnings())),
        )

    def _long_perplexity(self, rule: "KeyRule | None") -> LongPerplexity | None:
        if rule is None or self.session.reference is None:
            return None
        return LongPerplexity(
            reference=self.session.reference.source.name, context=rule.context, block=rule.block,
            gain=rule.gain, loss=rule.loss, results=tuple(self.key_rows),
        )  # fmt: skip

    def _warnings(self) -> list[str]:
        warnings = self.session.warnings()
        if self.earlier is not None and self.kept is not None:
            warnings = self.kept.warnings(self.earlier) + warnings
        warnings += strides(self.protocols, [row.length for row in self.results])
        warnings += unlike(self.protocols, self.results)
        warnings += exploded([*self.results, *self.positions, *self.key_rows])
        text = self.texts.of(self.session.checkpoints[0])
        warnings += what_was_lost(text.source, text.replaced, text.empty)
        if self.key_rows and not any(row.tokens for row in self.key_rows):
            warnings.append(
                "no token needs far context by --key-tokens' reference: longer text, or a lower "
                "--key-gain"
            )
        return warnings


@dataclass(frozen=True)
class _KeyTokens:
    """A reference's key tokens of each of its readable documents, and what they depend on."""

    reference: Opened
    masks: tuple["Mask", ...]
    name: str


def _lengths(
    asked: Sequence[int] | None, earlier: Earlier[PerplexityResult] | None
) -> Sequence[int] | None:
    """Add the lengths that were measured before; None where neither says any."""
    known = {row.length for row in earlier.document.results} if earlier else set()
    return sorted(known.union(asked or ())) or None


def _rule(wanted: KeyTokens | None, longest: int) -> "KeyRule | None":
    if wanted is None:
        return None
    from ctxext.evaluation.perplexity.key_tokens import rule_for

    rule = rule_for(
        longest, context=maybe_tokens(wanted.context, "context"), gain=wanted.gain, loss=wanted.loss
    )
    rule.check(longest)
    return rule


def _check(
    models: Sequence[str],
    lengths: Sequence[int] | None,
    protocol: str,
    *,
    aligned: bool,
) -> None:
    if not models:
        raise BadInput("no MODEL given")
    if lengths is not None and (not lengths or lengths[0] < 2):
        raise BadInput("--lengths has to hold at least one window of 2 tokens or more")
    check_word(protocol, Protocol, "--protocol")
    if aligned and protocol != "sliding":
        raise BadInput(
            f"--aligned has windows of its own and --protocol {protocol} others",
            "leave out one of them",
        )


def _check_reading(bos: str, batch_size: int | None) -> None:
    check_word(bos, Bos, "--bos")
    if batch_size is not None and batch_size < 1:
        raise BadInput(f"--batch-size is {batch_size}, and has to be at least 1")


def _check_chunks(checkpoint: Opened, chunk: int) -> None:
    """Refuse chunks where frequencies follow the length of what is read at once."""
    rope = checkpoint.position.rope
    if chunk and rope and rope.block.follows_length:
        raise BadInput(
            f"--prefill-chunk: {checkpoint.source.name} has {rope.block.rope_type} scaling, whose "
            "frequencies depend on how much is read at once",
            "leave out --prefill-chunk",
        )
