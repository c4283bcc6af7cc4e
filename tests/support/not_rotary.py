"""Small random checkpoints of families that do not rotate, window 128."""

from support.families import WINDOW, build_family

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


def build_not_rotary(folder, model_type):
    """Save one, whatever transformers thinks of its sizes on the way."""
    return build_family(folder, model_type, **SIZES[model_type])
