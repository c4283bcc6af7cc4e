"""Small real checkpoints on disk."""

import json
from pathlib import Path

SHARED = Path(__file__).parents[3] / "shared"


def write_byte_tokenizer(folder, window):
    """A tokenizer whose ids are bytes, beside a checkpoint."""
    from ctxext.lab.byte_llama import byte_tokenizer

    (folder / "tokenizer.json").write_text(json.dumps(byte_tokenizer()))
    config = {"model_max_length": window, "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def build_tiny(
    folder,
    family="llama",
    *,
    window=128,
    tied=False,
    shard="5GB",
    dtype="float32",
    vocabulary=256,
    head_dim=16,
):
    """A randomly initialised decoder of one of the families, saved by transformers."""
    import torch
    import transformers

    kinds = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}
    config_class = getattr(transformers, f"{kinds[family]}Config")
    extra = {"sliding_window": None} if family == "mistral" else {}
    config = config_class(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=head_dim,
        max_position_embeddings=window,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=None,
        **extra,
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    for parameter in model.parameters():  # far from zero, so that logits say something
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(folder, max_shard_size=shard)
    write_byte_tokenizer(folder, window)
    return folder
