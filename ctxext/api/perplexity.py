"""`ctxext eval-ppl`: several checkpoints, several lengths, one text, one table."""

import gc
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxext.api._arguments import several, several_lengths
from ctxext.checkpoints.config.dtype import check_dtype
from ctxext.checkpoints.config.quantised import read_unquantised
from ctxext.checkpoints.folder import CONFIG
from ctxext.checkpoints.live.tensors import check_tensors
from ctxext.checkpoints.live.tokenizer import has_tokenizer
from ctxext.checkpoints.names import names_of
from ctxext.checkpoints.opened import Opened, open_checkpoint, tokenizer_of
from ctxext.checkpoints.provenance import sha256_of
from ctxext.data.cache import check_cache_folder
from ctxext.data.sources import Source as TextSource
from ctxext.data.store import TokenFile, stored_tokens, tokenizer_digest
from ctxext.data.tokens import Tokens, check_top
from ctxext.encodings.rope_types import rope_type_facts
from ctxext.errors import BadInput, CtxextError
from ctxext.evaluation.measuring import Measuring, free_gpu, weights_state
from ctxext.evaluation.reading.windows import readable
from ctxext.machine.launch import Launch, launched
from ctxext.progress import Progress, silent
from ctxext.report.charts.perplexity import plot_perplexity
from ctxext.runs.numbers import whole
from ctxext.runs.rows.perplexity import (
    KeyRow,
    LengthRow,
    LongPerplexity,
    PerplexityRow,
    PositionRow,
)
from ctxext.runs.rows.row import Failed, models_of

if TYPE_CHECKING:
    from ctxext.evaluation.perplexity.key_tokens import KeyRule, Mask
    from ctxext.evaluation.perplexity.scores import Protocol, Protocols
    from ctxext.evaluation.reading.reading import Reading

PROTOCOLS = ("sliding", "disjoint", "yarn")
KIND = "eval-ppl"
DOCUMENT = f"{KIND}.json"


