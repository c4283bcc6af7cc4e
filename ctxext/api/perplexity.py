"""`ctxext eval-ppl`: several checkpoints, several lengths, one text, one table."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ctxext.api._arguments import maybe_lengths, several
from ctxext.checkpoints.config.dtype import DtypeWord, check_dtype
from ctxext.checkpoints.opened import Opened
from ctxext.choices import check_word
from ctxext.encodings.rope_types import rope_type_facts
from ctxext.errors import BadInput
from ctxext.evaluation.measuring import weights_state
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
    PerplexityRow,
    PositionRow,
    Protocol,
    ReadText,
    unlike_counts,
)
from ctxext.runs.rows.row import models_of

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
    context: int | None = None
    gain: float = 2.0
    loss: float = 2.0


def perplexity(
    models: str | Sequence[str],
    *,
    data: str,
    lengths: str | Sequence[int | str] | None = None,
    names: Sequence[str] | None = None,
    stride: int = 256,
    protocol: Protocol = "sliding",
    aligned: bool = False,
    bos: Bos = "tokenizer",
    key_tokens: KeyTokens | None = None,
    prefill_chunk: int = 0,
    batch_size: int | None = None,
    tokens: int | None = None,
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
        output_dir: gets `eval-ppl.json`, `perplexity.png` and `.svg`, `ctxext.json`; one that a
            killed run left is gone on with.

    Raises:
        BadInput: anything the user can mend, text shorter than a window included.
        CtxextError: nothing could be measured, corrupt weights.
    """
    models = several(models)
    asked = maybe_lengths(lengths, "lengths")
    _check(models, asked, stride, protocol, aligned=aligned)
    _check_reading(bos, batch_size)
    loading = Loading(
        revision, tokenizer, check_dtype(dtype), device, trust_remote_code, prefill_chunk
    )
    with Session.open(
        models, KIND, loading, names=names, output_dir=output_dir, overwrite=overwrite,
        reference=key_tokens.reference if key_tokens else None,
    ) as session:  # fmt: skip
        from ctxext.evaluation.perplexity.texts import Texts

        lengths = asked or default_lengths(session.checkpoints)
        rule = _rule(key_tokens, lengths[-1])
        texts = Texts(data, field, tokens or 0, lengths[-1], loading)
        begins = session.agree(lambda: _read(texts, session, bos))
        from ctxext.evaluation.perplexity.scores import Protocols

        protocols = Protocols(protocol, stride, tuple(lengths) if aligned else ())
        run = _Run(session, texts, lengths, protocols, on_progress, begins, batch_size)
        session.begin()
        if session.launch.main:
            on_note(run.announcement())
        run.foretell(rule, on_note)
        run.find_keys(rule)
        for name, checkpoint in session:
            run.measure(name, checkpoint)
        result = run.result(rule, str(output_dir) if output_dir else None)

        def draw(path: Path) -> None:
            plot_perplexity(path, result.results, result.by_position, window=result.window)

        session.finish(result.to_dict(), draw, "perplexity")
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
        )

    def foretell(self, rule: "KeyRule | None", on_note: Note) -> None:
        """Add up all that is to be read, so that how long it takes can be said soon."""
        from ctxext.evaluation.perplexity.key_tokens import key_windows, token_plan
        from ctxext.evaluation.perplexity.scores import position_plan
        from ctxext.evaluation.reading.forecast import Forecast, cost_of

        longest, total = self.lengths[-1], 0.0
        for checkpoint in self.session.checkpoints:
            documents, _ = self.texts.readable(checkpoint)
            plans = [self.protocols.plan(documents, length) for length in self.lengths]
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
        if rule is None or reference is None:
            return
        documents, _ = self.texts.readable(reference)
        reading = self.reading(f"reference {reference.source.name}", reference)
        masks = key_tokens(reading, documents, self.lengths[-1], self.protocols.stride, rule)
        name = f"{weights_state(reference.source)} {rule}{' bos' if self.bos else ''}"
        self.keys = _KeyTokens(reference, tuple(masks), name)

    def measure(self, name: str, checkpoint: Opened) -> None:
        """Measure all lengths of one model, and its buckets of positions."""
        from ctxext.evaluation.perplexity.scores import by_length, by_position

        documents, sizes = self.texts.readable(checkpoint)
        keys = self.keys
        masks = self.texts.carried(keys.reference, keys.masks, checkpoint) if keys else None
        reading = self.reading(name, checkpoint)
        identity, window = checkpoint.identity.to_dict(), checkpoint.position.window.current
        longest = self.lengths[-1]
        disjoint = self.protocols.protocol == "disjoint"
        grid = self.texts.grid(checkpoint, longest if disjoint else self.protocols.stride)
        shortest: Measured | None = None
        for length in self.lengths:
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
        with self.session.failing(name, longest):
            whole = self.texts.grid(checkpoint, longest)
            self.positions += by_position(reading, documents, longest, grid=whole)

    def result(self, rule: "KeyRule | None", output_dir: str | None) -> PerplexityResult:
        """Put the rows together, with what has to be said of them.

        Raises:
            CtxextError: nothing was measured.
        """
        self.session.check_measured(self.results)
        first = self.session.checkpoints[0]
        text = self.texts.of(first)
        return PerplexityResult(
            data=ReadText(source=text.source, tokens=len(text.ids), sha256=text.text_sha256),
            protocol=self.protocols.protocol,
            stride=self.protocols.stride,
            aligned=bool(self.protocols.aligned),
            bos="every-window" if self.bos else None,
            results=tuple(self.results),
            by_position=tuple(self.positions),
            key_tokens=self._long_perplexity(rule),
            failed=tuple(self.session.failed),
            window=first.position.window.original,
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
        warnings += _strides(self.protocols, [row.length for row in self.results])
        warnings += _unlike(self.protocols, self.results)
        warnings += _exploded([*self.results, *self.positions, *self.key_rows])
        text = self.texts.of(self.session.checkpoints[0])
        if text.replaced:
            warnings.append(f"--data {text.source}: {text.replaced} bytes were not UTF-8")
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


def _strides(protocols: "Protocols", lengths: Sequence[int]) -> list[str]:
    """Warn where the stride that was asked for is not the one that was used."""
    asked, lengths = protocols.stride, sorted(set(lengths))
    if protocols.aligned:
        scored = min(protocols.aligned) - 1
        return [
            f"--aligned scores {scored} of every {asked} tokens, since windows of {scored + 1} "
            f"have no more before their end than --stride moves: --stride {scored} scores all, or "
            "leave out the short lengths"
        ] if scored < asked else []  # fmt: skip
    if protocols.protocol == "disjoint":
        return []  # strides of its own
    shorter = [length for length in lengths if length < asked]
    return [
        f"--stride {asked} is longer than windows of {_listed(shorter)} tokens: there the stride "
        f"was {_listed([protocols.step(length) for length in shorter])}"
    ] if shorter else []  # fmt: skip


def _unlike(protocols: "Protocols", rows: Sequence[LengthRow]) -> list[str]:
    """Warn where lengths do not score the same tokens, so that their numbers differ by that too."""
    counts = unlike_counts(rows)
    if counts is None:
        return []
    how = (
        "--protocol disjoint"
        if protocols.protocol == "disjoint"
        else f"--stride {protocols.stride}"
    )
    return [
        f"{how}: lengths do not score the same tokens ({counts[0]:,} to {counts[1]:,}), since the "
        "first of each window has nothing before it; --aligned compares lengths on the same ones"
    ]


def _exploded(rows: Sequence[PerplexityRow]) -> list[str]:
    """Warn of models with a perplexity that no number holds."""
    models = models_of([row for row in rows if row.note is not None])
    return [
        f"{model}: a perplexity is beyond what a number can hold (null; its nll is there): the "
        "model has exploded"
        for model in models
    ]


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _rule(wanted: KeyTokens | None, longest: int) -> "KeyRule | None":
    if wanted is None:
        return None
    from ctxext.evaluation.perplexity.key_tokens import rule_for

    rule = rule_for(longest, context=wanted.context, gain=wanted.gain, loss=wanted.loss)
    rule.check(longest)
    return rule


def _check(
    models: Sequence[str],
    lengths: Sequence[int] | None,
    stride: int,
    protocol: str,
    *,
    aligned: bool,
) -> None:
    if not models:
        raise BadInput("no MODEL given")
    if lengths is not None and (not lengths or lengths[0] < 2):
        raise BadInput("--lengths has to hold at least one window of 2 tokens or more")
    if stride < 1:
        raise BadInput(f"--stride is {stride}, and has to be at least 1")
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
    if chunk and rope and rope_type_facts(rope.block.rope_type).follows_length:
        raise BadInput(
            f"--prefill-chunk: {checkpoint.source.name} has {rope.block.rope_type} scaling, whose "
            "frequencies depend on how much is read at once",
            "leave out --prefill-chunk",
        )
