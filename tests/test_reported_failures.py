"""What people reported of other tools, held against this one: a test for each failure."""

import json

import pytest

from ctxext import extend, inspect
from ctxext.checkpoints.config.detect import detect
from ctxext.checkpoints.config.patch import plan_patch
from ctxext.engines import ENGINES
from ctxext.engines.notes import engine_notes, first_transformers, serve_commands
from ctxext.errors import BadInput
from ctxext.methods import METHODS
from support.command import run_ctxext

LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
    "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2,
    "vocab_size": 256, "intermediate_size": 96, "max_position_embeddings": 8192,
    "rope_theta": 500_000.0, "rope_scaling": None,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
QWEN_VL = {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl",
    "vision_config": {"model_type": "qwen2_5_vl", "depth": 2},
    "text_config": {
        **{k: v for k, v in LLAMA.items() if k != "architectures" and "rope" not in k},
        "model_type": "qwen2_5_vl_text",
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]
        },
    },
}  # fmt: skip


def patched(config, target, method="yarn", **parameters):
    position = detect(config, where="config.json")
    return plan_patch(config, position, method=method, target=target, parameters=parameters)


@pytest.mark.parametrize("method", ["linear", "ntk", "dynamic", "yarn", "llama3"])
def test_theta_is_in_every_block_that_replaces_the_whole(method):
    config = patched(LLAMA, 32768, method).config
    expected = config["rope_theta"]
    assert config["rope_parameters"]["rope_theta"] == expected
    assert expected == 500_000.0 or METHODS[method].rope_type == "default"


def test_a_native_llama3_scaling_is_neither_stacked_nor_replaced_in_silence():
    config = {**LLAMA, "max_position_embeddings": 131072, "rope_scaling": LLAMA3}
    patch = patched(config, 262144)
    assert patch.original == 8192
    assert patch.config["rope_scaling"]["factor"] == 32
    assert any("scaled before (llama3" in warning for warning in patch.warnings)
    assert any("--method llama3" in warning for warning in patch.warnings)


def test_a_file_that_only_transformers_5_reads_is_named(tmp_path, tiny_llama):
    config = json.loads((tiny_llama / "config.json").read_text())
    assert "rope_scaling" not in config
    folder = tmp_path / "five"
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps({**config, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}})
    )
    assert any("only transformers 5" in warning for warning in inspect(str(folder)).warnings)


@pytest.mark.parametrize(
    ("method", "model_type", "release"),
    [("linear", "llama", "4.31"), ("llama3", "llama", "4.43"), ("yarn", "qwen2", "4.51")],
)
def test_the_first_release_that_computes_a_method_is_known(method, model_type, release):
    assert first_transformers(method, model_type) == release


@pytest.mark.parametrize("key", ["type", "rope_type"])
def test_a_block_with_either_name_of_its_type_is_read_and_both_are_written(key):
    block = {key: "yarn", "factor": 2.0, "original_max_position_embeddings": 8192}
    config = {**LLAMA, "max_position_embeddings": 16384, "rope_scaling": block}
    written = patched(config, 32768).config["rope_scaling"]
    assert written["type"] == written["rope_type"] == "yarn"


def test_keys_of_one_family_survive_and_pictures_keep_their_sections():
    patch = patched(QWEN_VL, 32768)
    text = patch.config["text_config"]
    for name in ("rope_parameters", "rope_scaling"):
        assert text[name]["mrope_section"] == [2, 3, 3]
        assert text[name]["rope_type"] == "yarn"
    assert patch.config["vision_config"] == QWEN_VL["vision_config"]
    assert set(patch.config) == set(QWEN_VL)
    # transformers 4 looks for the sections in rope_scaling, even where nothing is scaled
    assert patched(QWEN_VL, 32768, "ntk").config["text_config"]["rope_scaling"]["mrope_section"]


def test_the_patch_goes_to_the_level_where_the_decoder_is_read():
    patch = patched(QWEN_VL, 32768)
    assert patch.config["text_config"]["max_position_embeddings"] == 32768
    assert "max_position_embeddings" not in patch.config


def test_the_tokenizer_s_length_rises_with_the_window(tmp_path, tiny_llama):
    extend(str(tiny_llama), target=512, output_dir=tmp_path / "out")
    tokenizer = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert tokenizer["model_max_length"] == 512


def test_other_keys_that_state_the_window_rise_with_it():
    # vLLM serves the smallest of all lengths that it finds.
    config = {**LLAMA, "seq_length": 8192, "model_max_length": 8192, "max_sequence_length": 4096}
    new = patched(config, 32768).config
    assert (new["seq_length"], new["model_max_length"]) == (32768, 32768)
    assert new["max_sequence_length"] == 4096


def test_attention_that_slides_everywhere_is_refused_with_the_way_out():
    config = {**LLAMA, "model_type": "mistral", "sliding_window": 4096}
    with pytest.raises(BadInput, match="every layer attends to the last 4096") as refusal:
        patched(config, 32768)
    assert "--sliding-window" in refusal.value.hint


def test_a_class_that_needs_a_window_is_not_left_without_one():
    config = {**LLAMA, "model_type": "gemma2", "head_dim": 16, "sliding_window": 512}
    position = detect(config, where="config.json")
    with pytest.raises(BadInput, match="no way to switch its windows off") as refusal:
        plan_patch(
            config, position, method="yarn", target=32768, parameters={}, sliding_window=None
        )
    assert "--sliding-window 32768" in refusal.value.hint


