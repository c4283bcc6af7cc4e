"""A long prompt read once, and several short continuations scored behind it."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ctxext.checkpoints.load import reset_dynamic_rope

_PROBE, _TAIL = 40, 4  # tokens
_ERROR = 1e-3  # of log-probabilities of the probe, that two kernels may be apart
_TOGETHER = 2**28  # bytes of copied cache up to which continuations go in as one batch


@dataclass(frozen=True)
class Told:
    """Of a continuation's tokens: log-probability (nats) and whether each is ranked first."""

    logprobs: torch.Tensor
    hits: torch.Tensor

    def nll(self, begin: int = 0, end: int | None = None) -> float:
        """Sum of negative log-likelihoods of tokens [begin, end)."""
        return -float(self.logprobs[begin:end].sum())

    def exact(self, begin: int = 0, end: int | None = None) -> bool:
        """Whether every token of [begin, end) is ranked first."""
        return bool(self.hits[begin:end].all())


class Answerer:
    """Reads prompts into the KV cache and continuations after them.

    Where a model does not read the same through its cache (dynamic scaling, layers of other kinds;
    tried on a few tokens at first), prompt and continuation go in together each time.
    """

    def __init__(self, model: Any, *, prefill_chunk: int = 0) -> None:
        """Args:
        model: a transformers causal language model, in eval mode.
        prefill_chunk: tokens of the prompt that go in at once; 0 = all.
        """
        self.model = model
        self.device = next(model.parameters()).device
        self._chunk = prefill_chunk
        self.cached = hasattr(model, "get_output_embeddings") and self._cache_is_right()

    def told(self, prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[Told]:
        """How likely each continuation is behind the prompt, float32 log-softmax."""
        if not self.cached:
            return [self._plain(prompt, continuation) for continuation in continuations]
        return self._cached(prompt, continuations)

    @torch.inference_mode()
    def generate(self, prompt: Sequence[int], new_tokens: int) -> list[int]:
        """The most likely token again and again (greedy)."""
        ids = list(prompt)
        if not self.cached:
            for _ in range(new_tokens):
                reset_dynamic_rope(self.model)
                out = self.model(input_ids=self._row(ids), use_cache=False, logits_to_keep=1)
                ids.append(int(out.logits[0, -1].argmax()))
            return ids[len(prompt) :]
        cache, logits = self._prefill(prompt)
        for _ in range(new_tokens):
            ids.append(int(logits.argmax()))
            out = self.model(
                input_ids=self._row(ids[-1:]), past_key_values=cache, use_cache=True,
                logits_to_keep=1,
            )  # fmt: skip
            logits = out.logits[0, -1]
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
        cache, first = self._prefill(prompt)
        held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
        alike = len({len(c) for c in continuations}) == 1
        size = len(continuations) if alike and held * len(continuations) <= _TOGETHER else 1
        out: list[Told] = []
        for at in range(0, len(continuations), size):
            part = continuations[at : at + size]
            if len(part[0]) == 1:
                out += [_told(first[None], continuation) for continuation in part]
                continue
            ids = torch.tensor([list(c[:-1]) for c in part], device=self.device)
            read = self.model(
                input_ids=ids, past_key_values=_branch(cache, len(part)), use_cache=True
            )
            for continuation, logits in zip(part, read.logits, strict=True):
                out.append(_told(torch.cat([first[None], logits]), continuation))
        return out

    def _prefill(self, prompt: Sequence[int]) -> tuple[Any, torch.Tensor]:
        """The cache behind a prompt, and the logits (vocabulary,) of what follows it."""
        from transformers import DynamicCache

        cache = DynamicCache(config=self.model.config)
        ids = self._row(prompt)
        step = self._chunk or len(prompt)
        for at in range(0, len(prompt), step):
            out = self.model(
                input_ids=ids[:, at : at + step], past_key_values=cache, use_cache=True,
                logits_to_keep=1,
            )  # fmt: skip
        return cache, out.logits[0, -1]

    def _row(self, ids: Sequence[int]) -> torch.Tensor:
        return torch.tensor([list(ids)], device=self.device)

    def _cache_is_right(self) -> bool:
        rope = getattr(self.model.config, "rope_parameters", None) or {}
        if rope.get("rope_type") in ("dynamic", "longrope"):
            return False  # frequencies follow the length of what is read
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


def _branch(cache: Any, rows: int) -> Any:
    """A cache that goes its own way from here; the tensors are shared until something is added."""
    branch = copy.copy(cache)
    branch.layers = [copy.copy(layer) for layer in cache.layers]
    if rows > 1:
        for layer in branch.layers:
            layer.keys = layer.keys.expand(rows, -1, -1, -1)
            layer.values = layer.values.expand(rows, -1, -1, -1)
    return branch


def _told(logits: torch.Tensor, continuation: Sequence[int]) -> Told:
    """Of logits (tokens, vocabulary) and the ids they predict."""
    ids = torch.tensor(list(continuation), device=logits.device)
    chosen = logits.float().log_softmax(-1).gather(1, ids[:, None])[:, 0]
    return Told(chosen.cpu(), (logits.argmax(-1) == ids).cpu())
