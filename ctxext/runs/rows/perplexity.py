"""Perplexities: by window length, by position in a window, and over key tokens."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from ctxext.runs.checked import Broken
from ctxext.runs.fields import MOST_TOKENS, bounded, only_with
from ctxext.runs.rows.blocks import Blocks
from ctxext.runs.rows.row import SHA256, Document, Failed, Row

Protocol = Literal["sliding", "disjoint", "yarn"]
"""How windows are cut, and which of their tokens count."""
Bos = Literal["tokenizer", "every-window"]
"""Where the BOS token stands: where the tokenizer puts it, or first in every window."""
LARGEST_NLL = 700.0
"""Nats; e^709 is the last perplexity that has a float."""


def _perplexity() -> Any:
    return bounded(above=0, most=math.inf)  # as large as a float can be where a model explodes


@dataclass(frozen=True, kw_only=True)
class _AtLength(Row):
    """A perplexity with windows of `length` tokens.

    Attributes:
        perplexity: None where exp(nll) has no float; `note` says so.
        stderr: of `nll`, nats, by block bootstrap.
        tokens: scored.
    """

    model: str
    length: int = bounded(least=1, most=MOST_TOKENS)
    perplexity: float | None = _perplexity()
    nll: float | None
    stderr: float | None = bounded(least=0)
    tokens: int | None

    @property
    def place(self) -> tuple[int, ...]:
        return (self.length,)

    @property
    def at(self) -> int:
        """Where the point of a curve stands, tokens."""
        return self.length


@dataclass(frozen=True, kw_only=True)
class LengthRow(_AtLength):
    """Perplexity of all tokens that are scored.

    Attributes:
        stride: tokens between windows.
        bits_per_byte: nll / ln 2 x tokens scored / bytes of their text.
        window: what the model reads, tokens.
        gain, gain_stderr: nats a token over the shortest length; only where windows are aligned.
    """

    seconds: float | None = None
    stride: int | None = None
    bits_per_byte: float | None = None
    note: str | None = only_with("note")
    config_sha256: str | None = bounded(None, matches=SHA256)
    record_sha256: str | None = bounded(None, matches=SHA256)
    rope_sha256: str | None = bounded(None, matches=SHA256)
    weights_sha256: str | None = only_with("weights_sha256", matches=SHA256)
    window: int | None = bounded(None, least=1, most=MOST_TOKENS)
    gain: float | None = only_with("gain")
    gain_stderr: float | None = only_with("gain")
    blocks: Blocks | None = only_with("blocks")


@dataclass(frozen=True, kw_only=True)
class PositionRow(Row):
    """Perplexity of the tokens at positions [start, end) of a window; `stderr` of `nll`, nats."""

    model: str
    start: int = bounded(least=0, most=MOST_TOKENS)
    end: int = bounded(least=1, most=MOST_TOKENS)
    perplexity: float | None = _perplexity()
    nll: float | None
    stderr: float | None = bounded(least=0)
    tokens: int | None
    note: str | None = only_with("note")
    blocks: Blocks | None = only_with("blocks")

    @property
    def place(self) -> tuple[int, ...]:
        return self.start, self.end

    @property
    def at(self) -> int:
        """Where the point of a curve stands: at its last token."""
        return self.end


@dataclass(frozen=True, kw_only=True)
class KeyRow(_AtLength):
    """LongPPL: perplexity of the key tokens among those scored, and their share of them."""

    share: float | None = bounded(least=0, most=1)
    note: str | None = only_with("note")


@dataclass(frozen=True, kw_only=True)
class LongPerplexity(Row):
    """LongPPL: the reference, the rule of its key tokens (tokens, nats), and the perplexities."""

    reference: str
    context: int | None = None
    block: int | None = None
    gain: float | None = None
    loss: float | None = None
    results: tuple[KeyRow, ...]


PerplexityRow = LengthRow | PositionRow | KeyRow
"""What a curve of perplexities is drawn of."""


@dataclass(frozen=True, kw_only=True)
class ReadText(Row):
    """The text that was read."""

    source: str
    tokens: int | None = None
    sha256: str = bounded(matches=SHA256)


@dataclass(frozen=True, kw_only=True)
class PerplexityResult(Document):
    """Perplexities of several models, as `eval-ppl.json` has them.

    `results` has a row for each model and length, `by_position` for each model and bucket,
    `failed` for each model and length that could not be measured. `bos`: only where every window
    begins with it.
    """

    schema: ClassVar[str] = "ctxext.eval-ppl/1"
    data: ReadText
    protocol: str
    stride: int = bounded(least=1, most=MOST_TOKENS)
    aligned: bool = False
    bos: str | None = only_with("bos")
    results: tuple[LengthRow, ...]
    by_position: tuple[PositionRow, ...]
    key_tokens: LongPerplexity | None = None
    failed: tuple[Failed, ...] = ()
    window: int | None = bounded(None, least=1, most=MOST_TOKENS)
    tokenizer: str | None = None
    output_dir: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def how_read(self) -> str:
        """Say how windows were cut, and which tokens are scored where that is not all of them."""
        parts = ["same tokens at every length" if self.aligned else f"{self.protocol} windows"]
        if self.protocol != "disjoint":
            parts.append(f"stride {self.stride}")
        if self.bos is not None:
            parts.append(f"BOS in {self.bos.replace('-', ' ')}")
        lengths = [row.length for row in self.results]
        lengths += [row.length for row in self.failed if row.length is not None]
        counts = unlike_counts(self.results)
        if self.aligned and lengths and min(lengths) <= self.stride:
            parts.append(f"{min(lengths) - 1} of every {self.stride} tokens scored")
        elif counts is not None:
            parts.append(f"lengths score {counts[0]:,} to {counts[1]:,} tokens, not the same ones")
        return ", ".join(parts)

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        document = super().from_dict(values)
        check_agreement("results", "length", document.results)
        check_agreement("by_position", "start", document.by_position)
        return document


def unlike_counts(rows: Iterable[LengthRow]) -> tuple[int, int] | None:
    """Give the fewest and the most tokens that a model's lengths score; None = all as many."""
    counts: dict[str, list[int]] = {}
    for row in rows:
        if row.tokens is not None:
            counts.setdefault(row.model, []).append(row.tokens)
    unlike = ((min(each), max(each)) for each in counts.values() if len(set(each)) > 1)
    return next(unlike, None)


def check_agreement(key: str, place: str, rows: Iterable[Any]) -> None:
    """Check rows of perplexities: no model stands twice at a place, and exp(nll) is there.

    Raises:
        Broken: they contradict each other or themselves.
    """
    seen = set()
    for row in rows:
        at = getattr(row, place)
        if (row.model, at) in seen:
            raise Broken(f"{key}: {row.model} stands there twice at {place} {at}")
        seen.add((row.model, at))
        if row.blocks is not None:
            row.blocks.check(f"{key}, {row.model} at {place} {at}")
        if row.perplexity is None or row.nll is None or row.nll > LARGEST_NLL:
            continue
        if not math.isclose(row.perplexity, math.exp(row.nll), rel_tol=1e-3):
            raise Broken(
                f"{key}: {row.model} at {place} {at} has perplexity {row.perplexity:g}, and "
                "exp(nll) is another"
            )