@dataclass(frozen=True)
class PerplexityResult:
    """Perplexities of several models; `to_dict` is the eval-ppl JSON document.

    `results` has a row for each model and length, `by_position` for each model and bucket,
    `failed` for each model and length that could not be measured.
    """

    source: str
    tokens: int
    sha256: str
    protocol: str
    stride: int
    aligned: bool
    results: tuple[LengthRow, ...]
    by_position: tuple[PositionRow, ...]
    key_tokens: LongPerplexity | None
    failed: tuple[Failed, ...]
    window: int
    output_dir: str | None
    warnings: tuple[str, ...]
    tokenizer: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": "ctxext.eval-ppl/1",
            "data": {"source": self.source, "tokens": self.tokens, "sha256": self.sha256},
            "protocol": self.protocol,
            "stride": self.stride,
            "aligned": self.aligned,
            "results": [row.to_dict() for row in self.results],
            "by_position": [row.to_dict() for row in self.by_position],
            "key_tokens": self.key_tokens.to_dict() if self.key_tokens else None,
            "failed": [row.to_dict() for row in self.failed],
            "window": self.window,
            "tokenizer": self.tokenizer,
            "output_dir": self.output_dir,
            "warnings": list(self.warnings),
        }


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
    lengths: str | Sequence[int | str],
    names: Sequence[str] | None = None,
    stride: int = 256,
    protocol: "Protocol" = "sliding",
    aligned: bool = False,
    key_tokens: KeyTokens | None = None,
    prefill_chunk: int = 0,
    tokens: int | None = None,
    field: str = "text",
    output_dir: str | Path | None = None,
    overwrite: bool = False,
    revision: str | None = None,
    tokenizer: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    on_progress: Progress = silent,
) -> PerplexityResult:
    """Measure perplexity by window length and by position.

    Only documents that fill the longest window are read, so every length scores the same text.
    What fails at one length (out of memory, NaN) is in `failed`, and the rest is measured. Under
    `torchrun` or `accelerate launch` the processes share the windows, and all return the same.

    Args:
        models: checkpoints, measured one after the other.
        data: as `--data`.
        lengths: window lengths in tokens, or as `1k,8k`.
        names: what the rows call the models; None = the ends of their paths.
        stride: tokens between windows, for `sliding` and `yarn`.
        aligned: score the same tokens at every length.
        key_tokens: measure LongPPL too.
        prefill_chunk: tokens that go through the model at once, the rest in the KV cache; 0 = all.
        tokens: read only the first so many tokens of the text.
        tokenizer: folder or repository whose tokenizer is used; None = the checkpoint's own.
        output_dir: gets `eval-ppl.json`, `perplexity.png` and `.svg`, `ctxext.json`; one that a
            killed run left is gone on with.

    Raises:
        BadInput: anything the user can mend, text shorter than a window included.
        CtxextError: nothing could be measured, corrupt weights.
    """
    models, lengths = several(models), several_lengths(lengths, "lengths")
    _check(models, lengths, stride, protocol, aligned=aligned)
    kind = check_dtype(dtype)
    rule = _rule(key_tokens, lengths[-1])
    with launched(device) as launch, ExitStack() as held:

        def look() -> tuple[list[Opened], Opened | None, Measuring]:
            opened = [
                open_checkpoint(model, revision=revision, tokenizer=tokenizer) for model in models
            ]
            reference = _reference(key_tokens.reference, tokenizer) if key_tokens else None
            every = [*opened, *([reference] if reference else [])]
            measuring = Measuring(
                Path(output_dir) if output_dir is not None else None, KIND, overwrite=overwrite,
                inputs=tuple(one.source.folder for one in every), launch=launch, held=held,
            )  # fmt: skip
            for one in every:
                read_unquantised(one.source, "evaluate")
                _check_chunks(one, prefill_chunk)
            TextSource(data, field).check()
            check_cache_folder()
            return opened, reference, measuring

        opened, reference, measuring = launch.agree(look)
        texts = _Texts(
            data, field, tokens, lengths[-1], trust_remote_code, several=reference is not None
        )

        def read() -> None:
            for one in [*opened, *([reference] if reference else [])]:
                check_tensors(one.source, trust_remote_code=trust_remote_code)
                # Too little text, or a foreign tokenizer, is said before any model is loaded.
                embeddings = whole(one.config, "vocab_size", f"{one.source.name}/{CONFIG}")
                check_top(texts.of(one).top, embeddings or 2**31)
            if reference:
                texts.check_comparable([*opened, reference])

        launch.agree(read)

        from ctxext.evaluation.perplexity.scores import Protocols

        protocols = Protocols(protocol, stride, tuple(lengths) if aligned else ())
        run = _Run(
            launch, measuring, texts, kind, device, trust_remote_code, prefill_chunk, on_progress
        )
        run.begin()
        keys = run.key_tokens(reference, lengths[-1], stride, rule) if reference and rule else None
        names = list(names) if names is not None else names_of(models, opened)
        for name, one in zip(names, opened, strict=True):
            run.measure(name, one, lengths, protocols, keys)
        warnings = [f"{n}: {w}" for n, one in zip(names, opened, strict=True) for w in one.warnings]
        warnings += run.notes
        result = run.result(
            opened, protocols, warnings, reference, rule, str(output_dir) if output_dir else None
        )

        def draw(folder: Path) -> None:
            for suffix in ("png", "svg"):
                plot_perplexity(
                    folder / f"perplexity.{suffix}", result.results, result.by_position,
                    window=result.window,
                )  # fmt: skip

        launch.on_main(lambda: measuring.finish(result.to_dict(), draw, finished=not result.failed))
        return result


def _reference(model: str, tokenizer: str | None) -> Opened:
    """The checkpoint of `--key-tokens`, with the tokenizer named only where it has none."""
    opened = open_checkpoint(model)
    if tokenizer is None or has_tokenizer(opened.source.folder):
        return opened
    return open_checkpoint(model, tokenizer=tokenizer)


