"""Read how wide attention is, and what a layer keeps of each token."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ctxext.checkpoints.config import families
from ctxext.errors import BadInput
from ctxext.runs.numbers import whole

# Of layers, heads and widths. We keep a value for each, and no decoder comes near.
MOST = 2**18
HEADS = (
    "decoder_attention_heads", "num_attention_heads", "n_head", "n_heads", "num_heads",
    "attention_heads",
)  # fmt: skip
WIDTHS = ("hidden_size", "n_embd", "n_embed", "d_model", "emb_dim", "dim_model")


@dataclass(frozen=True)
class Heads:
    """Widths of attention; None where ctxext does not know.

    Attributes:
        head_dim: of a query or key.
        turning: dims of a head that a rope may turn: all, or a part that is kept for it.
        kv_heads: keys and values a token and layer.
        kept: numbers that a layer with attention keeps of a token.
    """

    head_dim: int | None
    turning: int | None
    kv_heads: int | None
    kept: int | None


def first_of(config: Mapping[str, Any], keys: tuple[str, ...], where: str) -> int | None:
    """Read a size of the model under the first of its names that is there."""
    for key in keys:
        size = whole(config, key, where, most=MOST)
        if size is not None:
            return size
    return None


def read_heads(
    config: Mapping[str, Any], model_type: str, where: str, warnings: list[str]
) -> Heads:
    """Read the widths of a config's attention, checked against each other.

    Raises:
        BadInput: a key is missing, or two contradict each other.
    """
    if model_type in families.NO_ATTENTION:
        return Heads(None, None, None, 0)
    if model_type in families.LATENT or _looks_latent(config, model_type):
        return _latent(config, model_type, where, warnings)
    heads = first_of(config, HEADS, where)
    hidden = first_of(config, WIDTHS, where)
    if model_type == "jetmoe" and heads is None:
        kv = whole(config, "num_key_value_heads", where) or 16
        heads = kv * (whole(config, "num_experts_per_tok", where) or 2)
    missing = [
        name for name, size in (("num_attention_heads", heads), ("hidden_size", hidden)) if not size
    ]
    if heads is None or hidden is None:
        raise BadInput(f"{where} has no {' and no '.join(missing)}")
    head_dim = _head_dim(config, model_type, heads, hidden, where)
    kv_heads = _kv_heads(config, model_type, heads, where, warnings)
    if heads % kv_heads:
        assumed = "" if "num_key_value_heads" in config else " (assumed, the key is not there)"
        raise BadInput(
            f"{where}: num_key_value_heads {kv_heads}{assumed} does not divide "
            f"num_attention_heads {heads}"
        )
    if model_type == "falcon" and config.get("new_decoder_architecture") is True:
        warnings.append(
            f"{where}: of {kv_heads} key-value heads transformers keeps {heads} heads in its "
            "cache, other engines those alone, so its size is not said"
        )
        return Heads(head_dim, head_dim, kv_heads, None)
    if model_type not in families.KNOWN:
        return Heads(head_dim, head_dim, kv_heads, None)
    if model_type in families.CACHE_UNKNOWN:
        warnings.append(f"{where}: what {model_type} keeps in its cache is not known to ctxext")
        return Heads(head_dim, head_dim, kv_heads, None)
    return Heads(head_dim, head_dim, kv_heads, 2 * kv_heads * head_dim)


def _looks_latent(config: Mapping[str, Any], model_type: str) -> bool:
    """Tell whether a type that is not known has the keys of latent attention (Kimi K2)."""
    return model_type not in families.KNOWN and config.get("qk_rope_head_dim") is not None


def _head_dim(
    config: Mapping[str, Any], model_type: str, heads: int, hidden: int, where: str
) -> int:
    key = {"jetmoe": "kv_channels", "zamba": "attention_head_dim", "zamba2": "attention_head_dim"}
    name = key.get(model_type, "head_dim")
    head_dim = whole(config, name, where, most=MOST)
    head_dim = head_dim or families.HEAD_DIM_WHEN_ABSENT.get(model_type)
    if head_dim is not None:
        return head_dim
    if model_type in families.DOUBLE_HEADS:
        hidden *= 2
    if hidden % heads:
        raise BadInput(
            f"{where}: hidden_size {hidden} is not a multiple of num_attention_heads {heads}, "
            f"and there is no {name}"
        )
    return hidden // heads


def _kv_heads(
    config: Mapping[str, Any], model_type: str, heads: int, where: str, warnings: list[str]
) -> int:
    if model_type in families.MULTI_QUERY:
        if model_type == "falcon" and config.get("new_decoder_architecture") is True:
            return whole(config, "num_kv_heads", where) or heads
        return heads if config.get("multi_query") is False else 1
    if model_type == "dbrx":
        attention = config.get("attn_config")
        block = attention if isinstance(attention, dict) else {}
        return whole(block, "kv_n_heads", where) or 1
    kv_heads = whole(config, "num_key_value_heads", where)
    if kv_heads is not None:
        return kv_heads
    if config.get("attention_head_type") == "multiquery":  # SantaCoder's own code of a gpt2
        return 1
    assumed = families.KV_HEADS_WHEN_ABSENT.get(model_type)
    if assumed is None or "num_key_value_heads" in config:
        return heads
    warnings.append(
        f"{where} has no num_key_value_heads, and transformers assumes {assumed} for {model_type}"
    )
    return assumed


def _latent(config: Mapping[str, Any], model_type: str, where: str, warnings: list[str]) -> Heads:
    """Read multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1)."""
    rank, turning, still = (
        whole(config, key, where, most=MOST)
        for key in ("kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim")
    )
    head_dim = None if turning is None or still is None else turning + still
    if rank is None or turning is None:
        warnings.append(
            f"{where} has no kv_lora_rank or no qk_rope_head_dim, so what {model_type} keeps in "
            "its cache is not known"
        )
        return Heads(head_dim, turning, None, None)
    if model_type not in families.KNOWN:
        return Heads(head_dim, turning, None, None)
    copies = 2 if model_type in families.TWO_ATTENTIONS_A_LAYER else 1
    warnings.append(
        "the KV cache is counted as latents, which transformers 5, vLLM and SGLang keep; "
        "transformers 4 keeps whole keys and values"
    )
    return Heads(head_dim, turning, 1, copies * (rank + turning))
