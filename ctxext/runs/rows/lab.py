"""What the laboratory measures: rows by encoding, by method and by rotary pair, and its verdicts.

A standard error here is that of a mean over seeds, None where there is one seed alone.
"""

from dataclasses import dataclass
from typing import ClassVar, Final, Literal

from ctxext.runs.fields import MOST_TOKENS, bounded
from ctxext.runs.rows.row import Document, Row

AS_TRAINED: Final = "as trained"
"""The method of a RoPE decoder that was not extended."""
Verdict = Literal["holds", "does not hold", "undecided"]


@dataclass(frozen=True, kw_only=True)
class LabTraining(Row):
    """A decoder that was trained: `models/ENCODING-SEED`."""

    encoding: str
    seed: int
    final_loss: float | None = None
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class LabPosition(Row):
    """Perplexity of tokens `start` to `end` of unseen text, read by decoders trained shorter.

    Attributes:
        variant: "" as trained; else what was done to reach further (`untrained rows`).
        nll: mean of the negative log-likelihood, nats; `stderr` is its error.
    """

    encoding: str
    variant: str = ""
    start: int = bounded(least=0, most=MOST_TOKENS)
    end: int = bounded(least=1, most=MOST_TOKENS)
    nll: float | None
    stderr: float | None = bounded(None, least=0)
    perplexity: float | None = bounded(least=0)


@dataclass(frozen=True, kw_only=True)
class LabRecall(Row):
    """How much a random string helps to predict the same string `distance` tokens later.

    Attributes:
        length: of the rows, tokens.
        gain: nats a token by which the string is likelier than after another string in its place.
        copied: share of its tokens that are the most likely ones.
    """

    encoding: str
    length: int = bounded(least=1, most=MOST_TOKENS)
    distance: int = bounded(least=1, most=MOST_TOKENS)
    gain: float | None
    stderr: float | None = bounded(None, least=0)
    copied: float | None = bounded(None, least=0, most=1)


@dataclass(frozen=True, kw_only=True)
class LabOrder(Row):
    """How far the last token's logits move when the tokens before it are permuted.

    Attributes:
        mask: `causal`, or `none` where every token reads every other.
        change: mean over rows of |difference| / |logits| (Euclidean).
    """

    encoding: str
    mask: str = bounded("causal", words=("causal", "none"))
    change: float | None = bounded(least=0)
    stderr: float | None = bounded(None, least=0)
    largest: float | None = bounded(None, least=0)


@dataclass(frozen=True, kw_only=True)
class LabExtension(Row):
    """The RoPE decoder, extended by a method to the longest test length.

    Attributes:
        method: `as trained` is none.
        steps: LoRA steps at that length; 0 = as extended.
        near, far: nats a token of tokens in the trained window, and beyond it.
        recall: gain of a string from beyond the trained window, as in `LabRecall`.
    """

    method: str
    steps: int = bounded(0, least=0, most=10**9)
    near: float | None
    near_stderr: float | None = bounded(None, least=0)
    far: float | None
    far_stderr: float | None = bounded(None, least=0)
    recall: float | None = None
    recall_stderr: float | None = bounded(None, least=0)


@dataclass(frozen=True, kw_only=True)
class LabPair(Row):
    """What one rotary pair does, the others left alone; changes of the loss in nats a token.

    Attributes:
        wavelength: tokens for a turn, as trained.
        slowed_near: the pair alone interpolated, in the trained window.
        stopped_near: the pair alone stopped, in the trained window.
        left_far: all pairs interpolated but this one, beyond the window, against all of them.
    """

    pair: int = bounded(least=0)
    wavelength: float = bounded(above=0)
    slowed_near: float | None
    slowed_near_stderr: float | None = bounded(None, least=0)
    stopped_near: float | None
    stopped_near_stderr: float | None = bounded(None, least=0)
    left_far: float | None
    left_far_stderr: float | None = bounded(None, least=0)


@dataclass(frozen=True, kw_only=True)
class LabSteps(Row):
    """LoRA steps until a method's far loss is at the target; None where it never was.

    Attributes:
        target: nats a token, beyond the trained window.
    """

    method: str
    seed: int
    target: float | None
    steps: int | None = bounded(least=0)


@dataclass(frozen=True, kw_only=True)
class LabStatement(Row):
    """A sentence of the literature, and what this run says about it.

    Attributes:
        claim: the sentence, which can come out false.
        source: who says it.
        measured: what `difference` is, in words; it is above 0 where the claim is true.
        errors: difference / stderr; None where the check is exact, or one seed says nothing.
        p: two-sided, of a t test over seeds (paired).
    """

    key: str
    claim: str
    source: str
    measured: str
    difference: float | None
    unit: str
    stderr: float | None = bounded(None, least=0)
    errors: float | None = None
    p: float | None = bounded(None, least=0, most=1)
    verdict: Verdict = bounded(words=("holds", "does not hold", "undecided"))


@dataclass(frozen=True, kw_only=True)
class LabResult(Document):
    """`lab.json`: what the laboratory measured, and its verdicts."""

    schema: ClassVar[str] = "ctxext.lab/1"
    output_dir: str | None = None
    preset: str
    encodings: tuple[str, ...]
    train_length: int = bounded(least=1, most=MOST_TOKENS)
    test_lengths: tuple[int, ...] = bounded(least=1, most=MOST_TOKENS)
    seeds: tuple[int, ...]
    steps: int
    tokens_per_step: int
    parameters: int
    models: tuple[LabTraining, ...]
    by_position: tuple[LabPosition, ...]
    recall: tuple[LabRecall, ...]
    order: tuple[LabOrder, ...] = ()
    extensions: tuple[LabExtension, ...] = ()
    pairs: tuple[LabPair, ...] = ()
    steps_to_target: tuple[LabSteps, ...] = ()
    statements: tuple[LabStatement, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float | None = None
