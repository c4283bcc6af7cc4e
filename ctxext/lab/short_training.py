"""Train one decoder of the laboratory from nothing at the short length.

Everything is drawn from the seed, and nothing from the encoding: decoders of one seed read the same
rows in the same order and begin with the same weights, as far as they have the same.
"""

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from ctxext.data.builtin import python_sources
from ctxext.lab.byte_llama import learning_rate
from ctxext.lab.rows import Rows
from ctxext.lab.setting import LabSetting
from ctxext.lab.strings import Weights, planted_strings, tiled_strings

if TYPE_CHECKING:
    from ctxext.lab.decoder import LabForCausalLM

PEAK_LR = 3e-3
_BETAS, _CLIP = (0.9, 0.98), 1.0
_INITIAL = 0.08  # of matrices of 64 columns; at transformers' 0.02 nothing is learned for long


@cache
def stream(*, held_out: bool) -> Rows:
    """Read one side of the built-in corpus as one stream of ASCII bytes."""
    texts = [text.encode("ascii", "ignore") for _, text in python_sources(held_out=held_out)]
    return np.frombuffer(b"\n".join(texts), dtype=np.uint8)


def new_decoder(setting: LabSetting, encoding: str, seed: int) -> "LabForCausalLM":
    """Make an untrained decoder, float32, its weights drawn from the seed alone."""
    from ctxext.lab.decoder import LabConfig, LabForCausalLM

    torch.manual_seed(seed)
    rope = {"rope_type": "default", "rope_theta": setting.rope_theta}
    return LabForCausalLM(
        LabConfig(
            vocab_size=256,
            hidden_size=setting.hidden_size,
            intermediate_size=setting.hidden_size * 11 // 4,
            num_hidden_layers=setting.layers,
            num_attention_heads=setting.heads,
            max_position_embeddings=setting.train_length,
            initializer_range=_INITIAL,
            sinusoid_scale=_INITIAL,
            block=setting.block,
            position_encoding=encoding,
            rope_parameters=rope if encoding == "rope" else None,
        )
    )


def rows_at(setting: LabSetting, rng: np.random.Generator, done: float) -> tuple[Rows, Weights]:
    """Draw the rows of a step: strings alone at first, short before long, then text with strings.

    Copying appears when a string comes again after a few tokens, and never where rows begin long.

    Args:
        done: share of the steps that lie behind, 0 to 1.
    """
    length = setting.train_length
    short, tokens = min(32, length), setting.tokens_per_step
    if done < 0.2:
        return tiled_strings(rng, tokens // short, short, 8)
    if done < 0.35:
        return tiled_strings(rng, tokens // short, short, 16)
    rows = tokens // length
    if done < 0.45:
        return tiled_strings(rng, rows, length, length // 2)
    tiled = tiled_strings(rng, rows // 4, length, length // 2)
    planted = planted_strings(rng, stream(held_out=False), rows - rows // 4, length)
    return np.concatenate([tiled[0], planted[0]]), np.concatenate([tiled[1], planted[1]])


def train_decoder(
    setting: LabSetting,
    encoding: str,
    seed: int,
    steps: int,
    *,
    on_step: Callable[[int], None] = lambda step: None,
) -> tuple["LabForCausalLM", float]:
    """Train a decoder.

    Returns:
        The decoder, in evaluation mode, and the mean loss of the last tenth of the steps, nats.
    """
    model = new_decoder(setting, encoding, seed)
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=PEAK_LR, betas=_BETAS, weight_decay=0.01, fused=True
    )
    losses = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, PEAK_LR, warmup=min(50, 1 + steps // 4))
        loss = weighted_loss(model, *rows_at(setting, rng, step / steps))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), _CLIP)
        optimizer.step()
        losses.append(float(loss.detach()))
        on_step(step)
    tail = losses[-max(1, steps // 10) :]
    return model.eval(), sum(tail) / len(tail)


def weighted_loss(model: Any, rows: Rows, weights: Weights) -> torch.Tensor:
    """Compute the mean loss of the tokens of rows by their weights, nats."""
    ids, weight = torch.from_numpy(rows.astype(np.int64)), torch.from_numpy(weights)[:, 1:]
    logits = model(input_ids=ids[:, :-1]).logits
    nll = cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return (nll.view_as(weight) * weight).sum() / weight.sum()
