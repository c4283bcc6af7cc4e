"""Checkpoints that are told of positions by no rope: from inspect to training at four times."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from ctxext.api.extend import extend
from ctxext.errors import BadInput
from ctxext.lab.decoder import LabConfig, LabForCausalLM
from ctxext.lab.saved import save_decoder
from support.command import run_ctxext
from support.not_rotary import build_not_rotary

# type -> (the word of inspect, the method that is taken unasked, whether short texts stay as is)
KINDS = {
    "gpt2": ("learned", "interpolate", False),
    "gpt_neo": ("learned", "interpolate", False),
    "opt": ("learned", "interpolate", False),
    "bloom": ("alibi", "extrapolate", True),
    "mpt": ("alibi", "extrapolate", True),
    "falcon": ("alibi", "extrapolate", True),
    "xglm": ("sinusoidal", "extrapolate", True),
    "jamba": ("none", "extrapolate", True),
    "ctxext_lab": ("none", "extrapolate", True),
}
CONFIG = "config.json"


def ran(*arguments):
    done = run_ctxext(*arguments)
    assert done.returncode == 0, done.stderr
    return done


def refused(*arguments):
    done = run_ctxext(*arguments, "--json")
    assert done.returncode == 2, done.stderr
    return json.loads(done.stdout)


def build_lab(folder, model_type):
    """Save the laboratory's own decoder without positions."""
    torch.manual_seed(0)
    config = LabConfig(
        position_encoding="none", max_position_embeddings=128, hidden_size=32,
        intermediate_size=64, num_hidden_layers=2,
    )  # fmt: skip
    save_decoder(LabForCausalLM(config), folder)
    return folder


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """A checkpoint of each type, built when it is asked for."""
    root, made = tmp_path_factory.mktemp("bases"), {}

    def base(model_type):
        if model_type not in made:
            build = build_lab if model_type == "ctxext_lab" else build_not_rotary
            made[model_type] = build(root / model_type, model_type)
        return made[model_type]

    return base


def loaded(folder):
    model, said = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert {key: value for key, value in said.items() if value} == {}
    return model.eval()


@pytest.mark.parametrize("model_type", KINDS)
def test_from_inspect_to_four_times_the_window(tmp_path, book, bases, model_type):
    base, (word, method, kept) = bases(model_type), KINDS[model_type]
    inspected = json.loads(ran("inspect", base, "--target", 512, "--json").stdout)
    assert inspected["position_encoding"] == word
    assert inspected["target"]["recommendation"]["method"] == method
    assert method in {row["name"] for row in inspected["methods"] if row["applies"]}
    out = tmp_path / "out"
    said = json.loads(ran("extend", base, "--target", 512, "--check", "-o", out, "--json").stdout)
    assert said["method"] == method
    assert any(f"--method {method} is taken" in warning for warning in said["warnings"])
    assert (said["checked_logit_change"] == 0) == kept
    assert json.loads((out / "ctxext.json").read_text())["window"] == {
        "original": 128, "target": 512
    }  # fmt: skip
    ids = torch.arange(512)[None] * 7 % 200 + 10
    with torch.no_grad():
        before, after = loaded(base)(ids[:, :128]).logits, loaded(out)(ids).logits
    assert after.isfinite().all()
    assert torch.allclose(before, after[:, :128], atol=1e-4) == kept
    measured = run_ctxext(
        "eval-ppl", base, out, "--data", book, "--tokens", 1200, "--lengths", "128,512",
        "--names", "base,out", "-o", tmp_path / "ppl", "--json",
    )  # fmt: skip
    document = json.loads(measured.stdout)
    rows = {(row["model"], row["length"]) for row in document["results"]}
    assert {("base", 128), ("out", 128), ("out", 512)} <= rows
    # What has no row for a position is passed over with a warning, and the rest is measured.
    ends = [row["error"] for row in document["failed"] if row["model"] == "base"]
    assert (("base", 512) in rows) == (not ends)
    assert measured.returncode == 0, measured.stderr
    assert bool(ends) == (word == "learned" or model_type == "mpt")
    assert all("has positions for 128 tokens" in error for error in ends)
    ran("eval-retrieval", out, "--lengths", "512", "--samples", 1, "--depths", 0.5,
        "--tasks", "passkey", "--data", book, "-o", tmp_path / "retrieval")  # fmt: skip
    ran("finetune", out, "--data", book, "--seq-length", 512, "--steps", 2, "--batch-size", 1,
        "--gradient-accumulation", 1, "-o", tmp_path / "run")  # fmt: skip
    trained = loaded(tmp_path / "run" / "merged")
    with torch.no_grad():
        assert not torch.equal(trained(ids).logits, after)


def test_a_dry_run_says_what_would_change(tmp_path, bases):
    done = ran("extend", bases("gpt2"), "--target", 512, "--dry-run")
    assert "interpolate: 128 -> 512 tokens" in done.stdout
    assert "transformer.wpe.weight: 128 -> 512 rows" in done.stdout
    assert "| n_positions | 128 | 512 |" in done.stdout
    assert "--method interpolate is taken for position encoding 'learned'" in done.stderr


