"""Negative log-likelihood of chosen tokens, without a (length, vocabulary) tensor of logits."""

from typing import Any

import torch

_PLAIN_HEAD = frozenset({"llama", "mistral", "qwen2", "qwen3"})
_CHUNK = 1024  # positions whose logits exist at the same time


@torch.inference_mode()
def last_token_nll(model: Any, ids: torch.Tensor, scored: int) -> torch.Tensor:
    """NLL of the last `scored` tokens of each row, given all tokens before each.

    Args:
        model: a transformers causal language model.
        ids: (batch, length) token ids on the model's device.
        scored: 1 .. length - 1.

    Returns:
        (batch, scored), nats, float32, on the CPU; float32 log-softmax.
    """
    targets = ids[:, -scored:]
    if model.config.model_type not in _PLAIN_HEAD:
        # Other families scale or cap their logits in `forward`; it keeps what is asked for.
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=scored + 1).logits
        return _nll(logits[:, -scored - 1 : -1], targets).cpu()
    # All tokens go in, the last too: dynamic scaling looks at the length of its input.
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
    hidden = hidden[:, -scored - 1 : -1]
    head = model.get_output_embeddings()
    parts = [
        _nll(head(hidden[:, at : at + _CHUNK]), targets[:, at : at + _CHUNK])
        for at in range(0, scored, _CHUNK)
    ]
    return torch.cat(parts, dim=1).cpu()


@torch.inference_mode()
def last_token_hits(model: Any, ids: torch.Tensor, scored: int) -> torch.Tensor:
    """Whether each of the last `scored` tokens is the most likely one: (batch, scored) bool."""
    out = model(input_ids=ids, use_cache=False, logits_to_keep=scored + 1)
    hits: torch.Tensor = (out.logits[:, -scored - 1 : -1].argmax(-1) == ids[:, -scored:]).cpu()
    return hits


def _nll(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    logits = logits.float()
    chosen = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return torch.logsumexp(logits, dim=-1) - chosen
