"""Make transformers' config of a config.json, from the keys alone that make up a decoder.

What else a file says (kernels of the Hub as `attn_implementation`, a hundred billion `num_labels`,
other weight files, adapters, code) decides nothing here.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

from ctxext.checkpoints.config.decoder_part import DECODER_OF, FLAT, PART, class_type
from ctxext.checkpoints.folder import CONFIG, Source, read_config
from ctxext.checkpoints.lab_decoder.model_type import MODEL_TYPE
from ctxext.checkpoints.lab_decoder.registered import register
from ctxext.checkpoints.live.quiet import quiet_transformers
from ctxext.errors import BadInput, CtxextError, is_out_of_memory
from ctxext.runs.numbers import whole

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_FLOATS: Final = ("Infinity", "-Infinity", "NaN")
# Keys that config classes take without declaring them, and that their models are made of: read from
# the configuration and modeling files of transformers 5.23, which a test reads again.
UNDECLARED: Final = frozenset(
    {
        # rotation, under all its names
        "rope_parameters", "rope_scaling", "rope_theta", "partial_rotary_factor", "rotary_pct",
        "rotary_dim", "rotary_emb_base", "original_max_position_embeddings", "rope_local_base_freq",
        "global_rope_theta", "local_rope_theta", "swa_rope_theta", "swa_qk_rope_head_dim",
        "qk_rope_head_dim", "max_position_embeddings",
        # sizes
        "head_dim", "global_head_dim", "num_global_key_value_heads", "n_embed", "embed_dim",
        "num_heads", "block_ff_dim", "dense_intermediate_size", "hidden_size", "num_experts",
        "moe_shared_expert_intermediate_size", "tie_embedding", "tie_word_embeddings", "use_bias",
        "router_bias", "router_scale", "initializer_range",
        # which layer is what
        "sliding_window", "sliding_window_size", "sliding_window_pattern", "use_sliding_window",
        "layer_types", "full_attention_interval", "global_attn_every_n_layers",
        "hybrid_override_pattern", "first_k_dense_replace", "moe_layer_freq", "dense_mlp_idx",
        "sparse_attention_config", "linear_attn_config", "compress_ratios", "compress_rate_csa",
        "compress_rate_hca", "num_hash_layers", "index_topk_freq", "index_topk_pattern",
        "index_skip_topk_offset", "pyramid_num_routed", "capacity_factor", "use_dsa", "is_causal",
        # state spaces
        "mamba_chunk_size", "mamba_conv_bias", "mamba_d_conv", "mamba_dt_init_floor",
        "mamba_dt_limit", "mamba_dt_max", "mamba_dt_min", "mamba_expand", "mamba_n_groups",
        "use_falcon_mambapy",
    }
)  # fmt: skip


def decoder_config(source: Source, *, trust_remote_code: bool = False) -> "PretrainedConfig":
    """Make transformers' config of a checkpoint, from the keys in `decoder_keys` alone.

    With `trust_remote_code`, and code in the checkpoint, it is what that code makes of the file.

    Raises:
        BadInput: a family that transformers does not know, code that is not allowed to
            run, or values that its config class refuses.
    """
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config, _ = read_config(source)
    whole(config, "vocab_size", f"{source.name}/{CONFIG}", most=2**62)  # in better words than below
    brings_code = isinstance(config.get("auto_map"), dict)
    model_type = str(class_type(config))
    if model_type == MODEL_TYPE:
        register()
    known = model_type in CONFIG_MAPPING and _reads_text(model_type)
    if brings_code and not known and not trust_remote_code:
        raise brings_its_own_code(source)
    if not known and not brings_code:
        raise BadInput(
            f"{source.name}/{CONFIG}: transformers knows no decoder of model_type {model_type!r}",
            "a newer transformers may know it",
        )
    with quiet_transformers(), said_of(source, f"read the {CONFIG} of"):
        if brings_code and trust_remote_code:
            return AutoConfig.from_pretrained(
                source.folder, trust_remote_code=True, local_files_only=True
            )
        if model_type in FLAT and PART not in config:
            config = _in_parts(config, decoder_keys(CONFIG_MAPPING[DECODER_OF[model_type]]))
        return _made(CONFIG_MAPPING[model_type], _with_floats(config))


def _with_floats(value: Any) -> Any:
    """Read infinities as transformers writes them: {"__float__": "Infinity"} (Mamba's limits)."""
    if isinstance(value, dict):
        if set(value) == {"__float__"} and value["__float__"] in _FLOATS:
            return float(value["__float__"])
        return {key: _with_floats(item) for key, item in value.items()}
    return [_with_floats(item) for item in value] if isinstance(value, list) else value


def _in_parts(config: Mapping[str, Any], keys: frozenset[str]) -> dict[str, Any]:
    """Put the decoder's `keys` of a flat multimodal file where transformers 5 keeps them."""
    text = {key: value for key, value in config.items() if key in keys}
    beside = {key: value for key, value in config.items() if key not in keys}
    return {**beside, "tie_word_embeddings": config.get("tie_word_embeddings", False), PART: text}


def _reads_text(model_type: str) -> bool:
    """Tell whether there is a class that continues text, alone or beside pictures."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    names = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    return model_type == MODEL_TYPE or any(model_type in mapping for mapping in names)


def _made(family: Any, config: Mapping[str, Any]) -> "PretrainedConfig":
    """Make a config of the keys of a decoder, and of its parts where it is one of several."""
    keys = decoder_keys(family)
    if not isinstance(config.get(PART), dict):
        return family(**{k: v for k, v in config.items() if k in keys})
    parts = {
        name: _made(_class_of_part(part, config[name]), config[name])
        for name, part in family.sub_configs.items()
        if isinstance(config.get(name), dict)
    }
    # Which tokens stand for pictures, and how many: declared by the class, or nothing.
    return family(**{k: v for k, v in config.items() if k in keys and k not in parts}, **parts)


def _class_of_part(family: Any, part: Mapping[str, Any]) -> Any:
    """Return the config class of a part: the family's own, or the one that the part names."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if hasattr(family, "sub_configs"):
        return family
    model_type = part.get("model_type")
    if model_type not in CONFIG_MAPPING:
        raise ValueError(f"there is no part of model_type {model_type!r}")
    return CONFIG_MAPPING[model_type]


def decoder_keys(family: Any) -> frozenset[str]:
    """List the keys of a config.json of which a config class makes a decoder.

    What the class declares, under both of its names, and what it takes undeclared; nothing that
    every config has, such as labels, outputs and implementations.
    """
    from transformers import PretrainedConfig

    for_all = {field.name for field in fields(PretrainedConfig)} - {"is_encoder_decoder"}
    declared = {field.name for field in fields(family)} - for_all
    renamed = {*family.attribute_map, *family.attribute_map.values()} - for_all
    return frozenset(declared | renamed | UNDECLARED) - {"per_layer_config"}


def brings_its_own_code(source: Source, what: str = "model") -> BadInput:
    """Write the refusal of a checkpoint that would run Python of its own."""
    return BadInput(
        f"{source.name} brings its own Python code for its {what}, which is not run",
        "read the code, then add --trust-remote-code",
    )


@contextmanager
def said_of(source: Source, what: str = "make a model of") -> Iterator[None]:
    """Turn what transformers raises about a checkpoint into one sentence that names it.

    A file can make it raise almost anything: its classes compute with values before they check.

    Raises:
        BadInput: in its place.
        CtxextError: memory ran out.
    """
    from huggingface_hub.errors import StrictDataclassError

    try:
        yield
    except (
        ValueError, TypeError, KeyError, AttributeError, IndexError, ArithmeticError, OSError,
        ImportError, RuntimeError, RecursionError, MemoryError, AssertionError,
        StrictDataclassError,
    ) as error:  # fmt: skip
        if is_out_of_memory(error):
            raise CtxextError(f"{source.name} does not fit into the memory at hand") from error
        words = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, KeyError) and len(words.split()) == 1:  # the key alone
            words = f"it does not know {words}"
        raise BadInput(f"transformers cannot {what} {source.name}: {words[:300]}") from error
