"""Negative log-likelihood of chosen tokens, without a (length, vocabulary) tensor of logits."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

import torch

from ctxext.checkpoints.live.head import check_head, decoder_of, head_of
from ctxext.checkpoints.live.load import reset_dynamic_rope
from ctxext.checkpoints.live.tiling import tile_positions
from ctxext.errors import CtxextError
from ctxext.evaluation.reading.last_layer import last_positions
from ctxext.evaluation.reading.lower_right import MASK, lower_right, ways
from ctxext.evaluation.reading.room import cache_as_argument, cache_with_room

_LOGITS = 2**25  # of them exist at the same time: 128 MiB
_PROBE, _PROBE_CHUNK = 64, 24  # tokens
_DENSE = 4096  # last positions at most where they need a dense mask
TILE = 8192  # positions whose norms and MLPs are computed at once
_SMALLEST = -87.0  # nats; e^-87 is nearly the smallest normal float32, and slow ones lie below
_CACHE_ERROR = 1e-3  # of the largest hidden state; kernels differ with shapes, a wrong cache by all


class Scorer:
    """A causal language model, read so that only hidden states are kept and few logits made.

    The head is applied to scored positions alone, a few at a time. Where it does more than
    `head_of` knows, the model's own forward makes the logits, of the scored positions alone.
    """

    def __init__(self, model: Any, *, prefill_chunk: int = 0) -> None:
        """Try on a few tokens how a transformers model in eval mode can be read.

        Args:
            prefill_chunk: tokens that go in at once, the rest being in the KV cache; 0 = all.

        Raises:
            CtxextError: `prefill_chunk` with a model that does not read the same in chunks.
        """
        self.model = model
        self.device = next(model.parameters()).device
        self._chunk = prefill_chunk
        self._head = None
        self._at_once = 0
        self._short = self._lean = False
        tile_positions(model, TILE)
        embeddings = getattr(model, "get_output_embeddings", lambda: None)()
        if embeddings is not None:
            vocabulary = embeddings.weight.shape[0]
            probe = torch.arange(_probe_length(model), device=self.device)[None] % vocabulary
            self._at_once = max(16, _LOGITS // vocabulary)
            with suppress(CtxextError):  # of a head unknown to us: the model's own forward does it
                check_head(model, probe)
                self._head = head_of(model)
                if not prefill_chunk:
                    self._try_short(probe)
            if prefill_chunk:
                self._check_chunks(probe)

    @torch.inference_mode()
    def nll(self, ids: torch.Tensor, scored: int) -> torch.Tensor:
        """Compute the NLL of the last `scored` tokens of each row, given all tokens before each.

        Args:
            ids: (batch, length) token ids on the model's device.
            scored: 1 .. length - 1.

        Returns:
            (batch, scored), nats, float32, on the CPU; float32 log-softmax.
        """
        parts = [_nll(logits, targets) for logits, targets in self._scored_logits(ids, scored)]
        return torch.cat(parts, dim=1).cpu()

    @torch.inference_mode()
    def hits(self, ids: torch.Tensor, scored: int) -> torch.Tensor:
        """Tell whether each of the last `scored` tokens is the likeliest: (batch, scored) bool."""
        parts = [logits.argmax(-1) == target for logits, target in self._scored_logits(ids, scored)]
        return torch.cat(parts, dim=1).cpu()

    def _scored_logits(
        self, ids: torch.Tensor, scored: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield float32 logits (batch, n, vocabulary) and the ids they predict, a few at a time."""
        targets = ids[:, -scored:]
        if self._head is None:
            yield self._own_logits(ids, scored + 1)[:, :-1].float(), targets
            return
        # All tokens go in, the last too: dynamic scaling looks at the length of its input.
        hidden = self._hidden(ids, scored + 1)[:, :-1]
        step = max(1, self._at_once // len(ids))
        for at in range(0, scored, step):
            yield self._head.logits(hidden[:, at : at + step]), targets[:, at : at + step]

    def _hidden(self, ids: torch.Tensor, kept: int) -> torch.Tensor:
        """Compute the hidden states (batch, kept, hidden) of the last `kept` positions."""
        decoder = decoder_of(self.model)
        if not 0 < self._chunk < ids.shape[1]:
            short = self._short and 2 * kept <= ids.shape[1] and (self._lean or kept <= _DENSE)
            with self._attention(), last_positions(decoder, kept) if short else nullcontext():
                whole: torch.Tensor = decoder(input_ids=ids, use_cache=False).last_hidden_state
            return whole[:, -kept:]
        parts = []
        for out, left in self._in_chunks(decoder, ids, kept):
            parts.append(out.last_hidden_state[:, -left:])
        return torch.cat(parts, dim=1)

    def _attention(self) -> AbstractContextManager[None]:
        return lower_right(self.model) if self._lean else nullcontext()

    def _own_logits(self, ids: torch.Tensor, kept: int) -> torch.Tensor:
        """Compute the model's own logits of the last `kept` positions."""
        if not 0 < self._chunk < ids.shape[1]:
            whole: torch.Tensor = self.model(
                input_ids=ids, use_cache=False, logits_to_keep=kept
            ).logits
            return whole
        parts = []
        for out, left in self._in_chunks(self.model, ids, kept):
            parts.append(out.logits[:, -left:])
        return torch.cat(parts, dim=1)

    def _in_chunks(self, reader: Any, ids: torch.Tensor, kept: int) -> Iterator[tuple[Any, int]]:
        """Yield what `reader` says of each chunk with kept positions, and how many are kept."""
        length = ids.shape[1]
        cache = cache_with_room(self.model.config, length)
        held = cache_as_argument(reader.forward, cache)
        # Masks that are not ours are dense, chunk x length.
        step = self._chunk if self._lean else min(self._chunk, max(1, MASK // length))
        asked = {"logits_to_keep": 1} if reader is self.model else {}
        for begin in range(0, length, step):
            chunk = ids[:, begin : begin + step]
            left = min(chunk.shape[1], begin + chunk.shape[1] - (length - kept))
            if asked and left > 0:
                asked = {"logits_to_keep": left}
            with self._attention():
                out = reader(input_ids=chunk, use_cache=True, **held, **asked)
            if left > 0:
                yield out, left

    @torch.inference_mode()
    def _try_short(self, probe: torch.Tensor) -> None:
        """Ask the last layer for its last positions alone, if it says the same then.

        With attention that needs no mask; else with a dense one, of few positions.
        """
        kept = _part(probe)
        whole = self._hidden(probe, kept)
        self._short = True
        for lean in ways(self.model):
            self._lean = lean
            try:
                short = self._hidden(probe, kept)
            except (AttributeError, TypeError, ValueError, KeyError, RuntimeError, IndexError):
                continue  # of a family that is built otherwise
            if short.shape == whole.shape and _apart(whole, short) <= _allowed(whole):
                return
        self._short = False

    @torch.inference_mode()
    def _check_chunks(self, probe: torch.Tensor) -> None:
        decoder = decoder_of(self.model)
        whole = decoder(input_ids=probe, use_cache=False).last_hidden_state
        wanted, self._chunk = self._chunk, _part(probe)
        apart = math.inf
        for lean in ways(self.model):
            self._lean = lean
            with suppress(AttributeError, TypeError, ValueError) if lean else nullcontext():
                apart = _apart(whole, self._hidden(probe, probe.shape[1]))
            reset_dynamic_rope(self.model)
            if apart <= _allowed(whole):
                break
        self._chunk = wanted
        if not apart <= _allowed(whole):
            raise CtxextError(
                f"{type(self.model).__name__} does not read the same in chunks: hidden states "
                f"differ by {apart:.1e} of their size",
                "leave out --prefill-chunk",
            )


def _probe_length(model: Any) -> int:
    """Choose the tokens of a trial: no more than a model has positions for."""
    window = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    return min(_PROBE, window) if isinstance(window, int) and window > 1 else _PROBE


def _part(probe: torch.Tensor) -> int:
    """Choose the tokens of a chunk of a trial: less than half, so that there are several."""
    return max(1, min(_PROBE_CHUNK, probe.shape[1] // 2))


def _apart(whole: torch.Tensor, other: torch.Tensor) -> float:
    """Compute the largest difference, as a share of the largest value."""
    return float((whole - other).abs().max()) / max(float(whole.abs().max()), 1e-6)


def _allowed(hidden: torch.Tensor) -> float:
    return max(_CACHE_ERROR, 64 * torch.finfo(hidden.dtype).eps)


def _nll(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Compute log sum exp(logits) - logits[target]; `logits` is used up."""
    chosen = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    top = logits.amax(dim=-1, keepdim=True)
    # What is that far below the largest is lost in the sum, which is 1 or more, and exp of it is
    # a denormal: ten times as slow.
    total = logits.sub_(top).clamp_(min=_SMALLEST).exp_().sum(dim=-1)
    return total.log_() + top.squeeze(-1) - chosen
