"""Where each family keeps its learned table of positions, and which have none that is rows.

Read from the modeling files of transformers 5.23, and measured by building each class.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ctxext.checkpoints.config.families import LAB


@dataclass(frozen=True)
class TableForm:
    """How a class reads its table.

    Attributes:
        name: the end of the tensor's name; what stands before differs with who saved it.
        offset: rows before that of position 0, which are no positions.
        counted: whether the window that the config says counts those rows too. They are then one
            more than the id of padding, whose tokens all have the last of them.
        of_encoders: the class looks both ways unless its config says `is_decoder`.
    """

    name: str
    offset: int = 0
    counted: bool = False
    of_encoders: bool = False


_BERT: Final = TableForm("embeddings.position_embeddings.weight", of_encoders=True)
_ROBERTA: Final = TableForm(_BERT.name, 2, counted=True, of_encoders=True)
_BART: Final = TableForm("decoder.embed_positions.weight", 2)
TABLES: Final[dict[str, TableForm]] = {
    "gpt2": TableForm("wpe.weight"),
    "gpt_bigcode": TableForm("wpe.weight"),
    "gpt_neo": TableForm("wpe.weight"),
    "openai-gpt": TableForm("positions_embed.weight"),
    "biogpt": TableForm("embed_positions.weight", 2),
    LAB: TableForm("embed_positions.weight"),
    **dict.fromkeys(("opt", "bart", "mbart", "mvp", "plbart", "trocr"), _BART),
    **dict.fromkeys(
        ("bigbird_pegasus", "blenderbot", "blenderbot-small", "whisper"), TableForm(_BART.name)
    ),
    **dict.fromkeys(
        (
            "bert", "bert-generation", "big_bird", "electra", "ernie", "megatron-bert", "rembert",
            "roc_bert",
        ),
        _BERT,
    ),
    **dict.fromkeys(
        (
            "roberta", "camembert", "data2vec-text", "roberta-prelayernorm", "xlm-roberta",
            "xlm-roberta-xl", "xmod",
        ),
        _ROBERTA,
    ),
}  # fmt: skip
_PADDING: Final = 1
"""`pad_token_id` of RoBERTa's classes, where the config has none."""


def rows_before(config: Mapping[str, Any], model_type: str) -> int:
    """Count the rows of a family's table that stand before position 0."""
    form = TABLES.get(model_type)
    if form is None or not form.counted:
        return form.offset if form else 0
    padding = config.get("pad_token_id", _PADDING)
    return padding + 1 if type(padding) is int and padding >= 0 else form.offset


def rows_in_window(config: Mapping[str, Any], model_type: str) -> int:
    """Count the rows before position 0 that the window of the config counts too."""
    form = TABLES.get(model_type)
    return rows_before(config, model_type) if form is not None and form.counted else 0
