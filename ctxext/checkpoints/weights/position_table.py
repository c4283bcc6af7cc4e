"""Find the learned table of positions among the tensors of a checkpoint."""

from ctxext.checkpoints.config.detect import Position
from ctxext.checkpoints.config.tables import TABLES
from ctxext.checkpoints.weights.files import Weights
from ctxext.errors import BadInput


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
    form = TABLES.get(model_type)
    end = f".{form.name}" if form is not None else "?"
    names = [name for name in weights.tensors if f".{name}".endswith(end)]
    if len(names) != 1:
        raise BadInput(
            f"which tensor of this {model_type} is its table of positions is not known to ctxext"
        )
    return names[0]