class _Run:
    """Models measured one after the other, and what was found."""

    def __init__(
        self,
        launch: Launch,
        measuring: Measuring,
        texts: "_Texts",
        dtype: Any,
        device: str,
        trust_remote_code: bool,
        prefill_chunk: int,
        on_progress: Progress,
    ) -> None:
        self._launch, self._measuring, self._texts = launch, measuring, texts
        self._dtype, self._device, self._trust = dtype, device, trust_remote_code
        self._chunk, self._on_progress = prefill_chunk, on_progress
        self._results: list[LengthRow] = []
        self._positions: list[PositionRow] = []
        self._keys: list[KeyRow] = []
        self._failed: list[Failed] = []
        self._why: CtxextError | None = None
        self.notes: list[str] = []

    def begin(self) -> None:
        self._journal = self._measuring.begin()

    def reading(self, name: str, one: Opened) -> "Reading":
        """A checkpoint, loaded."""
        from ctxext.checkpoints.live.load import device_of, load_model
        from ctxext.evaluation.reading.reading import Reading
        from ctxext.evaluation.reading.scoring import Scorer

        def load() -> Scorer:
            place = device_of(self._device, self._launch)
            live = load_model(
                one.source, one.position, dtype=self._dtype, device=place,
                trust_remote_code=self._trust,
                on_note=lambda note: self.notes.append(f"{name}: {note}"),
            )  # fmt: skip
            return Scorer(live, prefill_chunk=self._chunk)

        identity = (
            f"{weights_state(one.source)} {self._texts.state(one)} {self._dtype} {self._chunk}"
        )
        return Reading(
            self._launch.agree(load), name, identity, self._journal, self._launch,
            self._on_progress,
        )  # fmt: skip

    def key_tokens(
        self, reference: Opened, length: int, stride: int, rule: "KeyRule"
    ) -> "_KeyTokens":
        """The reference's key tokens, for any tokenizer."""
        from ctxext.evaluation.perplexity.key_tokens import key_tokens

        documents, _ = self._texts.readable(reference)
        reading = self.reading(f"reference {reference.source.name}", reference)
        masks = key_tokens(reading, documents, length, stride, rule)
        del reading
        gc.collect()
        return _KeyTokens(reference, tuple(masks), f"{weights_state(reference.source)} {rule}")

    def measure(
        self,
        name: str,
        one: Opened,
        lengths: Sequence[int],
        protocols: "Protocols",
        keys: "_KeyTokens | None",
    ) -> None:
        """All lengths of one model, and its buckets of positions."""
        from ctxext.evaluation.perplexity.scores import Measured, by_length, by_position

        documents, sizes = self._texts.readable(one)
        masks = self._texts.carried(keys.reference, keys.masks, one) if keys else None
        reading = self.reading(name, one)
        shortest: Measured | None = None
        for length in lengths:
            try:
                found = by_length(
                    reading, documents, length, protocols, sizes=sizes, keys=masks,
                    keys_name=keys.name if keys else "",
                )  # fmt: skip
            except CtxextError as error:
                self._fail(name, length, error)
                continue
            row = replace(found.score, window=one.position.window.current, **one.identity.to_dict())
            if protocols.aligned and shortest:
                gain, stderr = found.gain_over(shortest)
                row = replace(row, gain=gain, gain_stderr=stderr)
            if length == lengths[0]:
                shortest = found
            self._results.append(row)
            if found.keys:
                self._keys.append(found.keys)
        try:
            self._positions += by_position(reading, documents, lengths[-1])
        except CtxextError as error:
            self._fail(name, lengths[-1], error)
        del reading
        gc.collect()

    def _fail(self, name: str, length: int, error: CtxextError) -> None:
        """Kept for the result: the other lengths may do."""
        free_gpu()
        self._why = error
        known = any(row.model == name and row.length == length for row in self._failed)
        if not known:
            self._failed.append(Failed(model=name, length=length, error=str(error)))

    def result(
        self,
        opened: Sequence[Opened],
        protocols: "Protocols",
        warnings: list[str],
        reference: Opened | None,
        rule: "KeyRule | None",
        output_dir: str | None,
    ) -> PerplexityResult:
        """What was measured.

        Raises:
            CtxextError: nothing was.
        """
        if self._why is not None and not self._results:
            raise self._why
        first = self._texts.of(opened[0])
        warnings += _strides(protocols, [row.length for row in self._results])
        warnings += _exploded([*self._results, *self._positions, *self._keys])
        if first.replaced:
            warnings.append(f"--data {first.source}: {first.replaced} bytes were not UTF-8")
        keys = None
        if reference and rule:
            keys = LongPerplexity(
                reference=reference.source.name, context=rule.context, block=rule.block,
                gain=rule.gain, loss=rule.loss, results=tuple(self._keys),
            )  # fmt: skip
            if self._keys and not any(row.tokens for row in self._keys):
                warnings.append(
                    "no token needs far context by --key-tokens' reference: longer text, or a "
                    "lower --key-gain"
                )
        return PerplexityResult(
            source=first.source,
            tokens=len(first.ids),
            sha256=first.text_sha256,
            protocol=protocols.protocol,
            stride=protocols.stride,
            aligned=bool(protocols.aligned),
            results=tuple(self._results),
            by_position=tuple(self._positions),
            key_tokens=keys,
            failed=tuple(self._failed),
            window=opened[0].position.window.original,
            tokenizer=opened[0].tokenizer.name if opened[0].tokenizer else None,
            output_dir=output_dir,
            warnings=tuple(dict.fromkeys(warnings)),
        )


