"""Tell an encoder, whose tokens see those that follow them, from a decoder of the same class.

Read from the modeling files of transformers 5.23, and measured by changing the last token.
"""

from collections.abc import Mapping
from typing import Any, Final

from ctxext.checkpoints.config.decoder_part import PART
from ctxext.checkpoints.config.tables import TABLES
from ctxext.errors import BadInput

# The key and value that make a decoder of a type whose class is otherwise an encoder.
_DECODES: Final[dict[str, tuple[str, Any]]] = {
    **{name: ("is_decoder", True) for name, form in TABLES.items() if form.of_encoders},
    "roformer": ("is_decoder", True),
    "xlm": ("causal", True),
    "xlnet": ("attn_type", "uni"),
}
_FLAG: Final = "use_bidirectional_attention"


def looks_both_ways(
    file: Mapping[str, Any],
    config: Mapping[str, Any],
    model_type: str,
    where: str,
    doubts: list[BadInput],
) -> BadInput | None:
    """Say that a model is an encoder; None = it decodes.

    Args:
        file: the whole config.json.
        config: what of it describes the decoder.
        doubts: gets it too.
    """
    key, value = _DECODES.get(model_type, ("", None))
    if key and config.get(key) != value:
        reason = f"does not say {key}" if value is True else f"does not say {key} {value}"
    elif config.get("is_causal") is False:  # which every class that masks by transformers' follows
        reason = "says is_causal false"
    elif config.get(_FLAG) in (True, "all"):  # "vision": the tokens of a picture, each other alone
        reason = f"says {_FLAG}"
    elif _by_its_whole(file, config, model_type):
        reason = f"does not say {PART}.{_FLAG} false"
    else:
        return None
    doubts.append(
        BadInput(
            f"{where} {reason}, so this {model_type} looks both ways: it is an encoder",
            "ctxext extends decoders",
        )
    )
    return doubts[-1]


def _by_its_whole(file: Mapping[str, Any], config: Mapping[str, Any], model_type: str) -> bool:
    """Tell whether the multimodal class sets the flag that its decoder's config leaves out."""
    whole = file.get("model_type")
    return (whole, model_type, config.get(_FLAG)) == ("paligemma", "gemma", None)
