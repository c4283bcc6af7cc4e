"""GGUF files as llama.cpp's converter makes them of a Llama, by gguf-py's writer."""

import json

import numpy as np
from safetensors.torch import load_file

_TOP = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
}  # fmt: skip
_OF_LAYER = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip


def _name(name):
    name = name.removesuffix(".weight")
    if name in _TOP:
        return f"{_TOP[name]}.weight"
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{_OF_LAYER[rest]}.weight"


def _pairs_side_by_side(weight, heads):
    """llama.cpp turns dims 2i and 2i + 1, transformers i and i + d / 2."""
    halves = weight.reshape(heads, 2, -1, weight.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))


def write_llama_gguf(folder, path, *, architecture="llama", keys=(), tensors=()):
    """A Llama of one float32 file as GGUF, without a vocabulary: it is fed numbers of tokens.

    keys, tensors: further ones, (name, value), as a converter would have written.
    """
    import gguf

    config = json.loads((folder / "config.json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    writer.add_tags(["a", "ü"])
    for key, value in keys:
        add = {str: writer.add_string, float: writer.add_float32, int: writer.add_uint32}
        add[type(value)](key, value)
    for name, tensor in load_file(folder / "model.safetensors").items():
        array = tensor.float().numpy()
        for ending, count in (("q_proj.weight", heads), ("k_proj.weight", kv_heads)):
            if name.endswith(ending):
                array = _pairs_side_by_side(array, count)
        writer.add_tensor(_name(name), array)
    for name, value in tensors:
        writer.add_tensor(name, np.asarray(value, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def read_gguf(path):
    """({key: value}, {tensor: (type, bytes)}) of a file."""
    import gguf

    reader = gguf.GGUFReader(path)
    keys = {name: each.contents() for name, each in reader.fields.items() if "GGUF." not in name}
    return keys, {t.name: (int(t.tensor_type), t.data.tobytes()) for t in reader.tensors}
