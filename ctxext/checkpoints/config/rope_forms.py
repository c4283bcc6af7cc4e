"""Under which keys each family's class reads the rope of its far-reaching layers, and which types.

Measured on transformers 5.23 and 5.24 by building each class: a block was written, and the
frequencies of the rotary module were compared with the formula's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ctxext.checkpoints.config import families
from ctxext.errors import BadInput, shown

_ALL: Final = frozenset({"default", "linear", "dynamic", "yarn", "llama3", "longrope"})
_BLOCKS: Final = ("rope_parameters", "rope_scaling")


@dataclass(frozen=True)
class RopeForm:
    """How a class reads the rope of the layers that attend to everything.

    Attributes:
        layer_type: their key in `rope_parameters`, where it holds a block for each kind of layer;
            None: one block turns all layers.
        flat_too: a flat `rope_scaling` beside nested blocks is right; elsewhere it stops the class
            from loading, or scales the windowed layers too.
        rope_types: what the class computes.
        written_as: the one name that the class has for all of them; None: their own.
        temperature: whether the class reads an attention factor.
        truncate: whether the class reads yarn's `truncate: false`.
        one_list: of longrope's lists the class reads `short_factor` at every length.
    """

    layer_type: str | None = None
    flat_too: bool = True
    rope_types: frozenset[str] = _ALL
    written_as: str | None = None
    temperature: bool = True
    truncate: bool = True
    one_list: bool = False

    def takes(self, rope_type: str) -> bool:
        """Tell whether the class computes a `rope_type`."""
        return rope_type in self.rope_types


def _nested(layer_type: str = "full_attention", *, flat_too: bool = False) -> RopeForm:
    # transformers looks for `truncate` beside the blocks, not in them.
    return RopeForm(layer_type, flat_too=flat_too, truncate=False)


_PLAIN: Final = RopeForm()
_LONGROPE_ONLY: Final = RopeForm(rope_types=frozenset({"default", "longrope"}))
# A share of the pairs of whole heads turns; a `factor` slows them all down, as linear scaling does.
_PROPORTIONAL: Final = RopeForm(
    "full_attention", flat_too=False, rope_types=frozenset({"default", "linear"}),
    written_as="proportional", truncate=False,
)  # fmt: skip
_FORMS: Final[dict[str, RopeForm]] = {
    **{name: _nested() for name in ("dory", "laguna", "mellum", "mimo_v2_flash")},
    "modernbert-decoder": _nested(),
    **{name: _nested(flat_too=True) for name in families.FLAT_ROPE_OF_FULL_LAYERS},
    "dots3_note_text": _nested("indexed_attention"),
    "zaya": _nested("hybrid"),
    "deepseek_v4": RopeForm("compress", temperature=False, truncate=False),
    **dict.fromkeys(("gemma4_text", "gemma4_unified_text", "lfm3"), _PROPORTIONAL),
    "phi3": _LONGROPE_ONLY,
    "phi4_multimodal": _LONGROPE_ONLY,
    "ministral3": RopeForm(rope_types=_ALL - {"dynamic"}),
    # It asks for frequencies without a length: those of `dynamic` never change.
    "phimoe": RopeForm(rope_types=_ALL - {"dynamic"}, one_list=True),
    "recurrent_gemma": RopeForm(rope_types=frozenset({"default"})),
}


def form_of(model_type: str) -> RopeForm:
    """Look up how a family's class reads its rope: one plain block, unless measured otherwise."""
    return _FORMS.get(model_type, _PLAIN)


def nested(block: object) -> bool:
    """Tell whether a rope block holds one for each layer type (null: that type does not turn)."""
    return (
        isinstance(block, dict)
        and any(isinstance(value, dict) for value in block.values())
        and all(value is None or isinstance(value, dict | str) for value in block.values())
    )


def _check_blocks(block: object, where: str) -> None:
    """Refuse a block that is one for all layers and one for each kind of layer at once.

    Raises:
        BadInput: it is, or the block of a kind of layer is none.
    """
    if not isinstance(block, dict):
        return
    kinds = [name for name in block if str(name).endswith("_attention")]
    wrong = [name for name in kinds if not isinstance(block[name], dict | str | None)]
    if wrong:
        name = wrong[0]
        raise BadInput(
            f"{where}: {shown(name, 40)} is {shown(block[name])}, and has to be an object"
        )
    flat = [key for key in ("rope_type", "type", "rope_theta", "factor") if key in block]
    if kinds and flat:
        raise BadInput(
            f"{where} has blocks by layer type, and {flat[0]} beside them",
            f"remove {flat[0]}, or write it into the blocks",
        )


def far_rope(
    config: Mapping[str, Any], model_type: str, where: str, warnings: list[str]
) -> Mapping[str, Any] | None:
    """Put the rope of the far-reaching layers in place of blocks by layer type.

    Returns:
        The config with one flat block; None where it is not known which block is theirs.

    Raises:
        BadInput: their block is not there.
    """
    form, blocks = form_of(model_type), {key: config.get(key) or {} for key in _BLOCKS}
    for key, block in blocks.items():
        _check_blocks(block, f"{where}: {key}")
    one = bool(blocks["rope_parameters"]) and not nested(blocks["rope_parameters"])
    if one and model_type in families.FLAT_ROPE_OF_FULL_LAYERS:
        raise BadInput(
            f"{where}: rope_parameters is one block, and the class of {model_type} reads one for "
            "each layer type there and passes over it",
            f'put it under "{form.layer_type}"',
        )
    by_layer = [key for key, block in blocks.items() if nested(block)]
    if not by_layer:
        return None if model_type in families.ROTARY_BY_LAYER_TYPE else config
    if form.layer_type is None:
        types = ", ".join(shown(layer_type, 40) for layer_type in list(blocks[by_layer[0]])[:8])
        warnings.append(
            f"{where}: {by_layer[0]} differs by layer type ({types}), which ctxext does not know "
            f"of {model_type}: the rope is unknown"
        )
        return None
    flat = dict(config)
    for key in by_layer:
        block = blocks[key].get(form.layer_type)
        if not isinstance(block, dict):
            raise BadInput(f"{where}: {key} has no block for {form.layer_type}")
        flat[key] = block
        if "rope_theta" in block and model_type not in families.FLAT_ROPE_OF_FULL_LAYERS:
            flat.pop("rope_theta", None)  # of other layers
    beside = blocks["rope_scaling"]
    if isinstance(beside, dict) and beside and "rope_scaling" not in by_layer:
        if not form.flat_too:
            raise BadInput(
                f"{where}: rope_scaling beside rope_parameters by layer type: the class of "
                f"{model_type} cannot read both",
                "remove rope_scaling",
            )
        # The class adds the flat keys to the block of the full layers.
        flat["rope_scaling"] = {**flat["rope_parameters"], **beside}
    return flat
