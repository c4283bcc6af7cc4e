"""Which tokens need far context: LongPPL's key tokens (arXiv:2410.23771, section 3.2).

A reference model reads each token twice, with all the context there is and with the last `context`
tokens of it. Key tokens are those that it predicts much better the first way, and well:

    l_short - l_long > gain    and    l_long < loss        (negative log-likelihoods, nats)

The paper's code has gain = 2 (its alpha) and loss = 2 (minus its beta), context = 4096 in blocks of
1024, so that a token sees 4096 to 5119 tokens before it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ctxext.data.tokens import Tokens
from ctxext.errors import BadInput
from ctxext.evaluation.reading.reading import Floats, Reading
from ctxext.evaluation.reading.windows import Plan, Window, sliding_windows, step_within

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class KeyRule:
    """What makes a token a key token.

    Attributes:
        context, block: tokens of short context, and how many tokens share one beginning of it.
        gain, loss: nats.
    """

    context: int = 4096
    block: int = 1024
    gain: float = 2.0
    loss: float = 2.0

    def check(self, length: int) -> None:
        """Raise BadInput for a short context no shorter than `length`, or nats that are none."""
        for flag, nats in (("--key-gain", self.gain), ("--key-loss", self.loss)):
            if not math.isfinite(nats):
                raise BadInput(f"{flag} is {nats}, and has to be a finite number of nats")
        if self.context < 1 or self.block < 1:
            raise BadInput("--key-context has to be at least 1")
        if self.context + self.block >= length:
            raise BadInput(
                f"--key-context {self.context} with its blocks of {self.block} is no shorter than "
                f"the longest of --lengths, {length}",
                "give a shorter one",
            )


def rule_for(
    length: int, *, context: int | None = None, gain: float = 2.0, loss: float = 2.0
) -> KeyRule:
    """Give the paper's rule, its context scaled down where windows are shorter than 8192 tokens.

    >>> rule_for(32768).context, rule_for(2048).context
    (4096, 512)
    """
    context = context if context is not None else min(4096, max(1, length // 4))
    return KeyRule(context, max(1, context // 4), gain, loss)


def key_tokens(
    reading: Reading, documents: Sequence[Tokens], length: int, stride: int, rule: KeyRule
) -> list[Mask]:
    """Find the key tokens of each document by a reference model: (tokens,) bool each.

    Args:
        documents: token ids of its own tokenizer.
        length: tokens of its long context, at least `length - stride` for each token but the first.
        stride: tokens between windows.
    """
    (far, far_step), (short, short_step) = key_windows(length, stride, rule)
    full = _token_nll(reading, documents, far, far_step, "with all context")
    near = _token_nll(reading, documents, short, short_step, f"with {rule.context}")
    return [
        is_key(long, short, gain=rule.gain, loss=rule.loss)
        for long, short in zip(full, near, strict=True)
    ]


def key_windows(length: int, stride: int, rule: KeyRule) -> tuple[tuple[int, int], tuple[int, int]]:
    """Give (length, stride) of the windows with all context, and of those with a short one."""
    return (length, step_within(stride, length)), (rule.context + rule.block, rule.block)


def token_plan(documents: Sequence[Tokens], length: int, stride: int) -> Plan:
    """Plan windows that read every token once with what comes before it."""
    return Plan(
        (index, window)
        for index, document in enumerate(documents)
        for window in sliding_windows(len(document), length, stride)
    )


def is_key(long: Floats, short: Floats, *, gain: float, loss: float) -> Mask:
    """Apply the rule: (tokens,) bool of (tokens,) NLLs, nats; NaN (never scored) is no key."""
    mask: Mask = (short - long > gain) & (long < loss)
    return mask


def carried_over(keys: Mask, sizes: Tokens, to: Tokens) -> Mask:
    """Find the tokens of another tokenizer that share a byte of text with a key token.

    Args:
        keys: (tokens,) of the reference's tokenizer.
        sizes: (tokens,) bytes of text of its tokens.
        to: bytes of text of the other tokenizer's tokens.
    """
    ends, others = (np.cumsum(counts[:], dtype=np.int64) for counts in (sizes, to))
    begins = np.concatenate([[0], ends[:-1]])
    long = keys & (ends > begins)
    begins, ends = begins[long], ends[long]
    starts = np.concatenate([[0], others[:-1]])
    if not len(ends):
        return np.zeros(len(others), dtype=np.bool_)
    # The first key token that ends behind where a token begins: does it begin before that ends?
    first = np.searchsorted(ends, starts, side="right")
    behind = np.concatenate([begins, [np.iinfo(np.int64).max]])[first]
    return np.asarray((behind < others) & (others > starts))


def _token_nll(
    reading: Reading, documents: Sequence[Tokens], length: int, stride: int, what: str
) -> list[Floats]:
    """Compute the NLL of every token, NaN for each document's first."""
    plan = token_plan(documents, length, stride)
    out = [np.full(len(document), np.nan) for document in documents]

    def keep(document: int, window: Window, nll: Floats) -> list[float]:
        return [float(value) for value in nll]

    key = f"tokens {length} {stride}"
    rows = reading.windows(
        documents, plan, keep, what=what, key=key, width=lambda window: window.scored
    )
    for (document, window), row in zip(plan, rows, strict=True):
        out[document][window.end - window.scored : window.end] = row
    return out
