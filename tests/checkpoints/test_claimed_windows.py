"""The trained and the claimed window, as real files state, contradict or leave them out."""

import json

import pytest

from ctxext.checkpoints.config.detect import detect
from ctxext.checkpoints.config.windows import Origin
from support.bad_inputs import with_config
from support.command import run_ctxext

LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 256,
    "num_attention_heads": 8,
    "max_position_embeddings": 4096,
    "rope_theta": 10000.0,
}
YARN = {"rope_type": "yarn", "factor": 4.0}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LISTS = {"short_factor": [1.0] * 16, "long_factor": [2.0] * 16}
ORIGINAL = "original_max_position_embeddings"


def windows(block=None, **changes):
    """(trained, claimed, warnings) of a config."""
    config = LLAMA | changes | ({"rope_scaling": block} if block else {})
    position = detect({k: v for k, v in config.items() if v != "absent"}, where="config.json")
    return position.window.original, position.window.current, " ".join(position.warnings)


@pytest.mark.parametrize(
    ("block", "config", "original", "current"),
    [
        # pasted from a model card beside a window that was left as it is
        ({**YARN, ORIGINAL: 32768}, {"max_position_embeddings": 32768}, 32768, 131072),
        ({**YARN, "factor": 16.0, ORIGINAL: 8192}, {"max_position_embeddings": 32768},
         8192, 131072),
        # with room for an answer on top of the trained window
        ({**YARN, ORIGINAL: 32768}, {"max_position_embeddings": 40960}, 32768, 131072),
        ({**YARN, ORIGINAL: 8192}, {"max_position_embeddings": 32768}, 8192, 32768),
        (YARN, {"max_position_embeddings": 32768}, 32768, 131072),  # what transformers assumes
        ({**YARN, "factor": None, ORIGINAL: 8192}, {"max_position_embeddings": 65536}, 8192, 65536),
        # llama3's factor is no ratio of windows: 8 in 3.1, 32 in 3.2
        ({**LLAMA3, ORIGINAL: 8192}, {"max_position_embeddings": 131072}, 8192, 131072),
        ({**LLAMA3, "factor": 32.0, ORIGINAL: 8192}, {"max_position_embeddings": 131072},
         8192, 131072),
        ({**LLAMA3, ORIGINAL: 8192}, {"max_position_embeddings": 8192}, 8192, 65536),
        # a window that was lowered to save an engine's memory
        ({**LLAMA3, ORIGINAL: 8192}, {"max_position_embeddings": 4096}, 8192, 8192),
        ({"rope_type": "longrope", ORIGINAL: 4096, **LISTS}, {"max_position_embeddings": 131072},
         4096, 131072),
        ({"rope_type": "longrope", ORIGINAL: 4096, **LISTS}, {}, 4096, 4096),
        # interpolated and never raised: another key says so, or the quotient is no trained window
        ({"type": "linear", "factor": 4.0}, {"max_sequence_length": 16384}, 4096, 16384),
        ({"type": "linear", "factor": 8.0}, {"model_max_length": 32768}, 4096, 32768),
        ({"type": "linear", "factor": 4.0}, {}, 4096, 16384),
        ({"type": "linear", "factor": 4.0}, {"max_position_embeddings": 16384}, 4096, 16384),
        ({"type": "linear", "factor": 4.0},
         {"max_position_embeddings": 16384, "max_sequence_length": 16384}, 4096, 16384),
        ({"type": "linear", "factor": 4.0},
         {"max_position_embeddings": 16384, "max_sequence_length": 65536}, 16384, 65536),
        ({"type": "linear", "factor": 4.0, ORIGINAL: 4096}, {}, 4096, 16384),
        ({"type": "linear", "factor": 1.0}, {}, 4096, 4096),
        ({"type": "dynamic", "factor": 4.0}, {}, 4096, 16384),
        ({"type": "dynamic", "factor": 4.0, ORIGINAL: 4096}, {"max_position_embeddings": 16384},
         4096, 16384),
        (None, {"max_position_embeddings": "absent"}, 2048, 2048),  # of transformers' class
        (None, {"max_position_embeddings": 1010000,
                "dual_chunk_attention_config": {"chunk_size": 262144, ORIGINAL: 262144}},
         262144, 1010000),
    ],
)  # fmt: skip
def test_trained_and_claimed(block, config, original, current):
    assert windows(block, **config)[:2] == (original, current)


