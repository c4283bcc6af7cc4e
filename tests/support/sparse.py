"""16 GB of weights that are not there: safetensors shards with real headers and holes."""

import json
import struct

HIDDEN, MLP, LAYERS, VOCABULARY, KV = 4096, 14336, 32, 128_256, 1024


def tensors():
    """Name and shape of every tensor of a Llama 3 8B."""
    yield "model.embed_tokens.weight", (VOCABULARY, HIDDEN)
    for layer in range(LAYERS):
        stem = f"model.layers.{layer}"
        for name, shape in {
            "self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (KV, HIDDEN),
            "self_attn.v_proj": (KV, HIDDEN), "self_attn.o_proj": (HIDDEN, HIDDEN),
            "mlp.gate_proj": (MLP, HIDDEN), "mlp.up_proj": (MLP, HIDDEN),
            "mlp.down_proj": (HIDDEN, MLP), "input_layernorm": (HIDDEN,),
            "post_attention_layernorm": (HIDDEN,),
        }.items():  # fmt: skip
            yield f"{stem}.{name}.weight", shape
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (VOCABULARY, HIDDEN)


def make_sparse(folder, shards=4):
    """Write the checkpoint; return its size in bytes, as it is listed."""
    folder.mkdir(parents=True)
    every = list(tensors())
    share, where, total = -(-len(every) // shards), {}, 0
    for shard in range(shards):
        name = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        header, end = {}, 0
        for tensor, shape in every[shard * share : (shard + 1) * share]:
            size = 2
            for side in shape:
                size *= side
            header[tensor] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
            end, where[tensor] = end + size, name
        text = json.dumps(header).encode()
        with (folder / name).open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            file.truncate(8 + len(text) + end)
        total += end
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
        "intermediate_size": MLP, "num_attention_heads": 32, "num_key_value_heads": 8,
        "num_hidden_layers": LAYERS, "vocab_size": VOCABULARY, "max_position_embeddings": 8192,
        "rope_theta": 500000.0, "torch_dtype": "bfloat16",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return total
