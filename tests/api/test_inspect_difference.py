"""`ctxext inspect A B`: what differs in how two checkpoints encode position."""

import json

from ctxext.api.extend import extend
from ctxext.api.inspect_difference import inspect_difference
from support.checkpoints import build_tiny
from support.command import run_ctxext


def test_a_base_and_its_extension(tmp_path, tiny_llama):
    extend(str(tiny_llama), target=1024, output_dir=tmp_path / "yarn")
    done = run_ctxext("inspect", tiny_llama, tmp_path / "yarn", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema"] == "ctxext.inspect-difference/1"
    assert document["models"] == [tiny_llama.name, "yarn"]
    differences = {row["field"]: (row["first"], row["second"]) for row in document["differences"]}
    assert differences["rope_type"] == ("default", "yarn")
    assert differences["rope, factor"] == (None, 8.0)
    assert differences["window, claimed"] == (128, 1024)
    assert differences["max_position_embeddings"] == (128, 1024)
    assert differences["tokenizer, model_max_length"] == (128, 1024)
    assert not {"window, trained", "layers", "head_dim", "parameters"} & set(differences)
    assert document["same_rope"] is False
    assert document["first"]["schema"] == "ctxext.inspect/1"
    assert "the ropes differ (default and yarn): extend both by the same method" in done.stderr


def test_merges_of_models_with_another_theta_are_warned_of(tmp_path, tiny_llama):
    """U35: theta is a part of what the weights learned."""
    extend(str(tiny_llama), target=1024, method="ntk", output_dir=tmp_path / "ntk")
    done = run_ctxext("inspect", tiny_llama, tmp_path / "ntk")
    assert done.returncode == 0
    assert "| rope_theta | 10000 | " in done.stdout
    assert "a merge of the two is broken" in done.stderr
    assert "task arithmetic" in done.stderr


def test_a_checkpoint_does_not_differ_from_itself(tiny_llama):
    done = run_ctxext("inspect", tiny_llama, tiny_llama)
    assert done.stdout == f"{tiny_llama.name} and {tiny_llama.name} encode position alike\n"
    assert "warning" not in done.stderr


def test_windows_layers_and_caches_are_compared(tmp_path, tiny_llama):
    base = build_tiny(tmp_path / "mistral", "mistral")
    config = json.loads((base / "config.json").read_text()) | {"sliding_window": 64}
    (base / "config.json").write_text(json.dumps(config))
    found = inspect_difference(str(tiny_llama), str(base))
    assert found.differences["layers, full, rope"] == (2, None)
    assert found.differences["layers, sliding over 64, rope"] == (None, 2)
    assert found.differences["KV cache at 128, bytes"] == (65536, 32768)
    assert found.same_rope is True
    assert found.warnings == ()


def test_other_dims_and_other_encodings_do_not_fit(tmp_path, tiny_llama):
    other = build_tiny(tmp_path / "wide", head_dim=32)
    (warning,) = inspect_difference(str(tiny_llama), str(other)).warnings
    assert warning.startswith("16 and 32 dims of a head turn")
    gpt2 = tmp_path / "gpt2"
    gpt2.mkdir()
    config = {"model_type": "gpt2", "n_positions": 64, "n_layer": 2, "n_head": 2, "n_embd": 64}
    (gpt2 / "config.json").write_text(json.dumps(config))
    found = inspect_difference(str(tiny_llama), str(gpt2))
    assert found.same_rope is None
    assert "position is told in two ways (rope and learned)" in found.warnings[0]


def test_a_picture_is_of_one_checkpoint(tmp_path, tiny_llama):
    done = run_ctxext("inspect", tiny_llama, tiny_llama, "--plot", tmp_path / "a.svg")
    assert done.returncode == 2
    assert "--plot draws one checkpoint" in done.stderr