@pytest.mark.parametrize(
    ("model_type", "method", "words", "hint"),
    [
        ("gpt2", "yarn", "'learned', which yarn does not", "interpolate, group, tile"),
        ("gpt2", "extrapolate", "'learned'", "interpolate, group, tile"),
        ("bloom", "tile", "'alibi', which tile does not", "extrapolate"),
        ("bloom", "slopes", "slopes of bloom follow from its number of heads", "extrapolate"),
        ("xglm", "interpolate", "no key of its config divides it", "extrapolate"),
        ("jamba", "yarn", "'none', which yarn does not", "extrapolate"),
    ],
)
def test_a_method_of_another_encoding_names_those_that_fit(bases, model_type, method, words, hint):
    said = refused("extend", bases(model_type), "--method", method, "--target", 512, "--dry-run")
    assert words in said["error"]
    assert hint in said["hint"]


def test_a_rope_names_its_methods(tiny_llama):
    said = refused("extend", tiny_llama, "--method", "tile", "--target", 512, "--dry-run")
    assert "'rope', which tile does not extend" in said["error"]
    assert re.search(r"methods for 'rope': yarn, abf, .*resonance", said["hint"])


def test_inspect_says_what_each_is(bases):
    said = ran("inspect", bases("opt")).stdout
    assert "130 rows, 2 of them before position 0" in said
    assert "| tile | yes |" in said
    assert "yarn" not in said
    said = ran("inspect", bases("bloom"), "--target", 512).stdout
    assert "4 heads, 0.00391 to 0.25 logits a token" in said
    assert "| slopes | no |" in said
    assert "--method extrapolate --target 512" in said
    document = json.loads(ran("inspect", bases("bloom"), "--json").stdout)
    assert document["slopes"] == [0.25, 0.0625, 0.015625, 0.00390625]
    assert document["table"] is None


def test_the_caution_of_each_encoding_is_said(bases):
    for model_type, words in [
        ("bloom", "hardly used"),
        ("xglm", "worse soon"),
        ("jamba", "spread"),
    ]:
        plan = extend(str(bases(model_type)), target=512, dry_run=True)
        assert any(words in warning for warning in plan.warnings)


def test_a_raised_window_is_raised_again_and_set_back(tmp_path, bases):
    base = bases("falcon")
    extend(str(base), target=512, output_dir=tmp_path / "one")
    again = extend(str(tmp_path / "one"), target=1024, output_dir=tmp_path / "two")
    assert again.parameters == {"factor": 8.0}
    assert (again.window.original, again.window.target) == (128, 1024)
    back = extend(str(tmp_path / "two"), method="none", output_dir=tmp_path / "back")
    assert (back.window.original, back.window.target) == (128, 128)
    for file in (CONFIG, "tokenizer_config.json"):
        before, after = (json.loads((f / file).read_text()) for f in (base, tmp_path / "back"))
        assert before == after
    with pytest.raises(BadInput, match="no extension to take back"):
        extend(str(base), method="none", dry_run=True)
    config = json.loads((tmp_path / "one" / CONFIG).read_text()) | {"max_position_embeddings": 256}
    (tmp_path / "one" / CONFIG).write_text(json.dumps(config))
    with pytest.raises(BadInput, match="was changed after ctxext wrote it"):
        extend(str(tmp_path / "one"), method="none", dry_run=True)


def test_bloom_that_states_no_window(tmp_path):
    base = build_not_rotary(tmp_path / "bloom", "bloom")
    config = json.loads((base / CONFIG).read_text())
    del config["max_position_embeddings"], config["seq_length"]
    (base / CONFIG).write_text(json.dumps(config))
    with pytest.raises(BadInput, match="window is unknown") as caught:
        extend(str(base), target=512, dry_run=True)
    assert "--original-length" in caught.value.hint
    out = tmp_path / "out"
    done = extend(str(base), target=512, original_length=128, output_dir=out, check=True)
    assert any("no key of the config" in warning for warning in done.warnings)
    after = json.loads((out / CONFIG).read_text())
    assert "max_position_embeddings" not in after
    assert json.loads((out / "ctxext.json").read_text())["window"] == {
        "original": 128, "target": 512
    }  # fmt: skip
    (base / CONFIG).write_text(json.dumps(config | {"seq_length": 128}))
    extend(str(base), target=512, output_dir=tmp_path / "stated")
    assert json.loads((tmp_path / "stated" / CONFIG).read_text())["seq_length"] == 512


def test_weights_of_alibi_are_linked(tmp_path, bases):
    done = extend(str(bases("bloom")), target=512, output_dir=tmp_path / "out")
    assert done.weights == "linked"
    before, after = (
        load_file(folder / "model.safetensors") for folder in (bases("bloom"), tmp_path / "out")
    )
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("flag", ["--fold-attention-factor", "--gguf"])
def test_flags_of_a_rope_are_refused(tmp_path, bases, flag):
    given = [flag, tmp_path / "x.gguf"] if flag == "--gguf" else [flag]
    said = refused("extend", bases("gpt2"), "--target", 512, *given, "-o", tmp_path / "out")
    assert flag in said["error"]
