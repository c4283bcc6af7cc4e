"""Measure whether a model uses what stands far back: questions over length x depth x sample.

Scored without generating (base and tiny models follow no instructions, but all can continue):

- exact: every token of the answer is ranked first, with the truth before it. The score of a
  question with several answers is the share of them that are.
- choice: the right answer against distractors of as many tokens, by log-probability less that of
  the same words behind a text without the needle, so that what the model would say anyway cancels
  out. A tie of n is one n-th right.
- gain: negative log-likelihood of the answer without the needle less that with it, nats per token:
  it moves long before an answer is right.

`generate` decodes greedily instead and looks for the answers in what comes (RULER's string match).
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ctxext.errors import BadInput, CtxextError, is_out_of_memory
from ctxext.evaluation.perplexity.scores import MEANINGLESS
from ctxext.evaluation.reading.forecast import Cost, Forecast
from ctxext.evaluation.reading.sharing import shared_rows
from ctxext.evaluation.retrieval.answering import Answerer
from ctxext.evaluation.retrieval.fitting import Encoder, Question, fit, own_tokens
from ctxext.evaluation.retrieval.haystack import Haystack
from ctxext.evaluation.retrieval.tasks import Draw, Task, Wording
from ctxext.evaluation.statistics.intervals import wilson
from ctxext.machine.launch import Launch
from ctxext.progress import Progress, silent
from ctxext.runs.journal import Journal, Rows
from ctxext.runs.rows.retrieval import CellRow, Score

_NEW_TOKENS = 8  # beyond the answer's own: room for a space or a quote before it


@dataclass
class Asking:
    """A model that is asked, with whom, and what is known already.

    Attributes:
        answerer, encode: the model and its tokenizer.
        identity: what the answers depend on, for the journal.
        asked: what the questions depend on beside their lengths, tasks and seeds.
        forecast, cost: how long all that is asked takes, and what a prompt costs.
    """

    answerer: Answerer
    encode: Encoder
    haystack: Haystack
    score: Score = "logprob"
    name: str = "model"
    identity: str = ""
    asked: str = ""
    journal: Journal = field(default_factory=Journal)
    launch: Launch = field(default_factory=Launch)
    on_progress: Progress = silent
    forecast: Forecast = field(default_factory=Forecast)
    cost: Cost = float

    def cells(
        self,
        task: Task,
        wording: Wording,
        length: int,
        *,
        depths: Sequence[float],
        samples: int,
        seed: int,
    ) -> list[CellRow]:
        """Measure one cell for each depth.

        Raises:
            BadInput: the words alone are longer than `length`.
            CtxextError: out of memory, or the model returned NaN.
        """
        questions = [(depth, sample) for depth in depths for sample in range(samples)]

        def ask(index: int) -> list[list[float]]:
            depth, sample = questions[index]
            # Lengths and models share draws, to be compared; depths do not, to be pooled.
            question = self.question(task, wording, length, depth, f"{seed} {depth} {sample}")
            return [self._answered(question, length)]

        costs = [self.cost(length)] * len(questions)
        heard = self.forecast.listener(
            f"{self.name} {task.name} at {length}", [1] * len(questions), costs, self.on_progress
        )
        key = f"{self.identity} {self.score} {task.name} {wording} {length} {seed} {list(depths)}"
        rows = shared_rows(
            len(questions), ask, key=f"{key} {samples}", journal=self.journal, launch=self.launch,
            on_done=heard, fits=lambda _, rows: _is_answer(rows),
        )  # fmt: skip
        table = np.array([row for (row,) in rows], dtype=float).reshape(len(depths), samples, 4)
        asked = f"{self.asked} {self.score} {task.name} {wording} {length} {seed} {samples}"
        return [
            _cell(self.name, task.name, length, depth, scores, f"{asked} {depth}")
            for depth, scores in zip(depths, table, strict=True)
        ]

    def question(
        self, task: Task, wording: Wording, length: int, depth: float, seed: str
    ) -> Question:
        """Make one sample: the same for the same arguments, whoever makes it.

        Names and numbers depend on the seed alone, not on where the needle stands.
        """
        item = task.make(Draw(f"{task.name} {seed}", self.encode.size), task.words(wording), depth)
        reserve = _NEW_TOKENS if self.score == "generate" else 0
        return fit(item, self.haystack, self.encode, length, seed=seed, reserve=reserve)

    def _answered(self, question: Question, length: int) -> list[float]:
        """Return [score, choice or NaN, chance or NaN, gain or NaN]."""
        try:
            if self.score == "generate":
                return [self._generated(question), math.nan, math.nan, math.nan]
            return self._scored(question)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise CtxextError(
                f"{self.name}: out of memory at {length} tokens", "--prefill-chunk 4096 needs less"
            ) from error

    def _generated(self, question: Question) -> float:
        ids = self.answerer.generate(question.prompt, len(question.truth.ids) + _NEW_TOKENS)
        said = self.encode.decode(ids).lower()
        return sum(a.strip().lower() in said for a in question.answers) / len(question.answers)

    def _scored(self, question: Question) -> list[float]:
        truth = question.truth
        everything = [truth.ids, *(wrong.ids for wrong in question.wrong)]
        with_needle = self.answerer.told(question.prompt, everything)
        without = self.answerer.told(question.without, everything)
        right, before = with_needle[0], without[0]
        for told in (*with_needle, *without):
            if not abs(told.nll()) < MEANINGLESS * len(told.logprobs):
                raise CtxextError(
                    f"{self.name} returned {told.nll():.6g}, so its numbers mean nothing"
                )
        score = sum(right.exact(*span) for span in truth.spans) / len(truth.spans)
        tokens = sum(end - begin for begin, end in truth.spans)
        gain = sum(before.nll(*s) - right.nll(*s) for s in truth.spans) / tokens
        if not question.wrong:
            return [score, math.nan, math.nan, gain]
        gains = [a.nll() - b.nll() for a, b in zip(without, with_needle, strict=True)]
        best = max(gains)
        choice = (gains[0] == best) / gains.count(best)
        return [score, choice, 1 / len(gains), gain]


def wording_of(task: Task, encode: Encoder, shortest: int) -> Wording:
    """Choose the full wording where it takes at most half of the shortest length, else the compact.

    Raises:
        BadInput: the compact one does not fit either, or the tokenizer cannot write the words.
    """
    item = task.make(Draw("words", encode.size), task.words("compact"), 0.5)
    for text in (*item.answers, *(words for _, words in item.needles)):
        if encode.lacks(text):
            raise BadInput(
                f"--tasks {task.name}: the tokenizer has no tokens for {text.strip()!r}, so that "
                "every answer would look the same to the model",
                f"leave out {task.name}",
            )
    if _words(task, "full", encode) * 2 <= shortest:
        return "full"
    needed = _words(task, "compact", encode)
    if needed > shortest:
        raise BadInput(
            f"--tasks {task.name} needs {needed} tokens for its words alone with this tokenizer, "
            f"and the shortest of --lengths is {shortest}",
            f"leave out that length, or {task.name}",
        )
    return "compact"


def _words(task: Task, wording: Wording, encode: Encoder) -> int:
    """Count the most tokens that some samples' words take, with a few to spare."""
    sizes = []
    for sample in range(8):
        item = task.make(Draw(f"size {sample}", encode.size), task.words(wording), 0.5)
        sizes.append(own_tokens(item, encode))
    return max(sizes) + 8


