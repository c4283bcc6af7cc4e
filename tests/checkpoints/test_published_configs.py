"""Configs as published checkpoints have them, and near misses: read as transformers reads them."""

import json

import pytest
import torch

from ctxext.checkpoints.config.decoder_config import decoder_config
from ctxext.checkpoints.config.decoder_part import _SIZE_KEYS, _SIZES
from ctxext.checkpoints.config.detect import detect, reads_alike_in_transformers_4
from ctxext.checkpoints.config.patch import plan_patch
from ctxext.checkpoints.folder import Source
from ctxext.checkpoints.live.check import check_live_rope
from ctxext.checkpoints.live.small import small_decoder
from ctxext.errors import BadInput

LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
    "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2,
    "intermediate_size": 96, "vocab_size": 256, "max_position_embeddings": 8192, "rope_theta": 1e4,
}  # fmt: skip
QWEN_VL = {
    **LLAMA, "architectures": ["Qwen2VLForConditionalGeneration"], "rope_theta": 1e6,
    "use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 2,
}  # fmt: skip
MROPE = {"type": "mrope", "mrope_section": [2, 3, 3]}
GEMMA3 = {  # google/gemma-3-4b-it: what its class takes by itself is not there
    "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
    "text_config": {
        "model_type": "gemma3_text", "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 6, "sliding_window": 1024,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    },
}  # fmt: skip
GEMMA4 = {
    "architectures": ["Gemma4ForConditionalGeneration"], "model_type": "gemma4",
    "text_config": {
        "model_type": "gemma4_text", "hidden_size": 64, "intermediate_size": 96, "head_dim": 32,
        "global_head_dim": 64, "num_hidden_layers": 6, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 131072, "sliding_window": 512,
        "layer_types": ["sliding_attention"] * 5 + ["full_attention"],
        "rope_parameters": {
            "full_attention": {
                "rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25,
            },
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    },
}  # fmt: skip
MINIMAX = {**LLAMA, "model_type": "minimax_m2", "head_dim": 16, "rotary_dim": 8}
GPT_OSS = {
    **LLAMA, "model_type": "gpt_oss", "head_dim": 64, "max_position_embeddings": 131072,
    "rope_theta": 150000, "sliding_window": 128,
    "layer_types": ["sliding_attention", "full_attention"],
    "rope_scaling": {
        "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0,
        "original_max_position_embeddings": 4096, "truncate": False,
    },
}  # fmt: skip
DEEPSEEK_V2 = {
    **LLAMA, "model_type": "deepseek_v2", "kv_lora_rank": 24, "q_lora_rank": None,
    "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16, "n_routed_experts": 4,
    "num_experts_per_tok": 2, "num_key_value_heads": 4, "n_group": 1, "topk_group": 1,
    "max_position_embeddings": 4096, "rope_scaling": {"type": "dynamic", "factor": 4.0},
}  # fmt: skip
FALCON_H1 = {**LLAMA, "model_type": "falcon_h1", "head_dim": 16, "rope_theta": 1e11}
HUNYUAN = {  # tencent/Hunyuan-7B-Instruct: the base stands once, beside the block
    **LLAMA, "model_type": "hunyuan_v1_dense", "head_dim": 16,
    "rope_scaling": {
        "alpha": 1000.0, "beta_fast": 32, "beta_slow": 1, "factor": 1.0, "mscale": 1.0,
        "mscale_all_dim": 0.0, "type": "dynamic",
    },
}  # fmt: skip
SEQ_LEN = {k: v for k, v in LLAMA.items() if k != "max_position_embeddings"} | {"max_seq_len": 4096}
KIMI = {**DEEPSEEK_V2, "model_type": "kimi_k2", "rope_scaling": None}


def read(config):
    return detect(config, where="config.json")


@pytest.mark.parametrize(
    ("config", "rotary_dim", "trained", "theta"),
    [
        ({**QWEN_VL, "model_type": "qwen2_vl", "rope_scaling": MROPE}, 16, 8192, 1e6),
        ({**QWEN_VL, "model_type": "qwen2_5_vl", "rope_scaling": MROPE}, 16, 8192, 1e6),
        (GEMMA3, 256, 16384, 1e6),
        (GEMMA4, 16, 131072, None),
        (MINIMAX, 8, 8192, 1e4),
        (GPT_OSS, 64, 4096, 150000),
        (DEEPSEEK_V2, 8, 4096, 1e4),
        (FALCON_H1, 16, 8192, 1e11),
        (HUNYUAN, 16, 8192, 1e4 * 1000 ** (16 / 14)),
        (SEQ_LEN, 16, 2048, 1e4),
        ({**LLAMA, "model_type": "gpt_neox", "rotary_emb_base": 2e4}, 4, 8192, 2e4),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else None,
)
def test_a_published_config_is_read_as_its_class_turns(
    tmp_path, config, rotary_dim, trained, theta
):
    (tmp_path / "config.json").write_text(json.dumps(config))
    position = read(config)
    made = decoder_config(Source(tmp_path, tmp_path.name))
    assert made.get_text_config().num_hidden_layers == len(position.layers)
    model = small_decoder(made, position, torch.float32)
    check_live_rope(model, position, where="a small model")
    assert position.rope.spec.rotary_dim == rotary_dim
    assert position.window.original == trained
    assert theta is None or position.rope.block.rope_theta == theta


def test_sizes_that_a_text_config_leaves_out_are_the_class_s():
    from transformers import CONFIG_MAPPING

    for model_type, sizes in _SIZES.items():
        assumed = CONFIG_MAPPING[model_type]().to_dict()
        assert tuple(assumed[key] for key in _SIZE_KEYS) == sizes, model_type


def test_what_is_left_out_is_said_and_the_file_keeps_leaving_it_out():
    position = read(GEMMA3)
    assert any("num_attention_heads 8" in said for said in position.warnings)
    assert reads_alike_in_transformers_4(GEMMA3, position.rope)
    patch = plan_patch(GEMMA3, position, method="yarn", target=262144, parameters={})
    assert "num_attention_heads" not in patch.config["text_config"]


@pytest.mark.parametrize("method", ["ntk", "dual-chunk"])
def test_an_unscaled_rope_is_said_where_the_class_scales_by_itself(method):
    position = read(GPT_OSS)
    config = plan_patch(GPT_OSS, position, method=method, target=262144, parameters={}).config
    after = read(config)
    assert after.rope.block.rope_type == "default"
    assert reads_alike_in_transformers_4(config, after.rope)


def test_an_empty_block_does_not_outlive_an_extension():
    text = {**GEMMA3["text_config"], "rope_parameters": {}, "rope_scaling": None}
    config = {**GEMMA3, "text_config": text}
    patch = plan_patch(config, read(config), method="yarn", target=262144, parameters={})
    assert "rope_parameters" not in patch.config["text_config"]


def test_latent_attention_of_a_type_that_is_not_known_is_seen():
    position = read(KIMI)
    assert (position.rope.spec.rotary_dim, position.rope.head_dim) == (8, 24)
    assert position.kept is None


@pytest.mark.parametrize("key", ["rope_pct", "rope_ratio", "kv_channels", "rope_condense_ratio"])
def test_words_of_code_that_is_not_known_make_the_rope_unknown(key):
    position = read({**LLAMA, "model_type": "stablelm_epoch", key: 2})
    assert position.rope is None
    assert any(key in said for said in position.warnings)


def test_qwen3_moe_was_trained_on_less_than_it_claims():
    config = {**LLAMA, "model_type": "qwen3_moe", "max_position_embeddings": 40960}
    patch = plan_patch(config, read(config), method="yarn", target=81920, parameters={})
    assert any("--original-length 32768" in said for said in patch.warnings)


VL_TEXT = {
    **{k: v for k, v in QWEN_VL.items() if k != "architectures"}, "model_type": "qwen2_5_vl_text",
}  # fmt: skip


def pictures(section):
    block = {"type": "mrope", "mrope_section": section}
    return {"model_type": "qwen2_5_vl", "text_config": {**VL_TEXT, "rope_scaling": block}}


GEMMA3_TEXT = {
    **LLAMA, "model_type": "gemma3_text", "head_dim": 16, "sliding_window": 512,
    "layer_types": ["sliding_attention", "full_attention"],
}  # fmt: skip
del GEMMA3_TEXT["rope_theta"]
DEFAULT = {"rope_type": "default", "rope_theta": 1e6}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({**LLAMA, "rope_parameters": DEFAULT}, "rope_theta 1e+06, and rope_theta beside it"),
        (pictures([2, 3, 4]), "shares out 9 rotary pairs, and there are 8"),
        (pictures("abc"), "mrope_section is 'abc'"),
        (pictures([-2, 5, 5]), "has to be a list of whole numbers"),
        ({**GEMMA3_TEXT, "rope_parameters": {"full_attention": [1]}}, "is [1], and has to be an"),
        (
            {**GEMMA3_TEXT, "rope_parameters": {"full_attention": DEFAULT, "rope_theta": 5.0}},
            "blocks by layer type, and rope_theta beside them",
        ),
        ({**GEMMA3_TEXT, "rope_parameters": DEFAULT}, "reads one for each layer type"),
        ({**LLAMA, "text_config": LLAMA}, "llama is a decoder by itself"),
        (
            {"model_type": "foo_vl", "text_config": {"hidden_size": 64}},
            "text_config has no model_type",
        ),
        (
            {
                **LLAMA, "model_type": "hunyuan_v1_dense", "head_dim": 4,
                "rope_scaling": {"type": "dynamic", "alpha": 1e200},
            },
            "alpha 1e+200 makes no rope_theta",
        ),
        ({**MINIMAX, "rotary_dim": 32}, "has to be in (0, 1]"),
    ],
)  # fmt: skip
def test_a_config_that_contradicts_itself_is_not_extended(config, words):
    with pytest.raises(BadInput) as refusal:
        plan_patch(config, read(config), method="yarn", target=32768, parameters={})
    assert words in str(refusal.value)


@pytest.mark.parametrize(
    "config",
    [
        HUNYUAN,
        # as transformers 5 saves a Qwen2-VL of transformers 4: two names of one type
        {"model_type": "qwen2_5_vl",
         "text_config": {**VL_TEXT, "rope_parameters": {**MROPE, "rope_type": "default",
                                                        "rope_theta": 1e6}}},
        {**LLAMA, "max_position_embeddings": 4096, "original_max_position_embeddings": 4096,
         "model_type": "phi3", "rope_scaling": {"type": "su", "rope_type": "longrope",
                                                "short_factor": [1.0] * 8,
                                                "long_factor": [2.0] * 8}},
    ],
    ids=["hunyuan", "qwen2_5_vl", "phi3"],
)  # fmt: skip
def test_what_a_file_says_once_or_in_two_names_is_no_contradiction(config):
    assert read(config).doubts == ()


def test_the_window_is_written_where_the_class_reads_it():
    """Where a file states it under another name, transformers assumes 2048 without a word."""
    config = {**SEQ_LEN, "max_seq_len": 2048}
    patch = plan_patch(config, read(config), method="yarn", target=16384, parameters={})
    assert patch.config["max_position_embeddings"] == 16384
    assert patch.config["max_seq_len"] == 16384
    block = patch.config["rope_parameters"]
    assert block["original_max_position_embeddings"] == 2048


def test_of_two_bases_the_preferred_one_counts():
    config = {**LLAMA, "rope_parameters": DEFAULT}
    position = detect(config, where="config.json", prefer="rope_parameters")
    patch = plan_patch(config, position, method="yarn", target=32768, parameters={})
    assert patch.config["rope_theta"] == 1e6
