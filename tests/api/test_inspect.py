"""What inspect says of real folders, in its document and in its table."""

import json

from ctxext.api.extend import extend
from ctxext.api.inspect import inspect
from ctxext.engines import ENGINES
from support.bad_inputs import config_text, copy_of, with_config
from support.checkpoints import build_tiny
from support.command import run_ctxext


def change(folder, **changes):
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


def test_inspect_says_encoding_window_and_numbers(tiny_llama):
    done = run_ctxext("inspect", tiny_llama, "--target", "1k", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["schema"] == "ctxext.inspect/1"
    assert found["position_encoding"] == "rope"
    assert found["window"] == {
        "original": 128, "current": 128, "source": "max_position_embeddings",
    }  # fmt: skip
    assert found["rope"]["head_dim"] == found["rope"]["rotary_dim"] == 16
    assert found["rope"]["inv_freq"][0] == 1.0
    assert len(found["rope"]["inv_freq"]) == 8
    # 2 layers x keys and values x 2 heads x 16 dims x 4 bytes
    assert found["kv_cache"]["bytes_per_token"] == 2 * 2 * 2 * 16 * 4
    assert found["kv_cache"]["bytes_at"]["1024"] == 1024 * 512
    assert [layer["attention"] for layer in found["layers"]] == ["full", "full"]
    assert {m["name"] for m in found["methods"] if m["applies"]} >= {"linear", "ntk", "yarn"}
    # embeddings and head 2 x 256 x 64; a layer's q, k, v, o, MLP and norms; the last norm
    layer = 64 * (64 + 32 + 32 + 64) + 3 * 64 * 96 + 2 * 64
    assert found["parameters"] == 2 * 256 * 64 + 2 * layer + 64


def test_table_says_the_same(tiny_llama):
    done = run_ctxext("inspect", tiny_llama)
    assert "rope" in done.stdout
    assert "128 tokens" in done.stdout
    assert "| yarn | yes |" in done.stdout


def test_sliding_attention_bounds_the_cache_and_is_warned_of(tmp_path):
    base = build_tiny(tmp_path / "base", "mistral")
    change(base, sliding_window=64)
    found = inspect(str(base), target=1024)
    assert found.kv_bytes_at[1024] == 64 * found.kv_bytes_per_token
    assert any("last 64 tokens only, less than 1024" in w for w in found.warnings)


def test_inspect_warns_of_windows_that_contradict_each_other(tmp_path, tiny_llama):
    extend(str(tiny_llama), target=512, output_dir=tmp_path / "yarn")
    scaled = inspect(str(tmp_path / "yarn"))
    assert any("already raised: 128 trained, 512 claimed by yarn" in w for w in scaled.warnings)
    base = build_tiny(tmp_path / "base", window=160)
    change(base, rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    tokenizer = json.loads((base / "tokenizer_config.json").read_text())
    tokenizer["model_max_length"] = 100
    (base / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    warnings = inspect(str(base)).warnings
    assert any("model_max_length is 100, and the window is 160" in w for w in warnings)
    assert any("160 is not a power of two" in w for w in warnings)
    assert any("only transformers 5 reads this config" in w for w in warnings)  # as 5 saves it


def test_code_of_a_checkpoint_s_own_is_named_once_where_transformers_has_a_class(
    tmp_path, tiny_llama
):
    own = {"AutoConfig": "conf.Conf", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    with_code = copy_of(tiny_llama, tmp_path / "own", auto_map=own)
    plain = copy_of(tiny_llama, tmp_path / "plain")
    said = [w for w in inspect(str(with_code)).warnings if "modeling_own.OwnForCausalLM" in w]
    assert len(said) == 1
    assert "may differ from transformers' class" in said[0]
    assert len(inspect(str(with_code)).warnings) == len(inspect(str(plain)).warnings) + 1
    done = run_ctxext("extend", with_code, "--target", "512", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "auto_map" not in done.stderr
    for name, odd in enumerate((7, {"AutoConfig": "c.C"}, {"AutoModelForCausalLM": None})):
        folder = with_config(tmp_path / str(name), config_text(auto_map=odd))
        assert not any("auto_map" in w for w in inspect(str(folder)).warnings)


def test_one_head_of_keys_for_all_queries_of_santacoder(tmp_path):
    sizes = {"n_embd": 2048, "n_head": 16, "n_layer": 24, "n_positions": 2048}
    config = {"model_type": "gpt2", "attention_head_type": "multiquery", "torch_dtype": "float32"}
    folder = with_config(tmp_path / "m", json.dumps(config | sizes))
    done = run_ctxext("inspect", folder, "--json")
    assert done.returncode == 0, done.stderr
    # 24 layers x keys and values x 1 head x 128 dims x 4 bytes
    assert json.loads(done.stdout)["kv_cache"]["bytes_per_token"] == 24 * 2 * 1 * 128 * 4


def test_a_lying_qwen3_is_known(tmp_path):
    base = build_tiny(tmp_path / "base", "qwen3", window=40960)
    assert any("--original-length 32768" in w for w in inspect(str(base)).warnings)


def test_pairs_are_counted_by_their_turns(stories):
    # theta 1e4, head_dim 8: wavelengths 2 pi times 1, 10, 100 and 1000, in a window of 512
    pairs = json.loads(run_ctxext("inspect", stories, "--json").stdout)["rope"]["pairs"]
    assert pairs == {"complete_a_turn": 2, "never_complete_a_turn": 2, "alias": 0}
    assert "2 complete a turn in the trained window, 2 never do" in run_ctxext(
        "inspect", stories
    ).stdout  # fmt: skip


def test_a_pair_that_aliases_is_counted(tmp_path):
    base = build_tiny(tmp_path / "base")
    factors = [0.3, 0.1, *[1.0] * 6]  # 1 / 0.3 radians a token are more than pi, 0.316 / 0.1 too
    block = {
        "rope_type": "longrope", "factor": 4.0, "short_factor": [1.0] * 8, "long_factor": factors,
        "original_max_position_embeddings": 128, "rope_theta": 1e4,
    }  # fmt: skip
    change(base, rope_parameters=block, max_position_embeddings=512)
    assert inspect(str(base)).to_dict()["rope"]["pairs"]["alias"] == 2


def test_every_engine_has_a_line_with_its_verdict_and_its_command(tmp_path, tiny_llama):
    extend(str(tiny_llama), target=512, output_dir=tmp_path / "yarn",
           parameters={"attention_factor": 2.0})  # fmt: skip
    rows = {row.engine: row for row in inspect(str(tmp_path / "yarn")).serving}
    assert [engine.name for engine in ENGINES] == list(rows)
    assert rows["SGLang"].verdict == "wrong"
    assert "attention_factor" in rows["SGLang"].how
    assert (rows["vLLM"].verdict, rows["ExLlamaV3"].verdict) == ("needs version", "ok")
    folder = tmp_path / "a b"
    extend(str(tiny_llama), target=512, method="ntk", output_dir=folder)
    rows = {row.engine: row for row in inspect(str(folder)).serving}
    assert {row.verdict for row in rows.values()} == {"ok"}
    assert rows["vLLM"].how == f"vllm serve '{folder}' --max-model-len 512"
    assert rows["llama.cpp"].how.startswith(f"python convert_hf_to_gguf.py '{folder}' ")


def test_engines_that_read_old_keys_only_are_named_where_those_are_missing(tmp_path):
    base = build_tiny(tmp_path / "base")
    change(base, rope_parameters={"rope_type": "default", "rope_theta": 5e5})  # as 5 saves it
    wrong = {row.engine for row in inspect(str(base)).serving if row.verdict == "wrong"}
    assert wrong == {engine.name for engine in ENGINES if not engine.reads_rope_parameters} != set()


def test_a_rope_that_nobody_knows_is_served_by_nobody(tmp_path):
    base = build_tiny(tmp_path / "base")
    block = {"rope_type": "spiral", "rope_theta": 1e4}
    change(base, rope_parameters=block, rope_scaling={"rope_type": "spiral"})
    assert {row.verdict for row in inspect(str(base)).serving} == {"unknown"}


def test_extend_says_how_to_serve_what_it_wrote(tmp_path, tiny_llama):
    out = tmp_path / "out"
    done = run_ctxext("extend", tiny_llama, "--target", "512", "-o", out)
    assert "**serve it with**" in done.stdout
    assert f"| vLLM | yes | vllm serve {out} --max-model-len 512 |" in done.stdout
    done = run_ctxext(
        "extend",
        tiny_llama,
        "--target",
        "512",
        "--method",
        "linear",
        "-o",
        tmp_path / "l",
        "--json",
    )
    rows = {row["engine"]: row for row in json.loads(done.stdout)["serving"]}
    assert rows["TGI"]["verdict"] == "wrong"
    assert "linear scaling is ignored by TGI" in done.stderr


def test_the_command_says_what_it_drew(tmp_path, tiny_llama):
    path = tmp_path / "waves.svg"
    done = run_ctxext("inspect", tiny_llama, "--plot", path, "--json")
    assert done.returncode == 0, done.stderr
    assert f"wavelengths drawn: {path}" in done.stderr
    assert "<svg" in path.read_text()