def test_a_family_whose_config_claims_more_than_was_trained_is_known():
    config = {**LLAMA, "model_type": "qwen3", "head_dim": 16, "max_position_embeddings": 40960}
    assert any(
        "--original-length 32768" in each for each in patched(config, 131072 + 32768).warnings
    )


@pytest.mark.parametrize("target", [16384, 32768, 131072, 1048576])
def test_window_original_and_factor_agree_for_every_reader(target):
    new = patched(LLAMA, target).config
    block = new["rope_scaling"]
    assert block["original_max_position_embeddings"] * block["factor"] == target
    assert new["max_position_embeddings"] == target
    assert block["rope_type"] in ("linear", "dynamic", "yarn", "llama3", "longrope")


def test_an_attention_factor_is_written_only_where_it_is_not_the_default():
    assert "attention_factor" not in patched(LLAMA, 32768).config["rope_scaling"]
    patch = patched(LLAMA, 32768, attention_factor=1.0)
    assert patch.config["rope_scaling"]["attention_factor"] == 1.0
    assert any("attention_factor is ignored by" in warning for warning in patch.warnings)


def test_mscale_stays_out_of_families_without_latent_attention():
    block = patched(LLAMA, 32768).config["rope_scaling"]
    assert not {"mscale", "mscale_all_dim"} & set(block)


def test_a_target_says_the_factor_that_people_divide_wrongly():
    config = {**LLAMA, "max_position_embeddings": 32768, "rope_scaling": {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192}}  # fmt: skip
    patch = patched(config, 131072)
    assert patch.extension.parameters["factor"] == 16
    assert any("counts from the original window of 8192" in each for each in patch.warnings)


def test_the_method_decides_the_window_that_is_written():
    assert patched(LLAMA, 32768, "dynamic").config["max_position_embeddings"] == 8192
    assert patched(LLAMA, 32768, "linear").config["max_position_embeddings"] == 32768


def test_a_scaling_that_is_not_spoken_of_stays():
    config = {**LLAMA, "max_position_embeddings": 131072, "rope_scaling": LLAMA3}
    position = detect(config, where="config.json")
    assert position.rope.block.rope_type == "llama3"
    assert position.window.current == 131072


def test_a_method_is_a_flag_and_no_hand_edit(tmp_path, tiny_llama):
    done = run_ctxext("extend", tiny_llama, "--method", "yarn", "--target", "512", "--dry-run")
    assert done.returncode == 0
    assert "factor 4" in done.stdout


def test_converters_find_the_trained_window_at_the_top_where_they_look():
    new = patched(LLAMA, 32768, "llama3").config
    assert new["original_max_position_embeddings"] == 8192
    assert "original_max_position_embeddings" not in patched(LLAMA, 32768, "ntk").config


def test_the_window_that_engines_cap_at_is_the_target():
    config = {**LLAMA, "model_type": "qwen2"}
    assert patched(config, 32768).config["max_position_embeddings"] == 32768
    lines = dict(serve_commands("me/model", 32768))
    assert "-c 32768" in lines["llama.cpp"]
    assert "--max-model-len 32768" in lines["vLLM"]


@pytest.mark.parametrize("engine", [e for e in ENGINES if e.reading("dynamic") == "lost"])
def test_engines_that_lose_dynamic_scaling_are_named(engine):
    notes = engine_notes("dynamic", {}, 32768)
    assert any(engine.name in note and "ntk" in note for note in notes)


def test_ranked_methods_for_a_checkpoint_have_a_reason_each(tiny_llama):
    rows = inspect(str(tiny_llama), target=1024).methods
    assert {row["name"] for row in rows} == set(METHODS)
    assert all(row["why"] for row in rows)


def test_a_base_config_that_lies_is_corrected_by_hand():
    config = {**LLAMA, "max_position_embeddings": 2048}
    position = detect(config, where="config.json", original_length=4096)
    patch = plan_patch(config, position, method="yarn", target=16384, parameters={})
    assert patch.config["rope_scaling"]["factor"] == 4


def test_only_the_layers_that_reach_far_are_scaled():
    blocks = {
        "full_attention": {"rope_type": "default", "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    config = {
        **{k: v for k, v in LLAMA.items() if not k.startswith("rope")},
        "model_type": "gemma3_text", "head_dim": 16, "num_hidden_layers": 6,
        "sliding_window": 512, "rope_parameters": blocks,
    }  # fmt: skip
    new = patched(config, 32768).config["rope_parameters"]
    assert new["sliding_attention"] == blocks["sliding_attention"]
    assert new["full_attention"]["rope_type"] == "yarn"


def test_frequencies_that_a_cast_has_rounded_are_seen(tiny_llama):
    import torch

    from ctxext.checkpoints.live.check import check_live_rope
    from ctxext.checkpoints.live.load import load_model
    from ctxext.checkpoints.opened import open_checkpoint
    from ctxext.errors import CtxextError

    opened = open_checkpoint(str(tiny_llama))
    model = load_model(opened.source, opened.position)
    model.to(torch.bfloat16)  # as `.half()`, DeepSpeed and FSDP did
    with pytest.raises(CtxextError, match="has to be float32"):
        check_live_rope(model, opened.position, where="the model")


def test_a_flag_that_changes_nothing_past_the_window_is_refused(tmp_path, tiny_llama):
    extend(str(tiny_llama), target=512, output_dir=tmp_path / "once")
    with pytest.raises(BadInput, match="nothing was extended"):
        extend(str(tmp_path / "once"), target=512, output_dir=tmp_path / "twice")
