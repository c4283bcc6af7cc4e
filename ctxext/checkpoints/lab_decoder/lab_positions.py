"""Where tokens sit, for each encoding that is not a rope: rows to add, or a bias of the scores.

What depends on the length alone is computed once and kept: a step of training has no float64.
"""

import torch
from torch import nn
from transformers.masking_utils import find_packed_sequence_indices

from ctxext.checkpoints.lab_decoder.lab_config import LabConfig
from ctxext.encodings.alibi import AlibiSpec, bias, slopes_of
from ctxext.encodings.sinusoidal import SinusoidalSpec, sinusoids

_KEPT = 2**24  # elements of a bias that is kept, at most: 64 MiB


class Sinusoids(nn.Module):
    """Fixed waves, as large as the config says (`sinusoid_scale`); without weights."""

    def __init__(self, config: LabConfig) -> None:
        super().__init__()
        window = config.max_position_embeddings
        self.spec = SinusoidalSpec(config.hidden_size, float(config.sinusoid_base), window)
        # Half of the squares of sines and cosines is 1 on the average.
        self.size = float(config.sinusoid_scale) * 2**0.5
        self._rows = torch.empty(0, config.hidden_size)

    def forward(self, positions: torch.Tensor, end: int) -> torch.Tensor:
        """Give (..., width) float32 for positions (...), which are all below `end`."""
        if len(self._rows) < end or self._rows.device != positions.device:
            length = max(end, 2 * len(self._rows), self.spec.window)
            with torch.inference_mode(False):  # else no later step could differentiate through it
                at = torch.arange(length)
                self._rows = (sinusoids(self.spec, at) * self.size).float().to(positions.device)
        return self._rows[positions]


class LearnedPositions(nn.Embedding):
    """A row of weights for each position of the window."""

    def forward(self, positions: torch.Tensor, end: int) -> torch.Tensor:  # type: ignore[override]
        """Give (..., width) for positions (...), which are all below `end`.

        Raises:
            IndexError: there is no row for one of them.
        """
        if end > self.num_embeddings:
            raise IndexError(
                f"position {end - 1} has no row: the table was learned for "
                f"{self.num_embeddings} positions"
            )
        return super().forward(positions)


class Alibi:
    """The bias of ALiBi in one mask with what is hidden, (batch or 1, heads, queries, keys)."""

    def __init__(self, config: LabConfig) -> None:
        spec = AlibiSpec(config.num_attention_heads, config.max_position_embeddings)
        self.slopes = [slope / float(config.alibi_slope_factor) for slope in slopes_of(spec)]
        self._key: object = None
        self._kept = torch.empty(0)

    def mask(
        self,
        like: torch.Tensor,
        past: int,
        keys: int,
        *,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        causal: bool = True,
    ) -> torch.Tensor:
        """Make the mask.

        Args:
            like: hidden states (batch, queries, width), whose dtype and device the mask has.
            past: keys before the first query.
            keys: of the whole row, tokens.
            attention_mask: (batch, keys), 0 where a token is padding; or one of four dimensions.
            position_ids: (batch or 1, queries); distances are theirs where nothing is cached, and
                a document that begins anew is not read from; None = 0, 1, 2, ...
        """
        by_length = attention_mask is None and (position_ids is None or bool(past))
        key = (like.shape[1], past, keys, causal, like.dtype, like.device)
        if by_length and key == self._key:
            return self._kept
        lowest = torch.finfo(like.dtype).min
        with torch.inference_mode(False):  # else no later step could differentiate through it
            at = torch.arange(past, past + like.shape[1], device=like.device)
            mask = self._biased(like, at, keys, None if past else position_ids)
            if causal:
                mask = mask.masked_fill(
                    torch.arange(keys, device=like.device) > at[:, None], lowest
                )
        if by_length:
            if mask.numel() <= _KEPT:
                self._key, self._kept = key, mask
            return mask
        if attention_mask is None:
            documents = find_packed_sequence_indices(position_ids)
            if documents is None:
                return mask
            attention_mask = documents[:, None, :, None] == documents[:, None, None, :]
        elif attention_mask.ndim == 4 and attention_mask.dtype != torch.bool:
            return mask + attention_mask
        elif attention_mask.ndim == 2:  # a cache of fixed size has room that no token fills yet
            room = keys - attention_mask.shape[1]
            attention_mask = torch.nn.functional.pad(attention_mask.bool(), (0, room))[
                :, None, None
            ]
        return mask.masked_fill(~attention_mask, lowest)

    def _biased(
        self, like: torch.Tensor, at: torch.Tensor, keys: int, position_ids: torch.Tensor | None
    ) -> torch.Tensor:
        if position_ids is None or keys != position_ids.shape[1]:
            biased = bias(self.slopes, at, torch.arange(keys, device=like.device))[None]
        else:
            biased = torch.stack([bias(self.slopes, row, row) for row in position_ids])
        return biased.to(like.dtype)
