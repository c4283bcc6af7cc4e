"""One row on several processes: each holds two zigzag chunks of it, keys and values are gathered.

A row of T tokens is cut into 2R chunks of C tokens; rank r of R holds chunks r and 2R-1-r, so that
all have the same number of (query, key) pairs to compute under a causal mask (Llama 3,
arXiv:2407.21783, section 3.3.2, gathers keys and values the same way). Everything but attention
works on tokens one by one, and does not notice.

By hand, because torch's `context_parallel`, and so accelerate's `cp_size`, takes causal masks only:
here rows hold documents and windows, and gloo will do. What that costs is the overlap of a ring.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

from ctxext.checkpoints.live.attention import KNOWN_LAYERS, adds_to_scores, register_attention
from ctxext.encodings.rope_types import follows_length
from ctxext.errors import BadInput, CtxextError
from ctxext.training.attention.blocks import Documents, Rows, block_attention, documents_of
from ctxext.training.attention.windows import Window, only_the_window
from ctxext.training.model.batch import Batch
from ctxext.training.parallel.mesh import Mesh


@dataclass(frozen=True)
class Zigzag:
    """Which tokens of a row each rank holds."""

    ranks: int
    rank: int

    def chunks(self, length: int) -> tuple[range, range]:
        """Return the two runs of row positions that this rank holds, ascending."""
        size = length // (2 * self.ranks)
        late = 2 * self.ranks - 1 - self.rank
        return (
            range(self.rank * size, (self.rank + 1) * size),
            range(late * size, (late + 1) * size),
        )

    def shard(self, row: torch.Tensor) -> torch.Tensor:
        """Cut this rank's (batch, T / R, ...) out of (batch, T, ...)."""
        early, late = self.chunks(row.shape[1])
        return torch.cat(
            [row[:, early.start : early.stop], row[:, late.start : late.stop]], dim=1
        ).contiguous()


def in_order(shards: torch.Tensor, dim: int) -> torch.Tensor:
    """Join the shards of all ranks, (R, ...), to one whole: `dim` grows from T / R to T."""
    early, late = shards.chunk(2, dim=dim + 1)
    return torch.cat([*early.unbind(0), *late.flip(0).unbind(0)], dim=dim)


def by_rank(whole: torch.Tensor, dim: int, ranks: int) -> torch.Tensor:
    """Undo `in_order`: `dim` holds T tokens in order, the result is (R, ...)."""
    chunks = whole.chunk(2 * ranks, dim=dim)
    return torch.stack(
        [torch.cat([chunks[r], chunks[2 * ranks - 1 - r]], dim=dim) for r in range(ranks)]
    )