@dataclass(frozen=True)
class _KeyTokens:
    """A reference's key tokens of each of its readable documents, and what they depend on."""

    reference: Opened
    masks: tuple["Mask", ...]
    name: str


class _Texts:
    """The text as each tokenizer cuts it; checkpoints with the same tokenizer share the work."""

    def __init__(
        self,
        data: str,
        field: str,
        limit: int | None,
        longest: int,
        trust_remote_code: bool,
        *,
        several: bool,
    ) -> None:
        self._data, self._field, self._limit = data, field, limit
        self._longest, self._trust = longest, trust_remote_code
        self._known: dict[str, TokenFile] = {}
        self._several = several

    def of(self, opened: Opened) -> TokenFile:
        """All documents read.

        Raises:
            BadInput: none fills the longest window.
        """
        key = self._key(opened)
        if key not in self._known:
            tokenizer = tokenizer_of(opened, trust_remote_code=self._trust)
            file = stored_tokens(
                TextSource(self._data, self._field), tokenizer,
                tokenizer_digest(opened.tokens_from.folder), None, self._limit or 0,
                with_sizes=True,
            )  # fmt: skip
            readable(file.lengths, self._longest, source=file.source)
            self._known[key] = file
        return self._known[key]

    def readable(self, opened: Opened) -> tuple[list[Tokens], list[Tokens] | None]:
        """The documents that fill the longest window, and the bytes of text of their tokens."""
        file = self.of(opened)
        chosen = self._chosen(opened)
        sizes: list[Tokens] = [part for i in chosen if (part := file.sizes_of(i)) is not None]
        return [file.document(i) for i in chosen], sizes or None

    def carried(self, reference: Opened, masks: Sequence["Mask"], opened: Opened) -> list["Mask"]:
        """Key tokens of a reference's documents as the tokens of another checkpoint."""
        from ctxext.evaluation.perplexity.key_tokens import carried_over

        if self._key(reference) == self._key(opened):
            return list(masks)
        theirs, ours = self.of(reference), self.of(opened)
        found = dict(zip(self._chosen(reference), masks, strict=True))
        out = []
        for index in self._chosen(opened):
            mask, from_sizes, to_sizes = (
                found.get(index), theirs.sizes_of(index), ours.sizes_of(index)
            )  # fmt: skip
            if from_sizes is None or to_sizes is None:
                raise BadInput(  # check_comparable has said it
                    "--key-tokens needs fast tokenizers to compare two of them"
                )
            if mask is None:  # too short for the reference's window
                out.append(_none(len(to_sizes)))
            else:
                out.append(carried_over(mask, from_sizes, to_sizes))
        return out

    def check_comparable(self, opened: Sequence[Opened]) -> None:
        """Raises:
        BadInput: tokenizers differ, and one of them cannot say where its tokens stand.
        """
        if len({self._key(one) for one in opened}) == 1:
            return
        for one in opened:
            if self.of(one).sizes is None:
                raise BadInput(
                    f"--key-tokens: the tokenizer of {one.source.name} is not another's, and "
                    "cannot say where its tokens stand in the text (it is a slow one)",
                    "convert it: AutoTokenizer.from_pretrained(...).save_pretrained(...)",
                )

    def state(self, opened: Opened) -> str:
        """What the numbers depend on."""
        file = self.of(opened)
        return f"{self._key(opened)} {file.text_sha256} {file.sha256} {self._longest}"

    def _chosen(self, opened: Opened) -> list[int]:
        file = self.of(opened)
        return readable(file.lengths, self._longest, source=file.source)

    def _key(self, opened: Opened) -> str:
        folder = opened.tokens_from.folder
        return sha256_of(folder / "tokenizer.json") or str(folder.resolve())


