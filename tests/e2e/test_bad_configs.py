"""Broken config.json, tokenizer_config.json and lengths, through the real command line."""

import json

import pytest

from support.bad_inputs import (
    ABSENT,
    YARN,
    accepted,
    config_text,
    copy_of,
    extend_refused,
    names,
    refused,
    with_config,
)
from support.command import run_ctxext

BIG = "9" * 5000  # more digits than Python turns into a number
NESTED = '{"a":' * 100_000
YARN_HALF = {**YARN, "original_max_position_embeddings": 4096.5}
LONGROPE = {
    "rope_type": "longrope",
    "original_max_position_embeddings": 64,
    "short_factor": [1.0] * 8,
    "long_factor": [2.0] * 8,
}


def raw(key, value):
    """The config with one top-level value written as it is, JSON or not."""
    return config_text(**{key: "HERE"}).replace('"HERE"', value)


def scaling(text):
    return raw("rope_scaling", text)


REFUSED = {
    "empty": ("", "is empty (line 1, column 1)"),
    "truncated": (config_text()[:-9], "is not valid JSON", "(line 1, column "),
    "not-utf-8": (config_text().encode() + b"\xff\xfe", "config.json is not UTF-8"),
    "utf-16": (config_text().encode("utf-16"), "config.json is not UTF-8"),
    "nested": (NESTED, "config.json", "nested too deeply"),
    "lfs-pointer": ("version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "a-list": ("[]", "config.json holds a list"),
    "a-number": ("1", "config.json holds a number"),
    "a-null": ("null", "config.json holds null"),
    "a-string": ('"x"', "config.json holds a string"),
    "rope-scaling-twice": (
        config_text()[:-1] + ', "rope_scaling": null, "rope_scaling": {}}', "'rope_scaling' twice"
    ),
    "factor-twice": (scaling('{"type":"linear","factor":2,"factor":4}'), "'factor' twice"),
    "nan": (raw("rope_theta", "NaN"), "rope_theta is nan"),
    "infinity": (scaling('{"type":"linear","factor":Infinity}'), "factor is inf"),
    "1e999": (raw("rope_theta", "1e999"), "rope_theta is inf"),
    "string-nan": (raw("rope_theta", '"nan"'), "rope_theta is nan"),
    "nan-window": (raw("max_position_embeddings", "NaN"), "max_position_embeddings is nan"),
    "401-digits": (raw("rope_theta", "1" + "0" * 400), "rope_theta"),
    "5000-digits": (raw("rope_theta", BIG), "config.json"),
    "401-digits-in-longrope": (
        scaling(json.dumps(LONGROPE).replace("2.0", "1" + "0" * 400)), "long_factor"
    ),
    "theta-zero": (raw("rope_theta", "0"), "rope_theta is 0"),
    "theta-negative": (raw("rope_theta", "-10000"), "rope_theta is -10000"),
    "theta-word": (raw("rope_theta", '"big"'), "rope_theta is 'big'"),
    "theta-list": (raw("rope_theta", "[10000]"), "rope_theta is [10000]"),
    "factor-half": (scaling('{"type":"linear","factor":0.5}'), "factor is 0.5"),
    "factor-zero": (scaling('{"type":"linear","factor":0}'), "factor is 0"),
    "factor-negative": (scaling('{"type":"linear","factor":-4}'), "factor is -4"),
    "factor-true": (scaling('{"type":"linear","factor":true}'), "factor is True"),
    "factor-missing": (scaling('{"type":"linear"}'), "linear needs a factor"),
    "factor-no-type": (scaling('{"factor":4.0}'), "factor and no rope_type"),
    "factor-huge": (scaling('{"type":"linear","factor":1e300}'), "factor"),
    "type": (scaling('{"type":"linear","rope_type":"yarn","factor":4}'), "rope_type 'yarn'"),
    "type-is-a-number": (scaling('{"rope_type":4}'), "rope_type is 4"),
    "longrope-too-short": (
        config_text(rope_scaling={**LONGROPE, "long_factor": [1.0] * 7}),
        "long_factor has 7 numbers, and 8 are needed",
    ),
    "longrope-zero": (
        config_text(rope_scaling={**LONGROPE, "short_factor": [0] * 8}), "short_factor"
    ),
    "longrope-strings": (
        config_text(rope_scaling={**LONGROPE, "long_factor": ["1"] * 8}), "long_factor"
    ),
    "original-above-window": (
        config_text(rope_scaling={**YARN, "original_max_position_embeddings": 256}),
        "original_max_position_embeddings 256 is larger than max_position_embeddings 128",
    ),
    "original-above-window-linear": (
        config_text(
            rope_scaling={
                "type": "linear", "factor": 4.0, "original_max_position_embeddings": 256,
            }
        ),
        "original_max_position_embeddings 256 is larger than max_position_embeddings 128",
    ),
    "float": (config_text(rope_scaling=YARN_HALF), "original_max_position_embeddings is 4096.5"),
    "overflow": (scaling('{"type":"dynamic","factor":1e9}'), "beyond 2**31"),
    "window-2**31": (raw("max_position_embeddings", str(2**31)), "max_position_embeddings"),
    "window-string": (raw("max_position_embeddings", '"4k"'), "max_position_embeddings is '4k'"),
    "head-dim-odd": (config_text(head_dim=15), "15 rotated dims"),
    "head-dim-zero": (config_text(head_dim=0), "head_dim is 0"),
    "head-dim-missing": (
        config_text(head_dim=ABSENT, num_attention_heads=3), "hidden_size 64 is not a multiple"
    ),
    "head-dim-two-billion": (config_text(head_dim=2**31 - 2), "head_dim is 2147483646"),
    "two-billion-layers": (config_text(num_hidden_layers=2**31 - 1), "num_hidden_layers is"),
    "partial-zero": (config_text(partial_rotary_factor=0), "partial_rotary_factor is 0"),
    "partial-above-1": (config_text(partial_rotary_factor=1.5), "partial_rotary_factor is 1.5"),
    "partial-odd": (config_text(partial_rotary_factor=0.19), "3 rotated dims (head_dim 16 x 0.19)"),
    "kv-heads-zero": (config_text(num_key_value_heads=0), "num_key_value_heads is 0"),
    "kv-heads-not-dividing": (config_text(num_key_value_heads=3), "num_key_value_heads 3 does not"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_configs_that_cannot_be_extended_are_refused(tmp_path, case):
    text, *words = REFUSED[case]
    extend_refused(with_config(tmp_path / "broken", text), 2, "broken", "config.json", *words)


def test_folder_without_a_config(tmp_path):
    (tmp_path / "m").mkdir()
    extend_refused(tmp_path / "m", 2, "m has no config.json", "nothing")
    for name in ("model.safetensors", "notes.txt"):
        (tmp_path / "m" / name).write_text("x")
    extend_refused(tmp_path / "m", 2, "has no config.json; it holds: model.safetensors, notes.txt")


def test_a_config_that_is_no_file(tmp_path):
    """A pipe would be waited for until the end of days."""
    import os

    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / "config.json")
    (tmp_path / "folder" / "config.json").mkdir(parents=True)
    for kind in ("pipe", "folder"):
        done = run_ctxext("inspect", tmp_path / kind, timeout=20)
        refused(done, 2, f"{kind}/config.json")


def test_a_byte_order_mark_is_read_over(tmp_path, tiny_llama):
    model = copy_of(tiny_llama, tmp_path / "m")
    (model / "config.json").write_bytes(b"\xef\xbb\xbf" + config_text().encode())
    accepted(run_ctxext("extend", model, "--target", "512", "-o", tmp_path / "out"))
    assert json.loads((tmp_path / "out" / "config.json").read_bytes())["rope_theta"] == 10000.0


def test_half_characters_in_a_string(tmp_path, tiny_llama):
    """Half a surrogate pair is JSON and no text: it may not break what is printed or written."""
    model = copy_of(tiny_llama, tmp_path / "m")
    (model / "config.json").write_text(raw("architectures", r'["\ud800"]'))
    done = run_ctxext("inspect", model, "--json")
    accepted(done)
    assert json.loads(done.stdout)["architecture"] == "\ud800"
    accepted(run_ctxext("extend", model, "--target", "512", "-o", tmp_path / "out"))
    assert json.loads((tmp_path / "out" / "config.json").read_bytes())["architectures"] == [
        "\ud800"
    ]


def test_other_keys_twice_only_warn(tmp_path):
    text = config_text()[:-1] + ', "architectures": ["Other"]}'
    done = run_ctxext("inspect", with_config(tmp_path / "m", text))
    accepted(done, "'architectures' twice", "Other")


def test_theta_as_a_string_or_missing(tmp_path, tiny_llama):
    model = copy_of(tiny_llama, tmp_path / "m", rope_theta="500000")
    done = run_ctxext("extend", model, "--target", "512", "-o", tmp_path / "out", "--json")
    accepted(done)
    assert "rope_theta is the string '500000'" in " ".join(json.loads(done.stdout)["warnings"])
    assert json.loads((tmp_path / "out" / "config.json").read_text())["rope_theta"] == 500000.0
    missing = with_config(tmp_path / "missing", config_text(rope_theta=ABSENT))
    accepted(run_ctxext("inspect", missing), "theta 10000 (assumed)", "has no rope_theta")


def test_factor_as_a_string_or_one(tmp_path, tiny_llama):
    scaled = {"type": "linear", "factor": "4", "rope_type": "linear"}
    model = with_config(tmp_path / "m", config_text(rope_scaling=scaled))
    accepted(run_ctxext("inspect", model), "factor is the string '4'", "factor 4")
    base = copy_of(tiny_llama, tmp_path / "base")
    done = run_ctxext("extend", base, "--factor", "1", "-o", tmp_path / "out")
    accepted(done, "factor 1: 128 tokens is the window already")
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == json.loads(config_text())


@pytest.mark.parametrize("factor", ["0", "-4", "0.5", "nan", "inf", "1e300", "true", "four"])
def test_factors_that_extend_nothing_are_refused(tmp_path, tiny_llama, factor):
    done = run_ctxext("extend", tiny_llama, "--factor", factor, "-o", tmp_path / "out")
    refused(done, 2, "--factor")
    assert names(tmp_path) == []


def test_dialects_disagree(tmp_path, tiny_llama):
    parameters = {**YARN, "factor": 2.0, "original_max_position_embeddings": 64}
    changes = {"rope_scaling": YARN, "rope_parameters": {**parameters, "rope_theta": 10000.0}}
    model = copy_of(tiny_llama, tmp_path / "m", **changes)
    done = run_ctxext("inspect", model, "--json")
    accepted(done, "disagree", "vLLM", "transformers 4")
    dialects = json.loads(done.stdout)["rope"]["dialects"]
    assert {name: block["factor"] for name, block in dialects.items()} == {
        "rope_scaling": 4.0,
        "rope_parameters": 2.0,
    }
    extend_refused(model, 2, "m/config.json", "disagree", "--prefer")
    for prefer, original in (("rope_scaling", 32), ("rope_parameters", 64)):
        done = run_ctxext(
            "extend", model, "--target", 512, "--prefer", prefer, "-o", tmp_path / prefer, "--json"
        )
        accepted(done)
        assert json.loads(done.stdout)["window"] == {"original": original, "target": 512}


def test_unknown_rope_type(tmp_path, tiny_llama):
    model = copy_of(tiny_llama, tmp_path / "m", rope_scaling={"rope_type": "spiral", "factor": 3.5})
    done = run_ctxext("inspect", model, "--json")
    accepted(done, "rope_type 'spiral' is not known")
    rope = json.loads(done.stdout)["rope"]
    assert (rope["rope_type"], rope["factor"], rope["inv_freq"]) == ("spiral", 3.5, None)
    accepted(run_ctxext("inspect", model), "spiral")
    extend_refused(model, 2, "m/config.json", "unknown rope_type 'spiral'")
    text = tmp_path / "text.txt"
    text.write_text("word " * 100)
    done = run_ctxext("eval-ppl", model, "--data", text, "--lengths", "64")
    refused(done, 2, "transformers cannot make a model of m: it does not know 'spiral'")


WRONG_TARGETS = ["128kb", "0", "-1", "1e6", "128 k", "", " 512", "0x200", "512.5", "k", "99999999m"]


@pytest.mark.parametrize("target", WRONG_TARGETS)
def test_targets_that_are_no_length_are_refused(tmp_path, tiny_llama, target):
    done = run_ctxext("extend", tiny_llama, f"--target={target}", "-o", tmp_path / "out")
    refused(done, 2, "--target")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("64", "--target 64 is below the trained window of 128"),
        ("513", "--target 513 is odd"),
        ("2147483648", "below 2**31"),
    ],
)
def test_lengths_that_make_no_sense(tmp_path, tiny_llama, target, words):
    done = run_ctxext("extend", tiny_llama, "--target", target, "-o", tmp_path / "out")
    refused(done, 2, words)
    assert names(tmp_path) == []


