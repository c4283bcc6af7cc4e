"""A long prompt read once, and several short continuations scored behind it."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from ctxext.checkpoints.live.load import reset_dynamic_rope
from ctxext.checkpoints.live.tiling import tile_positions
from ctxext.encodings.rope_types import follows_length
from ctxext.evaluation.reading.lower_right import MASK, lower_right, ways
from ctxext.evaluation.reading.room import branch, cache_as_argument, cache_with_room, has_room
from ctxext.evaluation.reading.scoring import TILE

_PROBE, _TAIL = 40, 4  # tokens
_ERROR = 1e-3  # of log-probabilities of the probe, that two kernels may be apart


@dataclass(frozen=True)
class Told:
    """Log-probability (nats) of each token of a continuation, and whether it is ranked first."""

    logprobs: torch.Tensor
    hits: torch.Tensor

    def nll(self, begin: int = 0, end: int | None = None) -> float:
        """Sum the negative log-likelihoods of tokens [begin, end)."""
        return -float(self.logprobs[begin:end].sum())

    def exact(self, begin: int = 0, end: int | None = None) -> bool:
        """Tell whether every token of [begin, end) is ranked first."""
        return bool(self.hits[begin:end].all())


class Answerer:
    """Reads prompts into the KV cache and continuations after them.

    Where a model does not read the same through its cache (dynamic scaling, layers of other kinds;
    tried on a few tokens at first), prompt and continuation go in together each time.
    """

    def __init__(self, model: Any, *, prefill_chunk: int = 0) -> None:
        """Take a model in eval mode; `prefill_chunk` tokens of a prompt go in at once, 0 = all."""
        self.model = model
        self.device = next(model.parameters()).device
        self._chunk = prefill_chunk
        self.cached = self._lean = False
        if hasattr(model, "get_output_embeddings"):
            tile_positions(model, TILE)
            self._choose()

    def told(self, prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[Told]:
        """Tell how likely each continuation is behind the prompt, by float32 log-softmax."""
        if not self.cached:
            return [self._plain(prompt, continuation) for continuation in continuations]
        return self._cached(prompt, continuations)

    @torch.inference_mode()
    def generate(self, prompt: Sequence[int], new_tokens: int) -> list[int]:
        """Take the most likely token again and again (greedy)."""
        ids = list(prompt)
        if not self.cached:
            for _ in range(new_tokens):
                reset_dynamic_rope(self.model)
                out = self.model(input_ids=self._row(ids), use_cache=False, logits_to_keep=1)
                ids.append(int(out.logits[0, -1].argmax()))
            return ids[len(prompt) :]
        cache, logits = self._prefill(prompt, new_tokens)
        for _ in range(new_tokens):
            ids.append(int(logits.argmax()))
            logits = self._read(ids[-1:], cache, 1)[-1]
        return ids[len(prompt) :]

    @torch.inference_mode()
    def _plain(self, prompt: Sequence[int], continuation: Sequence[int]) -> Told:
        reset_dynamic_rope(self.model)
        ids = self._row([*prompt, *continuation])
        size = len(continuation)
        out = self.model(input_ids=ids, use_cache=False, logits_to_keep=size + 1)
        return _told(out.logits[0, -size - 1 : -1], continuation)

    @torch.inference_mode()
    def _cached(self, prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[Told]:
        longest = max(len(continuation) for continuation in continuations)
        cache, first = self._prefill(prompt, longest)
        if not has_room(cache):
            raise NotImplementedError("a cache whose branches would not share the prompt")
        out: list[Told] = []
        for continuation in continuations:
            logits = first[None]
            if len(continuation) > 1:
                read = self._read(continuation[:-1], branch(cache), 0)
                logits = torch.cat([logits, read])
            out.append(_told(logits, continuation))
        return out

    def _prefill(self, prompt: Sequence[int], behind: int) -> tuple[Any, torch.Tensor]:
        """Return the cache behind a prompt, with room for more, and the logits (vocabulary,) that
        follow it."""
        cache = cache_with_room(self.model.config, len(prompt), behind)
        step = self._chunk or len(prompt)
        if self._chunk and not self._lean:  # then masks are dense, chunk x length
            step = min(step, max(1, MASK // len(prompt)))
        for at in range(0, len(prompt), step):
            logits = self._read(prompt[at : at + step], cache, 1)
        return cache, logits[-1]

    def _read(self, ids: Sequence[int], cache: Any, kept: int) -> torch.Tensor:
        """Return the last tokens' logits (kept, vocabulary), read into a cache; 0 = of all."""
        with lower_right(self.model) if self._lean else nullcontext():
            out = self.model(
                input_ids=self._row(ids), use_cache=True, logits_to_keep=kept,
                **cache_as_argument(self.model.forward, cache),
            )  # fmt: skip
        logits: torch.Tensor = out.logits[0]
        return logits

    def _row(self, ids: Sequence[int]) -> torch.Tensor:
        return torch.tensor([list(ids)], device=self.device)

    def _choose(self) -> None:
        """Read through the cache if that says the same, without masks of our own if it has to."""
        rope = getattr(self.model.config, "rope_parameters", None) or {}
        if follows_length(rope):
            return  # what is read through the cache was turned for another length
        for lean in ways(self.model):
            self._lean = lean
            self.cached = self._cache_is_right()
            if self.cached:
                return
        self._lean = False

    def _cache_is_right(self) -> bool:
        ids = [index % self.model.config.vocab_size for index in range(1, _PROBE + 1)]
        prompt, tails = ids[:-_TAIL], [ids[-_TAIL:], ids[:_TAIL]]
        try:
            through = self._cached(prompt, tails)
        except (AttributeError, TypeError, ValueError, NotImplementedError, IndexError):
            return False
        plain = [self._plain(prompt, tail) for tail in tails]
        allowed = max(_ERROR, 64 * torch.finfo(self.model.dtype).eps)
        return all(
            float((a.logprobs - b.logprobs).abs().max()) <= allowed * float(b.logprobs.abs().max())
            for a, b in zip(through, plain, strict=True)
        )


def _told(logits: torch.Tensor, continuation: Sequence[int]) -> Told:
    """Look ids up in the logits (tokens, vocabulary) that predict them."""
    ids = torch.tensor(list(continuation), device=logits.device)
    chosen = logits.float().log_softmax(-1).gather(1, ids[:, None])[:, 0]
    return Told(chosen.cpu(), (logits.argmax(-1) == ids).cpu())