def _is_answer(rows: Rows) -> bool:
    """Tell whether these can be the numbers of one question: shares, and a gain in nats a token."""
    if len(rows) != 1 or len(rows[0]) != 4:
        return False
    score, choice, chance, _ = rows[0]
    return 0 <= score <= 1 and all(math.isnan(n) or 0 <= n <= 1 for n in (choice, chance))


def _cell(model: str, task: str, length: int, depth: float, table: Any, asked: str) -> CellRow:
    """Make a cell of (samples, 4) rows as `_answered` gives them; `asked` names the questions."""
    samples = len(table)
    score, choice, chance, gain = table.T
    low, high = wilson(float(score.sum()), samples)
    chosen = not np.isnan(choice).any()
    choices = wilson(float(choice.sum()), samples) if chosen else (None, None)
    gained = not np.isnan(gain).any()
    return CellRow(
        model=model,
        task=task,
        length=length,
        depth=depth,
        accuracy=float(score.mean()),
        low=low,
        high=high,
        samples=samples,
        choice=float(choice.mean()) if chosen else None,
        choice_low=choices[0],
        choice_high=choices[1],
        chance=float(chance[0]) if chosen else None,
        gain=float(gain.mean()) if gained else None,
        gain_stderr=float(gain.std(ddof=1) / math.sqrt(samples))
        if gained and samples > 1
        else None,
        questions=hashlib.sha256(asked.encode()).hexdigest(),
        answers=tuple(score.tolist()),
        choices=tuple(choice.tolist()) if chosen else None,
    )