# The same two under their names since PyTorch 2.13 and before.
_all_gather: Any = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter: Any = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class _GatherTokens(torch.autograd.Function):
    """Gathers (batch, heads, T / R, d) of each rank to (batch, heads, T, d) on all of them."""

    @staticmethod
    def forward(ctx: Any, local: torch.Tensor, group: Any, ranks: int) -> torch.Tensor:
        ctx.group, ctx.ranks = group, ranks
        shards = local.new_empty((ranks * local.shape[0], *local.shape[1:]))
        _all_gather(shards, local.contiguous(), group=group)
        return in_order(shards.view(ranks, *local.shape), dim=2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> Any:
        (grad,) = grad_outputs
        shards = by_rank(grad, 2, ctx.ranks)
        share = torch.empty_like(shards[0])
        _reduce_scatter(share, shards.flatten(0, 1), group=ctx.group)
        return share, None, None


def gather_tokens(local: torch.Tensor, group: Any, ranks: int) -> torch.Tensor:
    """Gather all ranks' keys or values, in the order of the row; differentiable.

    The gradient of each rank's part is the sum of what all ranks have for it.
    """
    gathered: torch.Tensor = _GatherTokens.apply(  # type: ignore[no-untyped-call]
        local, group, ranks
    )
    return gathered


def context_batch(batch: Batch, mesh: Mesh) -> Batch:
    """Cut what this rank's model reads out of whole rows, (batch, T) -> (batch, T / R).

    Args:
        batch: on the CPU, T a multiple of 2R (`ParallelConfig.check`); where its positions start
            again a document begins.
    """
    zigzag = Zigzag(mesh.context_ranks, mesh.context_rank)
    positions = batch.position_ids
    if positions is None:
        positions = torch.arange(batch.input_ids.shape[1]).expand_as(batch.input_ids)
    return Batch(
        zigzag.shard(batch.input_ids),
        zigzag.shard(batch.labels),
        zigzag.shard(positions),
        sharded=True,
        documents=documents_of(positions),
    )


def parallelize_context(model: Any, mesh: Mesh) -> None:
    """Let a transformers model compute on shards of its rows; nothing happens without a group.

    Args:
        model: a causal language model whose attention goes through `AttentionInterface`. Its
            decoder is then called with this rank's shard of `input_ids` and `position_ids`
            (positions in the whole row) and with `documents`, `Documents` or None.

    Raises:
        BadInput: attention that gathered keys and values do not give exactly.
    """
    if mesh.context_group is None:
        return
    _check_model(model)
    group, zigzag = mesh.context_group, Zigzag(mesh.context_ranks, mesh.context_rank)

    def attention(
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: Window | None,
        scaling: float | None = None,
        **more: Any,
    ) -> tuple[torch.Tensor, None]:
        if "documents" not in more:
            raise CtxextError(
                f"{type(module).__name__} does not hand on what packed rows need",
                "train this model without --context-parallel",
            )
        if torch.is_autocast_enabled(query.device.type):  # what SDPA would do by itself
            dtype = torch.get_autocast_dtype(query.device.type)
            query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
        d = key.shape[-1]
        both = gather_tokens(torch.cat([key, value], dim=-1), group, zigzag.ranks)
        chunks = zigzag.chunks(query.shape[2] * zigzag.ranks)
        documents: Documents | None = more["documents"]
        out = block_attention(
            query,
            both[..., :d],
            both[..., d:],
            Rows(chunks, attention_mask.size if attention_mask else None, documents),
            scaling=scaling,
        )
        return out.transpose(1, 2).contiguous(), None

    name = f"ctxext_context_{group.group_name}"  # its own name: two models may differ
    register_attention(name, attention, only_the_window)
    model.set_attn_implementation(name)
    for module in model.modules():
        if "RotaryEmbedding" in type(module).__name__ and _follows_length(model.config):
            _share_largest_position(module, group)


def _check_model(model: Any) -> None:
    config = model.config
    name = config.model_type
    way_out = "train this model without --context-parallel"
    other = sorted(set(getattr(config, "layer_types", None) or ()) - KNOWN_LAYERS)
    if other:
        raise BadInput(f"--context-parallel does not know the {other[0]} layers of {name}", way_out)
    if getattr(config, "attn_logit_softcapping", None):
        raise BadInput(f"--context-parallel cannot cap the attention logits of {name}", way_out)
    if adds_to_scores(config):
        raise BadInput(f"--context-parallel cannot add ALiBi to the scores of {name}", way_out)
    if getattr(config, "attention_dropout", 0):
        raise BadInput("--context-parallel cannot drop attention (attention_dropout)", way_out)
    if getattr(config, "output_router_logits", False):
        raise BadInput(f"--context-parallel cannot balance the experts of {name}", way_out)
    if not getattr(type(model), "_supports_sdpa", False) or name in _OWN_ATTENTION:
        raise BadInput(f"--context-parallel cannot reach into the attention of {name}", way_out)


# They dispatch on a table of their own (falcon, gptj) or add terms to the softmax (gpt_oss).
_OWN_ATTENTION = ("falcon", "gptj", "bloom", "mpt", "gpt_oss")


def _follows_length(config: Any) -> bool:
    """Tell whether a rotation depends on the largest position at hand, in any of the layers."""
    block = getattr(config, "rope_parameters", None) or {}
    nested = [value for value in block.values() if isinstance(value, dict)]
    return any(map(follows_length, nested or [block]))


def _share_largest_position(rotary: Any, group: Any) -> None:
    """Let a rotary module see the largest position of the whole row, not of this rank's shard.

    transformers picks longrope's long factors, and dynamic's base, by the largest position.
    """

    def before(
        module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        positions = kwargs["position_ids"] if "position_ids" in kwargs else args[1]
        top = positions.max()
        dist.all_reduce(top, op=dist.ReduceOp.MAX, group=group)
        longer = torch.cat([positions, top.expand(len(positions), 1)], dim=1)
        if "position_ids" in kwargs:
            return args, {**kwargs, "position_ids": longer}
        return (args[0], longer, *args[2:]), kwargs

    def after(module: Any, args: Any, out: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return tuple(table[:, :-1] for table in out)

    rotary.register_forward_pre_hook(before, with_kwargs=True)
    rotary.register_forward_hook(after)
