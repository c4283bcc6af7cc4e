"""Make a decoder of one layer that turns as a checkpoint's does, and weighs little."""

import copy
from typing import TYPE_CHECKING, Any, Final

from ctxext.checkpoints.config.detect import Position
from ctxext.checkpoints.config.rope_forms import form_of

if TYPE_CHECKING:
    import torch

# Sizes on which no rotation depends, by the names that config classes have for them.
_SIZES: Final = {
    "vocab_size": 8, "intermediate_size": 8, "moe_intermediate_size": 8, "n_inner": 8,
    "shared_expert_intermediate_size": 8, "ffn_hidden_size": 8, "expert_ffn_hidden_size": 8,
    "vocab_size_per_layer_input": 8, "num_kv_shared_layers": 0, "mlp_hidden_size": 8,
}  # fmt: skip


def small_decoder(config: Any, position: Position, dtype: "torch.dtype") -> Any:
    """Build a random decoder of one far-reaching layer, without a head.

    Args:
        config: transformers' config of the checkpoint, of which the part that reads text counts.
        position: what `detect` read of it.
    """
    from transformers import AutoModel

    text = config.get_text_config(decoder=True)
    if getattr(text, "is_heterogeneous", False):  # heads of another width in some layers
        text = text.per_layer_config[_far_layer(position)]
    small = copy.deepcopy(text)
    for name, size in _SIZES.items():
        if isinstance(getattr(small, name, None), int):
            setattr(small, name, size)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):  # of a vocabulary that is gone
        setattr(small, name, None)
    small.num_hidden_layers = 1
    types = getattr(small, "layer_types", None)
    if _derives(small, "layer_types"):
        small.num_hidden_layers = _far_layer(position) + 1
    elif types:
        far = form_of(position.model_type).layer_type
        small.layer_types = [far if far in types else types[_far_layer(position)]]
    return AutoModel.from_config(small, dtype=dtype)


def _derives(config: Any, name: str) -> bool:
    """Tell whether a config class works a key out of others, and takes none."""
    name = config.attribute_map.get(name, name)
    return isinstance(getattr(type(config), name, None), property)


def _far_layer(position: Position) -> int:
    """Find a layer that turns, one that attends to everything where there is one."""
    turning = [each for each in position.layers if each.position_encoding not in (None, "none")]
    far = [each for each in turning if each.attention == "full"]
    return next((each.index for each in [*far, *turning]), 0)