def _strides(protocols: "Protocols", lengths: Sequence[int]) -> list[str]:
    """What is said where the stride that was asked for is not the one that was used."""
    asked, lengths = protocols.stride, sorted(set(lengths))
    if protocols.aligned or protocols.protocol == "disjoint":
        return []  # the same tokens at every length; strides of its own
    shorter = [length for length in lengths if length < asked]
    out = [
        f"--stride {asked} is longer than windows of {_listed(shorter)} tokens: there the stride "
        f"was {_listed([protocols.step(length) for length in shorter])}"
    ] if shorter else []  # fmt: skip
    if asked in lengths and len(lengths) > 1:
        out.append(
            f"--stride {asked} is as long as windows of {asked} tokens: the first token of each "
            "has nothing before it and is not scored there"
        )
    return out


def _exploded(rows: Sequence[PerplexityRow]) -> list[str]:
    """The models with a perplexity that no number holds."""
    models = models_of([row for row in rows if row.note is not None])
    return [
        f"{model}: a perplexity is beyond what a number can hold (null; its nll is there): the "
        "model has exploded"
        for model in models
    ]


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _none(size: int) -> Any:
    import numpy as np

    return np.zeros(size, dtype=bool)


def _rule(wanted: KeyTokens | None, longest: int) -> "KeyRule | None":
    if wanted is None:
        return None
    from ctxext.evaluation.perplexity.key_tokens import rule_for

    rule = rule_for(longest, context=wanted.context, gain=wanted.gain, loss=wanted.loss)
    rule.check(longest)
    return rule


def _check(
    models: Sequence[str], lengths: Sequence[int], stride: int, protocol: str, *, aligned: bool
) -> None:
    if not models:
        raise BadInput("no MODEL given")
    if not lengths or lengths[0] < 2:
        raise BadInput("--lengths has to hold at least one window of 2 tokens or more")
    if stride < 1:
        raise BadInput(f"--stride is {stride}, and has to be at least 1")
    if protocol not in PROTOCOLS:
        raise BadInput(f"--protocol is {protocol!r}; there is {', '.join(PROTOCOLS)}")
    if aligned and protocol != "sliding":
        raise BadInput(
            f"--aligned has windows of its own and --protocol {protocol} others",
            "leave out one of them",
        )


def _check_chunks(one: Opened, chunk: int) -> None:
    """Frequencies that follow the length of the input would be others in every chunk."""
    rope = one.position.rope
    if chunk and rope and rope_type_facts(rope.block.rope_type).follows_length:
        raise BadInput(
            f"--prefill-chunk: {one.source.name} has {rope.block.rope_type} scaling, whose "
            "frequencies depend on how much is read at once",
            "leave out --prefill-chunk",
        )
