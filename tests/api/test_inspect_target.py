"""What `ctxext inspect --target` says of each method, and what it recommends."""

import json
import math

import pytest

from ctxext.api.extend import extend
from ctxext.api.inspect import inspect
from ctxext.methods import METHODS
from support.checkpoints import build_tiny
from support.command import run_ctxext


def change(folder, **changes):
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


def config_only(folder, **config):
    """A checkpoint of which only the config is there: inspect needs no more."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 256,
    "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 3,
    "max_position_embeddings": 4096, "rope_theta": 10_000.0, "torch_dtype": "bfloat16",
}  # fmt: skip


def test_the_table_has_a_row_for_every_method_and_its_bands(stories):
    done = run_ctxext("inspect", stories, "--target", "2k", "--json")
    assert done.returncode == 0, done.stderr
    target = json.loads(done.stdout)["target"]
    assert (target["tokens"], target["factor"]) == (2048, 4.0)
    assert target["pairs"] == {"fast": 1, "middle": 1, "slow": 2}
    rows = {row["name"]: row for row in target["methods"]}
    assert list(rows) == sorted(n for n, each in METHODS.items() if "rope" in each.applies_to)
    assert rows["linear"]["slowed"] == {"fast": [4, 4], "middle": [4, 4], "slow": [4, 4]}
    # base 4 ** (d / (d - 2)) for d = 8: pair i is slowed by 4 ** (i / 3)
    assert rows["ntk"]["slowed"]["middle"] == pytest.approx([4 ** (1 / 3)] * 2)
    assert rows["ntk"]["slowed"]["slow"] == pytest.approx([4 ** (2 / 3), 4])
    assert rows["ntk"]["rope_theta"] == pytest.approx(10_000 * 4 ** (8 / 6))
    assert rows["yarn"]["attention_factor"] == pytest.approx(0.1 * math.log(4) + 1)
    assert rows["yarn"]["slowed"]["fast"] == [1, 1]
    assert "TGI" in rows["linear"]["engines_not"]


def test_the_text_says_the_same(stories):
    done = run_ctxext("inspect", stories, "--target", "2k")
    assert "| linear | 4 | 4 | 4 | 10,000 | 1 | all but TGI |" in done.stdout
    assert "| as it is | 1 | 1 | 1 |" in done.stdout
    # 5 layers x keys and values x 4 heads x 8 dims x 2048 tokens
    assert "float32 2.5 MiB, bfloat16 1.25 MiB, float16 1.25 MiB, 8-bit 640 KiB" in done.stdout
    assert "turns negative at 91 tokens" in done.stdout
    assert "recommended     yarn: fast pairs turn as in training" in done.stdout
    assert f"ctxext extend {stories} --method yarn --target 2048 -o OUT" in done.stdout


def test_the_recommended_command_runs(tmp_path, tiny_llama):
    command = inspect(str(tiny_llama), target=512).target.recommendation.command
    done = run_ctxext(*command.split()[1:-1], tmp_path / "out")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("theta", [1e4, 5e5])
def test_the_lower_bound_is_where_the_sum_is_negative_first(tmp_path, theta):
    folder = config_only(tmp_path / "m", **LLAMA | {"rope_theta": theta})
    first = inspect(str(folder), target="128k").target.first_negative

    def total(m):
        return math.fsum(math.cos(m * theta ** (-i / 64)) for i in range(64))

    assert first == {1e4: 1707, 5e5: 18438}[theta]  # of Men et al.'s setting, by direct summing
    assert total(first) < 0 <= min(total(m) for m in range(0, first, 7))
    assert inspect(str(folder), target=first - 1).target.first_negative is None


def test_far_targets_ask_for_training_and_near_ones_do_not(tmp_path):
    folder = config_only(tmp_path / "m", **LLAMA)
    near = inspect(str(folder), target="16k").target.recommendation
    far = inspect(str(folder), target="32k").target.recommendation
    assert near.method == far.method == "yarn"
    assert (
        "4 times the claimed window is within what was seen to be read without training"
        in near.reason
    )
    assert "8 times the claimed window is beyond" in far.reason
    assert "ctxext finetune" in far.reason


def test_a_scaled_checkpoint_keeps_its_scaling(tmp_path):
    scaling = {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    config = LLAMA | {"max_position_embeddings": 131072, "rope_scaling": scaling}
    found = inspect(str(config_only(tmp_path / "m", **config)), target="256k").target
    assert found.recommendation.method == "llama3"
    assert "scaled by it already, to 131072 tokens" in found.recommendation.reason
    assert found.now["slow"] == (8.0, 8.0)  # how it turns today stands beside


def test_engines_that_misread_the_recommended_one_are_given_another(tmp_path):
    scaling = {
        "rope_type": "yarn", "factor": 4.0, "attention_factor": 1.5,
        "original_max_position_embeddings": 1024,
    }  # fmt: skip
    config = LLAMA | {"rope_scaling": scaling}
    said = inspect(str(config_only(tmp_path / "m", **config)), target="8k").target.recommendation
    assert said.method == "yarn"
    assert "For SGLang, llama.cpp, " in said.reason


def test_windows_come_before_the_rope(tmp_path):
    config = LLAMA | {
        "architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 4096,
    }  # fmt: skip
    target = inspect(str(config_only(tmp_path / "m", **config)), target="16k").target
    assert target.recommendation.reason.startswith("Windows first: every layer attends to the last")
    assert "--sliding-window off" in target.recommendation.command
    assert target.kv_cache["float16"] == 3 * 2 * 128 * 4096 * 2  # no more than the window


@pytest.mark.parametrize(
    ("changes", "target", "said"),
    [
        ({"model_type": "cpmant", "dim_model": 256, "num_heads": 2},
         "8k", "position encoding is 'unknown': there are no frequencies to scale"),
        ({"model_type": "reformer"}, "8k", "sums of two axes"),
        ({"model_type": "bloom", "max_position_embeddings": None}, "8k", "--original-length"),
        ({}, "4k", "trained to 4096 tokens already"),
        ({}, "2k", "trained to 4096 tokens already"),
        ({}, "5001", "is odd"),
        ({"model_type": "never-heard-of"}, "8k", "is not known to ctxext"),
    ],
)  # fmt: skip
def test_where_nothing_is_to_scale_it_says_so(tmp_path, changes, target, said):
    folder = config_only(tmp_path / "m", **LLAMA | changes)
    done = run_ctxext("inspect", folder, "--target", target, "--json")
    assert done.returncode == 0, done.stderr
    recommendation = json.loads(done.stdout)["target"]["recommendation"]
    assert recommendation["method"] is None
    assert said in recommendation["reason"]


def test_a_family_that_computes_one_scaling_only_has_a_sentence_in_the_other_rows(tmp_path):
    config = LLAMA | {"model_type": "phi3", "architectures": ["Phi3ForCausalLM"]}
    target = inspect(str(config_only(tmp_path / "m", **config)), target="8k").target
    reasons = {row.name: row.reason for row in target.methods}
    assert "does not compute dynamic scaling" in reasons["dynamic"]
    assert reasons["ntk"] is None
    assert target.recommendation.method not in (None, "dynamic")


def test_an_extension_is_read_back_as_the_table_said(tmp_path, tiny_llama):
    said = {row.name: row for row in inspect(str(tiny_llama), target=1024).target.methods}
    for name in ("linear", "yarn", "llama3"):
        extend(str(tiny_llama), method=name, target=1024, output_dir=tmp_path / name)
        after = inspect(str(tmp_path / name), target=2048)
        for band, span in said[name].slowed.items():
            assert after.target.now[band] == pytest.approx(span)
        assert after.position.rope.attention_factor == pytest.approx(said[name].attention_factor)


def test_latent_attention_is_told_of_its_temperature(tmp_path):
    config = {
        "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "hidden_size": 256,
        "num_attention_heads": 2, "num_hidden_layers": 2, "kv_lora_rank": 32, "q_lora_rank": 32,
        "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 32, "rope_theta": 10_000.0,
        "max_position_embeddings": 4096, "torch_dtype": "bfloat16",
    }  # fmt: skip
    said = inspect(str(config_only(tmp_path / "m", **config)), target="16k").target.recommendation
    assert "Latent attention" in said.reason


def test_a_tiny_windowed_model_with_far_layers_says_which_go_on(tmp_path):
    base = build_tiny(tmp_path / "base", "qwen2")
    change(base, use_sliding_window=True, sliding_window=64, max_window_layers=1)
    config = json.loads((base / "config.json").read_text())
    config["layer_types"] = ["full_attention", "sliding_attention"]
    (base / "config.json").write_text(json.dumps(config))
    said = inspect(str(base), target=512).target.recommendation.reason
    assert "1 of 2 layers go on attending to the last 64 tokens" in said


def test_a_checkpoint_scaled_by_searched_factors_asks_for_others(tmp_path):
    scaling = {"type": "longrope", "short_factor": [1.0] * 64, "long_factor": [2.0] * 64}
    config = LLAMA | {
        "model_type": "phi3", "architectures": ["Phi3ForCausalLM"], "rope_scaling": scaling,
        "max_position_embeddings": 131072, "original_max_position_embeddings": 4096,
    }  # fmt: skip
    said = inspect(str(config_only(tmp_path / "m", **config)), target="256k").target.recommendation
    assert said.method == "longrope"
    assert "needs long_factor" in said.reason
    assert said.command == "ctxext methods longrope"


def test_a_method_that_changes_no_pair_is_not_what_is_recommended(tmp_path):
    # every pair turns 32 times and more: only one in eight dims turns, the slowest by 20 ** -0.875
    config = LLAMA | {
        "model_type": "glm", "head_dim": 128, "partial_rotary_factor": 0.125, "rope_theta": 20.0,
    }  # fmt: skip
    target = inspect(str(config_only(tmp_path / "m", **config)), target="8k").target
    assert target.pairs == {"fast": 8, "middle": 0, "slow": 0}
    (chosen,) = (row for row in target.methods if row.name == target.recommendation.method)
    assert max(chosen.factors) > 1


def test_one_reason_for_all_is_said_once(tmp_path):
    config = LLAMA | {"model_type": "bloom", "n_layer": 2, "n_head": 4}
    done = run_ctxext("inspect", config_only(tmp_path / "m", **config), "--target", "8k")
    assert "how many times more slowly" not in done.stdout
    assert "recommended" in done.stdout
