"""Small random checkpoints of any family, on disk, with a tokenizer whose ids are bytes."""

import torch
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
)

from support.checkpoints import write_byte_tokenizer
from support.tiny_models import tiny_config

WINDOW = 128
_VISION = {
    "hidden_size": 32, "embed_dim": 32, "intermediate_size": 32, "num_hidden_layers": 1,
    "depth": 1, "num_attention_heads": 2, "num_heads": 2, "image_size": 28, "patch_size": 14,
    "out_hidden_size": 64, "fullatt_block_indexes": [0], "deepstack_visual_indexes": [0],
    "num_position_embeddings": 16,
}  # fmt: skip
# Special tokens of pictures have to lie inside a vocabulary of bytes.
_TOKENS = {
    "image_token_index": 250, "image_token_id": 250, "video_token_id": 251,
    "video_token_index": 251, "vision_start_token_id": 252, "vision_end_token_id": 253,
    "boi_token_index": 254, "eoi_token_index": 255, "mm_tokens_per_image": 4,
}  # fmt: skip


def build_family(folder, model_type, **changes):
    """Save a small decoder of `model_type`, or a multimodal checkpoint around one."""
    whole = CONFIG_MAPPING[model_type]()
    text = tiny_config(
        model_type,
        **{"vocab_size": 256, "max_position_embeddings": WINDOW, "bos_token_id": None,
           "eos_token_id": None, "pad_token_id": None, **_mrope(model_type), **changes},
    )  # fmt: skip
    torch.manual_seed(0)
    if getattr(whole, "text_config", None) is None:
        model = AutoModelForCausalLM.from_config(text)
    else:
        vision = type(whole.vision_config)
        known = vision().to_dict()
        small = vision(**{k: v for k, v in _VISION.items() if k in known})
        tokens = {k: v for k, v in _TOKENS.items() if k in whole.to_dict()}
        config = type(whole)(text_config=text.to_dict(), vision_config=small.to_dict(), **tokens)
        model = AutoModelForImageTextToText.from_config(config)
    for parameter in model.parameters():  # far from zero, so that logits say something
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    write_byte_tokenizer(folder, WINDOW)
    return folder


def _mrope(model_type):
    """The sections of a head of 16 dims, for models that place pictures in three dimensions."""
    if not model_type.startswith(("qwen2_vl", "qwen2_5_vl", "qwen3_vl")):
        return {}
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3]}
    if model_type.startswith("qwen3"):
        return {"rope_parameters": {**rope, "mrope_interleaved": True}, "head_dim": 16}
    return {"rope_parameters": rope}
