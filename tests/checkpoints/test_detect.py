"""Reading configs of the world: encodings, windows, layers, dialects."""

import pytest

from ctxext.checkpoints.config.detect import detect, reads_alike_in_transformers_4
from ctxext.checkpoints.config.windows import Origin
from ctxext.errors import BadInput

LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 4,
    "hidden_size": 256,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
    "rope_theta": 500000.0,
    "torch_dtype": "bfloat16",
}


def read(**changes):
    arguments = {k: changes.pop(k) for k in ("original_length", "origin", "prefer") if k in changes}
    config = {k: v for k, v in (LLAMA | changes).items() if v != "absent"}
    return detect(config, where="config.json", **arguments)


def test_plain_llama_of_either_dialect():
    old = read()
    new = read(rope_theta="absent", rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    assert old.rope.sha256 == new.rope.sha256
    assert (old.encoding, old.kv_heads, old.head_dim, old.dtype) == ("rope", 2, 32, "bfloat16")
    assert (old.window.original, old.window.current) == (8192, 8192)
    assert old.rope.inv_freq[1] == pytest.approx(500000 ** (-2 / 32))
    assert not old.rope.scaled


@pytest.mark.parametrize(
    ("block", "window", "original", "current"),
    [
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192},
         32768, 8192, 32768),
        ({"type": "linear", "factor": 8.0}, 32768, 4096, 32768),
        ({"rope_type": "dynamic", "factor": 4.0}, 8192, 8192, 32768),
        ({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}, 131072, 8192, 131072),
    ],
    ids=["yarn", "linear", "dynamic", "llama3"],
)  # fmt: skip
def test_windows_of_scaled_checkpoints(block, window, original, current):
    position = read(rope_scaling=block, max_position_embeddings=window)
    assert (position.window.original, position.window.current) == (original, current)
    assert position.rope.scaled
    assert position.rope.spec.original_max_position_embeddings == original


def test_an_ntk_base_is_known_by_its_record_only():
    unknown = read(rope_theta=4e6, max_position_embeddings=65536)
    assert (unknown.window.original, unknown.rope.scaled) == (65536, False)
    known = read(rope_theta=4e6, max_position_embeddings=65536, origin=Origin(8192, 5e5))
    assert (known.window.original, known.rope.scaled) == (8192, True)
    assert known.rope.spec.rope_theta == 5e5
    assert known.rope.block.rope_theta == 4e6


def test_hash_tells_rotations_apart_and_spellings_not():
    block = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192}
    one = read(rope_scaling=block, max_position_embeddings=32768).rope.sha256
    spelled = block | {"type": "yarn", "beta_fast": 32, "beta_slow": 1.0}
    assert read(rope_scaling=spelled, max_position_embeddings=32768).rope.sha256 == one
    for change in ({"factor": 2.0}, {"beta_fast": 16}, {"attention_factor": 1.0}):
        other = read(rope_scaling=block | change, max_position_embeddings=32768).rope.sha256
        assert other != one, change
    assert (
        read(rope_scaling=block, rope_theta=1e6, max_position_embeddings=32768).rope.sha256 != one
    )


def test_a_file_that_only_transformers_5_reads():
    config = {k: v for k, v in LLAMA.items() if k != "rope_theta"}
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": 5e5}
    rope = detect(config, where="c").rope
    assert not reads_alike_in_transformers_4(config, rope)
    config["rope_theta"] = 5e5
    assert reads_alike_in_transformers_4(config, detect(config, where="c").rope)


def test_what_remains_for_transformers_4_may_be_unreadable():
    config = LLAMA | {"rope_theta": None}
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": 5e5}
    assert not reads_alike_in_transformers_4(config, detect(config, where="c").rope)


def test_dialects_that_disagree_and_prefer():
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}
    both = {"rope_parameters": {**yarn, "rope_theta": 5e5}, "rope_scaling": None}
    position = read(**both)
    assert not position.rope.block.dialects_agree
    assert read(**both, prefer="rope_scaling").rope.block.rope_type == "default"
    assert read(**both, prefer="rope_parameters").rope.block.rope_type == "yarn"


@pytest.mark.parametrize(
    ("changes", "encoding"),
    [
        ({"model_type": "gpt2"}, "learned"),
        ({"model_type": "bloom"}, "alibi"),
        ({"model_type": "falcon", "alibi": True}, "alibi"),
        ({"model_type": "xglm"}, "sinusoidal"),
        ({"model_type": "mamba"}, "none"),
        ({"model_type": "smollm3", "no_rope_layers": [1, 1, 1, 0]}, "mixed"),
        ({"model_type": "phi", "partial_rotary_factor": 0.5}, "partial-rope"),
        ({"model_type": "gpt_neox", "rotary_pct": 0.25}, "partial-rope"),
    ],
)
def test_which_encoding_a_config_means(changes, encoding):
    position = read(**changes)
    assert position.encoding == encoding
    if encoding == "mixed":
        assert [layer.position_encoding for layer in position.layers] == ["rope"] * 3 + ["none"]


def test_which_layers_slide_and_how_far():
    assert {layer.attention for layer in read().layers} == {"full"}
    mistral = read(model_type="mistral", sliding_window=4096)
    assert {(x.attention, x.window) for x in mistral.layers} == {("sliding", 4096)}
    absent = read(model_type="mistral")  # transformers assumes 4096 then
    assert absent.layers[0].window == 4096
    assert any("no sliding_window" in w for w in absent.warnings)
    assert read(model_type="mistral", sliding_window=None).layers[0].attention == "full"
    qwen = {"model_type": "qwen2", "sliding_window": 4096, "max_window_layers": 3}
    assert {x.attention for x in read(**qwen, use_sliding_window=False).layers} == {"full"}
    kinds = [x.attention for x in read(**qwen, use_sliding_window=True).layers]
    assert kinds == ["full", "full", "full", "sliding"]


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "absent"},
        {"num_hidden_layers": "absent"},
        {"hidden_size": 250},
        {"num_key_value_heads": 3},
        {"max_position_embeddings": None},
        {"is_encoder_decoder": True},
        {"rope_scaling": {"rope_type": None, "type": "yarn", "factor": 2.0}},
        {"rope_scaling": {"rope_type": "yarn"}},
        {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
        {"rope_scaling": {"rope_type": "linear", "factor": None}},
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0, "rope_theta": None}},
        {"rope_theta": None},
        {"rope_theta": 1e300},
        {"rope_scaling": {"rope_type": "yarn", "factor": float("nan")}},
        {"rope_scaling": {"rope_type": "yarn", "factor": True}},
        {"head_dim": 7},
    ],
)
def test_configs_that_mean_nothing_are_refused(changes):
    with pytest.raises(BadInput):
        read(**changes)
