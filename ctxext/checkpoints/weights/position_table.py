"""Find the learned table of positions among the tensors of a checkpoint."""

from ctxext.checkpoints.config.detect import Position
from ctxext.checkpoints.weights.files import Weights
from ctxext.errors import BadInput

# Ends of the names that families give to their table of positions.
_TABLES = (
    "wpe.weight", "embed_positions.weight", "positions_embed.weight", "position_embeddings.weight",
)  # fmt: skip


def check_table(position: Position, name: str) -> None:
    """Check that a checkpoint is told positions by a learned table.

    Raises:
        BadInput: it is told otherwise; `name` is the checkpoint's.
    """
    if position.encoding != "learned":
        raise BadInput(
            f"train.what: position-rows trains a learned position table, and the encoding of "
            f"{name} is {position.encoding}",
            "train.what: lora trains adapters",
        )


def position_table(weights: Weights, model_type: str) -> str:
    """Name the learned table of positions.

    Raises:
        BadInput: there is none, or there are several.
    """
    names = [name for name in weights.tensors if name.endswith(_TABLES)]
    if len(names) != 1:
        raise BadInput(
            f"which tensor of this {model_type} is its table of positions is not known to ctxext"
        )
    return names[0]