@pytest.mark.parametrize(
    ("block", "config", "words"),
    [
        (None, {"max_sequence_length": 16384}, "max_sequence_length says 16384"),
        ({"type": "dynamic", "factor": 4.0, ORIGINAL: 2048}, {}, "does nothing up to there"),
        ({**YARN, ORIGINAL: 8192}, {}, "8192 is larger than max_position_embeddings 4096"),
        ({**YARN, ORIGINAL: 2048}, {ORIGINAL: 4096}, "transformers takes the second"),
        ({**YARN, "factor": 2.0, ORIGINAL: 1024}, {}, "yarn's factor 2 reaches 2048"),
        ({**YARN, "attn_factor": 0.8, ORIGINAL: 4096}, {}, "attn_factor is read by some only"),
        ({**YARN, "finetuned": True, ORIGINAL: 4096}, {}, "does not read 'finetuned'"),
        ({"type": "linear", "factor": 2.0, "alpha": 2.0}, {}, "alpha is read by some only"),
        ({**YARN, "mscale": 1.0, ORIGINAL: 4096}, {}, "mscale decide nothing"),
        (None, {"partial_rotary_factor": 0.5}, "llama turns whole heads"),
        (
            None,
            {"rotary_emb_base": 25000},
            "rotary_emb_base says 25000, and transformers does not read it",
        ),
        (None, {"max_position_embeddings": "absent"}, "2048, which transformers assumes"),
        ({"rope_type": "yarn", "type": "linear", "factor": 2.0}, {}, "disagree on which counts"),
        ({"factor": 2.0}, {}, "a factor and no rope_type"),
        ({"type": "linear", "factor": 0.5}, {}, "has to be at least 1"),
    ],
)
def test_what_is_assumed_or_contradicts_is_said(block, config, words):
    assert words in windows(block, **config)[2]


WITHOUT_A_ROPE = [  # a table, slopes, and code of its own
    ({"model_type": "gpt2", "n_positions": 2048, "n_ctx": 1024}, "n_ctx says 1024"),
    ({"model_type": "bloom", "seq_length": 2048, "n_ctx": 1024}, "n_ctx says 1024"),
    ({"model_type": "nobody-knows", "max_position_embeddings": 32768, "rope_theta": 1e4,
      "kv_channels": 32, "seq_length": 8192}, "seq_length says 8192"),
    ({"model_type": "nobody-knows", "model_max_length": 4096},
     "reads states a window, so it is unknown; model_max_length says 4096"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "words"), WITHOUT_A_ROPE)
def test_lengths_that_contradict_each_other_are_named_without_a_rope_too(changes, words, tmp_path):
    kept = {key: LLAMA[key] for key in ("num_hidden_layers", "hidden_size", "num_attention_heads")}
    folder = with_config(tmp_path / "m", json.dumps(kept | changes))
    done = run_ctxext("inspect", folder)
    assert done.returncode == 0, done.stderr
    assert words in done.stderr


def test_what_the_user_knows_is_not_called_assumed():
    config = LLAMA | {"rope_scaling": {"type": "linear", "factor": 2.0}}
    position = detect(config, where="config.json", original_length=2048)
    assert position.window.original == 2048
    assert "assumed" not in " ".join(position.warnings)


def test_a_file_that_says_one_thing_is_read_without_a_word():
    assert windows({**YARN, ORIGINAL: 4096}, max_position_embeddings=16384)[2] == ""
    assert windows(max_sequence_length=4096, model_max_length=10**30)[2] == ""


def test_a_record_that_cannot_be_true_is_not_believed():
    for window in (8192, 10**30):
        position = detect(LLAMA, where="config.json", origin=Origin(window, 10000.0))
        assert position.window.original == 4096
        assert "not believed" in " ".join(position.warnings)


def test_a_known_trained_window_leaves_the_rotation_alone():
    """--original-length says how far to trust a checkpoint, not what transformers computes."""
    config = LLAMA | {"rope_scaling": YARN, "max_position_embeddings": 32768}
    stated = detect(config, where="config.json", original_length=8192)
    assert stated.window.original == 8192
    assert stated.rope.inv_freq == detect(config, where="config.json").rope.inv_freq
