"""Find the learned table of positions among the tensors of a checkpoint."""

from ctxext.checkpoints.config.detect import Position
from ctxext.checkpoints.config.tables import TABLES
from ctxext.checkpoints.weights.files import Weights
from ctxext.checkpoints.weights.safetensors_file import printable
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
    if model_type not in TABLES:
        raise BadInput(f"where {model_type} keeps its table of positions is not known to ctxext")
    end = f".{TABLES[model_type].name}"
    names = [name for name in weights.tensors if f".{name}".endswith(end)]
    if len(names) != 1:
        shown = ", ".join(map(printable, names[:3])) or "none"
        raise BadInput(
            f"the weights have {len(names)} tables of positions ({shown}), and a {model_type} has "
            f"one, *{end}"
        )
    return names[0]