def test_lengths_that_make_sense_are_taken(tmp_path, tiny_llama):
    done = run_ctxext("extend", tiny_llama, "--target", "128", "-o", tmp_path / "same")
    accepted(done, "the window already")
    windows = []
    for target in ("1k", "1K", "1024"):
        done = run_ctxext("extend", tiny_llama, "--target", target, "--dry-run", "--json")
        windows.append(json.loads(done.stdout)["window"]["target"])
    assert windows == [1024, 1024, 1024]
    assert "k = 1024" in run_ctxext("--help").stdout


def test_targets_that_are_no_multiple_of_the_window(tmp_path):
    """Readers compute original x factor: the config may hold only what gives the target again."""
    model = with_config(tmp_path / "m", config_text(max_position_embeddings=100))
    (model / "model.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    extend_refused(model, 2, "--target 110 / 100", "nearest", flags=("--target", "110"))
    done = run_ctxext("extend", model, "--target", "300", "-o", tmp_path / "out")
    accepted(done)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    factor = config["rope_scaling"]["factor"]
    assert config["max_position_embeddings"] == 100 * factor == 300


def test_a_model_whose_layers_all_slide_needs_sliding_window(tmp_path, tiny_llama):
    mistral = {"model_type": "mistral", "sliding_window": 64}
    model = copy_of(tiny_llama, tmp_path / "m", **mistral)
    extend_refused(model, 2, "last 64 tokens only", "--sliding-window off")
    done = run_ctxext("inspect", model, "--target", "512")
    accepted(done, "every layer attends to the last 64 tokens only")
    done = run_ctxext(
        "extend", model, "--target", "512", "--sliding-window", "off", "-o", tmp_path / "out"
    )
    accepted(done, "measure")


LENGTHS = {"1e30": "1e30", "null": "null", "string": '"4k"', "true": "true", "number": "128"}


@pytest.mark.parametrize("kind", LENGTHS)
def test_broken_model_max_lengths_are_mended_or_refused(tmp_path, tiny_llama, kind):
    """Only a real number below the target is raised."""
    model = copy_of(tiny_llama, tmp_path / "m")
    text = f'{{"model_max_length": {LENGTHS[kind]}}}'
    (model / "tokenizer_config.json").write_text(text)
    done = run_ctxext("extend", model, "--target", "512", "-o", tmp_path / "out")
    accepted(done)
    after = (tmp_path / "out" / "tokenizer_config.json").read_text()
    if kind == "number":
        assert json.loads(after) == {"model_max_length": 512}
    else:
        assert after == text
    if kind == "string":
        assert "model_max_length is a string" in done.stderr
    accepted(run_ctxext("inspect", model))


def test_broken_side_files(tmp_path, tiny_llama):
    for name in ("tokenizer_config.json", "generation_config.json"):
        model = copy_of(tiny_llama, tmp_path / name)
        (model / name).write_text("{")
        extend_refused(model, 2, f"{name}/{name} is not valid JSON")
