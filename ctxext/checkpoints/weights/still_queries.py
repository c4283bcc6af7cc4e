"""Find what attention without positions multiplies its queries by, in the stored tensors.

A temperature on the scores is a factor on the queries, and where nothing turns them it can be put
into the tensor that makes them: the checkpoint needs no code for it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ctxext.checkpoints.config.detect import Position
from ctxext.checkpoints.config.still import still_layers
from ctxext.checkpoints.weights.files import Weights
from ctxext.checkpoints.weights.fold import Fold
from ctxext.checkpoints.weights.numbers import FLOATS
from ctxext.checkpoints.weights.queries import (
    QUERIES,
    STILL_QUERIES,
    Queries,
    another_norm,
    by_layer,
)
from ctxext.checkpoints.weights.row_scales import RowScales
from ctxext.checkpoints.weights.safetensors_file import printable
from ctxext.errors import BadInput
from ctxext.runs.recipe.config import HEADS


@dataclass(frozen=True)
class StillQueries:
    """The tensors that make, or norm, the queries of attention without positions.

    Attributes:
        heads: tensor -> for each of its rows the query head, from 0; None = of keys or values.
        one_plus: 1 is added to what is stored before it is used.
    """

    heads: Mapping[str, list[int | None]]
    one_plus: bool

    def folded(self, scale: float) -> Fold:
        """Multiply the rows of all queries by one number."""
        rows = {name: [head is not None for head in heads] for name, heads in self.heads.items()}
        return Fold(scale, self.one_plus, rows)

    @property
    def count(self) -> int:
        """How many heads a layer tells apart; 1 where all share a norm."""
        return max(head + 1 for rows in self.heads.values() for head in rows if head is not None)

    def check(self, what: str) -> None:
        """Check that heads are told apart, where each is to get a factor of its own.

        Raises:
            BadInput: they are not.
        """
        if what == HEADS and self.count == 1:
            raise BadInput(
                "train.what: head-temperature: all heads of this model share one norm of their "
                "queries, so no factor of one head can be folded into it",
                "train one for all: train.what=temperature",
            )

    def scaled(self, name: str, factors: list[float]) -> RowScales:
        """Make the rows' factors of a tensor from those of its heads; one factor is for all."""
        by_head = factors * self.count if len(factors) == 1 else factors
        return RowScales(
            [1.0 if h is None else by_head[h] for h in self.heads[name]], self.one_plus
        )


def find_still_queries(weights: Weights, position: Position, *, what: str) -> StillQueries:
    """Find the tensors whose rows a temperature multiplies.

    Args:
        what: what asks for it, for messages.

    Raises:
        BadInput: positions are told, the family's queries are not known, or its tensors are not
            those of the family.
    """
    model_type, layers = position.model_type, still_layers(position)
    if not layers:
        raise BadInput(
            f"{what} sharpens attention without positions, and this {model_type} has none: its "
            f"encoding is {position.encoding}",
            "stop its rope first (--method drop), or train adapters",
        )
    queries = STILL_QUERIES.get(model_type) or QUERIES.get(model_type)
    if queries is None or position.head_dim is None:
        known = ", ".join(sorted(QUERIES | STILL_QUERIES))
        raise BadInput(
            f"{what}: where the queries of {model_type} get their scale is not known to ctxext",
            f"families where it is: {known}",
        )
    heads: dict[str, list[int | None]] = {}
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
            heads[name] = _heads(weights, name, queries, position, what)
            seen |= {layer} if below.endswith(".weight") else set()
    if missing := sorted(layers - seen):
        raise BadInput(
            f"{what}: layer {missing[0]} has no {queries.name}.weight, where queries of "
            f"{model_type} get their scale"
        )
    return StillQueries(heads, queries.one_plus)


def _heads(
    weights: Weights, name: str, queries: Queries, position: Position, what: str
) -> list[int | None]:
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
    heads = queries.heads(rows, position.head_dim or 0, position.kv_heads or 1)
    if heads is None:
        raise BadInput(
            f"{what}: {printable(name)} has the shape {list(info.shape)}, which does not fit heads "
            f"of {position.head_dim} dims"
        )
    return heads
