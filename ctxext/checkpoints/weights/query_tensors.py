"""Find, in the stored tensors of some layers, the rows that make each head's queries."""

import math
from collections.abc import Set

from ctxext.checkpoints.config.detect import Position
from ctxext.checkpoints.weights.files import Weights
from ctxext.checkpoints.weights.numbers import FLOATS
from ctxext.checkpoints.weights.queries import Queries, another_norm, by_layer
from ctxext.checkpoints.weights.safetensors_file import printable
from ctxext.errors import BadInput

RowHeads = list[int | None]
"""Of each row of a tensor the query head, from 0; None = of keys or values."""


def query_heads(
    weights: Weights,
    position: Position,
    queries: Queries,
    layers: Set[int],
    *,
    head_dim: int,
    what: str,
) -> dict[str, RowHeads]:
    """Tell the query head of every row of the tensors that scale the queries of layers.

    Args:
        queries: of the family.
        what: what asks for it, for messages.

    Raises:
        BadInput: the tensors are not those of the family, are quantised, or do not fit its heads.
    """
    model_type = position.model_type
    heads: dict[str, RowHeads] = {}
    seen = set()
    for layer, below, name in by_layer(weights.tensors):
        if layer not in layers:
            continue
        if another_norm(below, queries):
            raise BadInput(
                f"{what}: {printable(name)} norms the queries of this {model_type} in a way that "
                "is not known to ctxext"
            )
        if below in (f"{queries.name}.weight", f"{queries.name}.bias"):
            heads[name] = _heads(weights, name, queries, head_dim, position.kv_heads or 1, what)
            seen |= {layer} if below.endswith(".weight") else set()
    if missing := sorted(layers - seen):
        raise BadInput(
            f"{what}: layer {missing[0]} has no {queries.name}.weight, where queries of "
            f"{model_type} get their scale"
        )
    return heads


def _heads(
    weights: Weights, name: str, queries: Queries, head_dim: int, kv_heads: int, what: str
) -> RowHeads:
    """Tell the query head of each row of a tensor.

    Raises:
        BadInput: it is quantised, or does not fit the heads that the config says.
    """
    info = weights.tensors[name][1]
    if info.dtype not in FLOATS:
        raise BadInput(
            f"{what}: {printable(name)} is quantised ({info.dtype})",
            "use the unquantised checkpoint",
        )
    rows = info.elements if queries.is_norm else math.prod(info.shape[:1])
    heads = queries.heads(rows, head_dim, kv_heads)
    if heads is None:
        raise BadInput(
            f"{what}: {printable(name)} has the shape {list(info.shape)}, which does not fit heads "
            f"of {head_dim} dims"
        )
    return heads
