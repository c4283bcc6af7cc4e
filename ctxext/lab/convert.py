"""Convert the laboratory's decoder to the stock class that it already is, and back.

With RoPE and Llama's blocks it is Llama, with a learned table and GPT-2's blocks it is GPT-2: the
same numbers under other names, so that logits agree to rounding.
"""

from collections.abc import Iterator
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from ctxext.lab.decoder import LabConfig, LabForCausalLM

_SAME = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
         "max_position_embeddings", "initializer_range", "tie_word_embeddings", "use_cache",
         "pad_token_id", "bos_token_id", "eos_token_id")  # fmt: skip
_OUTSIDE = {
    "model.embed_tokens.weight": "transformer.wte.weight",
    "model.embed_positions.weight": "transformer.wpe.weight",
    "model.norm.weight": "transformer.ln_f.weight",
    "model.norm.bias": "transformer.ln_f.bias",
    "lm_head.weight": "lm_head.weight",
}
_INSIDE = {  # of a layer; GPT-2's matrices have inputs first (`Conv1D`)
    "input_layernorm": "ln_1",
    "post_attention_layernorm": "ln_2",
    "self_attn.o_proj": "attn.c_proj",
    "mlp.up_proj": "mlp.c_fc",
    "mlp.down_proj": "mlp.c_proj",
}
_FUSED = "attn.c_attn"


def to_llama(model: LabForCausalLM) -> LlamaForCausalLM:
    """Make the Llama of a decoder with RoPE and Llama's blocks.

    Raises:
        ValueError: it is no such decoder.
    """
    config = model.config
    _require(config, "rope", "llama")
    made = LlamaForCausalLM(
        LlamaConfig(
            **_shared(config), intermediate_size=config.intermediate_size,
            rope_parameters=dict(config.rope_parameters or {}), rms_norm_eps=config.norm_eps,
        )
    )  # fmt: skip
    _fill(made, model, model.state_dict())
    return made


def from_llama(model: LlamaForCausalLM) -> LabForCausalLM:
    """Make the laboratory's decoder of a Llama.

    Raises:
        ValueError: it has shared keys, biases, or heads of another width.
    """
    config = model.config
    odd = [
        name
        for name, differs in {
            "grouped keys": config.num_key_value_heads != config.num_attention_heads,
            "biases": config.attention_bias or config.mlp_bias,
            "head_dim": config.head_dim * config.num_attention_heads != config.hidden_size,
            "hidden_act": config.hidden_act != "silu",
        }.items()
        if differs
    ]
    if odd:
        raise ValueError(f"the laboratory's decoder knows no {', '.join(odd)}")
    made = LabForCausalLM(
        LabConfig(
            **_shared(config), intermediate_size=config.intermediate_size, block="llama",
            position_encoding="rope", rope_parameters=dict(config.rope_parameters),
            norm_eps=config.rms_norm_eps,
        )
    )  # fmt: skip
    _fill(made, model, model.state_dict())
    return made


def to_gpt2(model: LabForCausalLM) -> GPT2LMHeadModel:
    """Make the GPT-2 of a decoder with a learned table and GPT-2's blocks.

    Raises:
        ValueError: it is no such decoder.
    """
    config = model.config
    _require(config, "learned", "gpt2")
    made = GPT2LMHeadModel(
        GPT2Config(
            **_shared(config), n_inner=config.intermediate_size,
            layer_norm_epsilon=config.norm_eps, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        )
    )  # fmt: skip
    ours = model.state_dict()
    tensors = {theirs: ours[name] for name, theirs in _OUTSIDE.items() if name in ours}
    for our, their in _layers(config.num_hidden_layers):
        for name, theirs in _INSIDE.items():
            tensors[f"{their}{theirs}.weight"] = _turned(name, ours[f"{our}{name}.weight"])
            tensors[f"{their}{theirs}.bias"] = ours[f"{our}{name}.bias"]
        for end in ("weight", "bias"):
            parts = [ours[f"{our}self_attn.{each}_proj.{end}"] for each in "qkv"]
            tensors[f"{their}{_FUSED}.{end}"] = torch.cat(parts).t()
    _fill(made, model, tensors)
    return made


def from_gpt2(model: GPT2LMHeadModel) -> LabForCausalLM:
    """Make the laboratory's decoder of a GPT-2; dropout is left behind.

    Raises:
        ValueError: scores scaled by layer or not at all, or another activation.
    """
    config = model.config
    plain = config.scale_attn_weights and not config.scale_attn_by_inverse_layer_idx
    if not plain or config.activation_function not in ("gelu_new", "gelu_pytorch_tanh"):
        raise ValueError("the laboratory's decoder knows no such scores, or no such activation")
    made = LabForCausalLM(
        LabConfig(
            **_shared(config), intermediate_size=config.n_inner or 4 * config.hidden_size,
            block="gpt2", position_encoding="learned", norm_eps=config.layer_norm_epsilon,
        )
    )  # fmt: skip
    theirs = model.state_dict()
    tensors = {name: theirs[their] for name, their in _OUTSIDE.items() if their in theirs}
    for our, their in _layers(config.num_hidden_layers):
        for name, stock in _INSIDE.items():
            tensors[f"{our}{name}.weight"] = _turned(name, theirs[f"{their}{stock}.weight"])
            tensors[f"{our}{name}.bias"] = theirs[f"{their}{stock}.bias"]
        for end in ("weight", "bias"):
            parts = theirs[f"{their}{_FUSED}.{end}"].t().chunk(3)
            for each, part in zip("qkv", parts, strict=True):
                tensors[f"{our}self_attn.{each}_proj.{end}"] = part
    _fill(made, model, tensors)
    return made


def _shared(config: Any) -> dict[str, Any]:
    return {name: getattr(config, name) for name in _SAME}


def _layers(count: int) -> Iterator[tuple[str, str]]:
    return ((f"model.layers.{i}.", f"transformer.h.{i}.") for i in range(count))


def _turned(name: str, weight: torch.Tensor) -> torch.Tensor:
    return weight.t() if name.endswith("_proj") else weight


def _require(config: LabConfig, encoding: str, block: str) -> None:
    if (config.position_encoding, config.block) != (encoding, block):
        raise ValueError(
            f"position_encoding {config.position_encoding} with block {config.block} is no stock "
            f"class; {encoding} with block {block} is this one"
        )


def _fill(made: Any, model: Any, tensors: dict[str, torch.Tensor]) -> None:
    """Fill a new model with the tensors of another, in its dtype and mode."""
    made.to(next(model.parameters()).dtype)
    made.load_state_dict(tensors)
    made.train(model.training)
