"""Next-token loss whose memory does not grow with length times vocabulary.

The logits of a few positions at a time exist, in the forward pass only: the gradients of the hidden
states (and of the head, when it is trained) are formed right there, so the head is computed once.

By hand, because Liger's and cut-cross-entropy's kernels of the same idea need a GPU; this one also
does the biases, scales and soft caps that heads have, and is what a kernel can be held to.
"""

from typing import Any

import torch
from torch.autograd.function import FunctionCtx, once_differentiable

from ctxext.checkpoints.live.head import Head

IGNORED = -100  # the label of a position that is not scored, as everywhere in PyTorch


class _SummedNLL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        scale: float,
        softcap: float | None,
        labels: torch.Tensor,
        chunk: int,
    ) -> torch.Tensor:
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        grad_bias = (
            torch.zeros_like(bias, dtype=torch.float32) if bias is not None and wants_bias else None
        )
        for at in range(0, hidden.shape[0], chunk):
            states, target = hidden[at : at + chunk], labels[at : at + chunk]
            scored = (target != IGNORED).unsqueeze(-1)
            safe = target.clamp_min(0).unsqueeze(-1)
            logits = torch.nn.functional.linear(states, weight, bias).float()
            if scale != 1.0:
                logits.mul_(scale)
            if softcap is not None:
                logits.div_(softcap).tanh_()
                slope = logits.square().neg_().add_(1)  # of the cap, at each logit
                logits.mul_(softcap)
            # One buffer for logits, exponentials and gradients: a second would double the peak.
            chosen = logits.gather(-1, safe)
            largest = logits.amax(dim=-1, keepdim=True)
            grad = logits.sub_(largest).exp_()
            norm = grad.sum(dim=-1, keepdim=True)
            total += ((norm.log() + largest - chosen) * scored).sum()
            if grad_hidden is None and grad_weight is None and grad_bias is None:
                continue
            # d nll / d logits = softmax - one_hot
            grad.div_(norm).scatter_add_(-1, safe, -torch.ones_like(norm))
            grad.mul_(scored)
            if softcap is not None:
                grad.mul_(slope)
            if scale != 1.0:
                grad.mul_(scale)
            if grad_hidden is not None:
                grad_hidden[at : at + chunk] = grad.to(weight.dtype) @ weight
            if grad_weight is not None:
                grad_weight.addmm_(grad.T, states.float())
            if grad_bias is not None:
                grad_bias += grad.sum(0)
            del logits, grad  # else they live on while the next chunk's are computed
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.dtypes = (weight.dtype, None if bias is None else bias.dtype)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, *grad_outputs: torch.Tensor) -> Any:
        (grad,) = grad_outputs
        grad_hidden, grad_weight, grad_bias = ctx.saved_tensors  # type: ignore[attr-defined]
        weight_dtype, bias_dtype = ctx.dtypes  # type: ignore[attr-defined]
        if grad_hidden is not None:
            # In place: they are as large as all hidden states, and as the head.
            grad_hidden.mul_(grad.to(grad_hidden.dtype))
        if grad_weight is not None:
            grad_weight = grad_weight.mul_(grad).to(weight_dtype)
        if grad_bias is not None:
            grad_bias = grad_bias.mul_(grad).to(bias_dtype)
        return grad_hidden, grad_weight, grad_bias, None, None, None, None


def summed_nll(
    hidden: torch.Tensor, head: Head | torch.Tensor, labels: torch.Tensor, *, chunk: int
) -> torch.Tensor:
    """Sum the negative log-likelihoods of `labels`, nats, float32 scalar, differentiable.

    Args:
        hidden: (batch, length, hidden) of the decoder's last norm.
        head: what makes logits of them; a tensor is the (vocabulary, hidden) weight of a plain one.
        labels: (batch, length) int64, already shifted: the token that follows each position;
            `IGNORED` where there is none.
        chunk: positions whose logits exist at the same time.
    """
    head = head if isinstance(head, Head) else Head(head)
    total: torch.Tensor = _SummedNLL.apply(  # type: ignore[no-untyped-call]
        hidden.reshape(-1, hidden.shape[-1]),
        head.weight,
        head.bias,
        head.scale,
        head.softcap,
        labels.reshape(-1),
        chunk,
    )
    return total


@torch.no_grad()
def token_losses(
    hidden: torch.Tensor, head: Head | torch.Tensor, labels: torch.Tensor, *, chunk: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute each label's negative log-likelihood, and whether no token was likelier.

    Args:
        as `summed_nll`.

    Returns:
        (batch, length) float32 nats and bool; 0 and False where a label is `IGNORED`.
    """
    head = head if isinstance(head, Head) else Head(head)
    states, wanted = hidden.reshape(-1, hidden.shape[-1]), labels.reshape(-1)
    nats = torch.zeros(wanted.shape, dtype=torch.float32, device=hidden.device)
    hits = torch.zeros(wanted.shape, dtype=torch.bool, device=hidden.device)
    for at in range(0, len(wanted), chunk):
        piece, target = states[at : at + chunk], wanted[at : at + chunk]
        scored = target != IGNORED
        logits = head.logits(piece)
        safe = target.clamp_min(0).unsqueeze(-1)
        nll = torch.logsumexp(logits, -1) - logits.gather(-1, safe).squeeze(-1)
        nats[at : at + chunk] = nll * scored
        hits[at : at + chunk] = (logits.argmax(-1) == target) & scored
    return nats.view(labels.shape), hits.view(labels.shape)


def shifted_labels(ids: torch.Tensor) -> torch.Tensor:
    """Return the next token of each position, (batch, length); the last one has none."""
    return torch.cat([ids[:, 1:], torch.full_like(ids[:, :1], IGNORED)], dim=1)
