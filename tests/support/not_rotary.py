"""Small random checkpoints of decoders that are told of positions by no rope, window 128."""

from ctxext.checkpoints.config.tables import TABLES
from support.families import WINDOW, build_family

# What makes a type the wanted one, and small; the key of the window where a class has another.
SIZES = {
    "gpt2": {"n_positions": WINDOW, "num_hidden_layers": 2},
    "gpt_neo": {
        "num_layers": 2, "num_hidden_layers": 2, "attention_types": [[["global", "local"], 1]],
    },
    "opt": {"num_hidden_layers": 2},
    "bloom": {"seq_length": WINDOW, "num_hidden_layers": 2},
    "mpt": {"max_seq_len": WINDOW, "num_hidden_layers": 2},
    "falcon": {"alibi": True, "num_hidden_layers": 2},
    "xglm": {"num_layers": 2, "num_hidden_layers": 2},
    "jamba": {
        "num_hidden_layers": 2, "attn_layer_period": 2, "attn_layer_offset": 1,
        "expert_layer_period": 2, "expert_layer_offset": 1, "num_experts": 2,
        "use_mamba_kernels": False,
    },
}  # fmt: skip
_OTHERS = {
    "gpt_bigcode": {"n_positions": WINDOW},
    "openai-gpt": {"n_positions": WINDOW},
    "ctrl": {"n_positions": WINDOW},
    "whisper": {"max_position_embeddings": None, "max_target_positions": WINDOW},
    "xmod": {"default_language": "en_XX"},
}


def build_not_rotary(folder, model_type, **changes):
    """Save one; its position table is far from zero, and has RoBERTa's rows before position 0."""
    form, rows = TABLES.get(model_type), {}
    if form is not None and form.counted:
        rows = {
            "max_position_embeddings": WINDOW + form.offset, "pad_token_id": form.offset - 1,
        }  # fmt: skip
    sizes = SIZES.get(model_type, _OTHERS.get(model_type, {}))
    return build_family(folder, model_type, **(rows | sizes | changes))
