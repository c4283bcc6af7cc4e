"""Find what attention without positions multiplies its queries by, in the stored tensors.

A temperature on the scores is a factor on the queries, and where nothing turns them it can be put
into the tensor that makes them: the checkpoint needs no code for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ctxext.checkpoints.config.detect import Position
from ctxext.checkpoints.config.still import still_layers
from ctxext.checkpoints.weights.files import Weights
from ctxext.checkpoints.weights.fold import Fold
from ctxext.checkpoints.weights.queries import QUERIES, STILL_QUERIES
from ctxext.checkpoints.weights.query_tensors import RowHeads, query_heads
from ctxext.checkpoints.weights.row_scales import RowScales
from ctxext.encodings.kinds import ROTARY
from ctxext.errors import BadInput
from ctxext.runs.recipe.config import HEADS


@dataclass(frozen=True)
class StillQueries:
    """The tensors that make, or norm, the queries of attention without positions.

    Attributes:
        heads: tensor -> for each of its rows the query head, from 0; None = of keys or values.
        one_plus: 1 is added to what is stored before it is used.
    """

    heads: Mapping[str, RowHeads]
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
            "stop its rope first (--method drop), or train adapters"
            if position.encoding in ROTARY
            else "train adapters (--train lora)",
        )
    queries = STILL_QUERIES.get(model_type) or QUERIES.get(model_type)
    if queries is None or position.head_dim is None:
        known = ", ".join(sorted(QUERIES | STILL_QUERIES))
        raise BadInput(
            f"{what}: where the queries of {model_type} get their scale is not known to ctxext",
            f"families where it is: {known}",
        )
    heads = query_heads(weights, position, queries, layers, head_dim=position.head_dim, what=what)
    return StillQueries(heads, queries.one_plus)
