"""What is extended twice, at factor 1 or by a method that no recipe names, where nothing turns."""

import json

import pytest
import torch

import ctxext
from ctxext.api.extension_plan import planned_window
from ctxext.checkpoints.config.detect import detect
from ctxext.checkpoints.weights.position_hash import position_sha256
from ctxext.errors import BadInput, CtxextError
from ctxext.lab.decoder import LabConfig, LabForCausalLM
from ctxext.runs.recipe.extend_config import ExtendConfig
from support.checkpoints import write_byte_tokenizer
from support.command import run_ctxext
from support.families import build_family
from support.not_rotary import WINDOW, build_not_rotary


def lab(folder, encoding, **keys):
    torch.manual_seed(0)
    config = LabConfig(
        position_encoding=encoding, max_position_embeddings=WINDOW, hidden_size=32,
        intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, vocab_size=256, **keys,
    )  # fmt: skip
    LabForCausalLM(config).save_pretrained(folder)
    write_byte_tokenizer(folder, WINDOW)
    return folder


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def extended(base, out, **said):
    ctxext.extend(str(base), output_dir=out, **said)
    return out


@pytest.mark.parametrize("trained", [1.0, 2.0])
def test_slopes_count_from_the_trained_ones_whatever_was_written_between(tmp_path, trained):
    base = lab(tmp_path / "base", "alibi", alibi_slope_factor=trained)
    four = extended(base, tmp_path / "4", method="slopes", factor=4)
    assert config_of(four)["alibi_slope_factor"] == 4 * trained
    eight = extended(four, tmp_path / "8", method="slopes", factor=8)
    assert config_of(eight)["alibi_slope_factor"] == 8 * trained
    plain = extended(eight, tmp_path / "plain", method="extrapolate", factor=8)
    assert config_of(plain)["alibi_slope_factor"] == trained


def test_an_adapter_tells_gentler_slopes_apart(tmp_path):
    base = lab(tmp_path / "base", "alibi")
    folders = [
        extended(base, tmp_path / method, method=method, factor=4)
        for method in ("slopes", "extrapolate")
    ]
    hashes = {
        position_sha256(detect(config_of(f), where="config.json", original_length=WINDOW), f)
        for f in folders
    }
    assert len(hashes) == 2


def test_a_table_at_factor_one_is_still_the_trained_one(tmp_path):
    base = build_not_rotary(tmp_path / "base", "gpt2")
    same = extended(base, tmp_path / "same", factor=1)
    longer = extended(same, tmp_path / "longer", factor=4)
    assert config_of(longer)["n_positions"] == 4 * WINDOW
    with pytest.raises(BadInput, match="extended to 512 rows already"):
        ctxext.extend(str(longer), factor=8, dry_run=True)


def test_no_sharpening_leaves_the_weights_alone_and_can_be_extended_on(tmp_path):
    base = lab(tmp_path / "base", "none")
    four = ctxext.extend(
        str(base), method="temperature", factor=4, parameters={"c": 0.0}, output_dir=tmp_path / "4"
    )
    assert four.weights != "rewritten"
    again = ctxext.extend(str(tmp_path / "4"), method="temperature", factor=8, dry_run=True)
    assert again.weights == "rewritten"


def test_a_recipe_without_a_method_takes_the_encodings_own(tmp_path):
    for family, window in (("gpt2", "interpolate"), ("llama", "yarn")):
        base = (
            build_not_rotary(tmp_path / family, family)
            if family == "gpt2"
            else build_family(tmp_path / family, family, num_hidden_layers=1)
        )
        wanted = ExtendConfig(factor=4)
        assert planned_window(config_of(base), wanted).window.current == 4 * WINDOW
        plan = ctxext.extend(str(base), **wanted.arguments(), dry_run=True)
        assert plan.method == window


def test_a_window_that_slides_is_refused_where_none_does(tmp_path):
    base = build_not_rotary(tmp_path / "base", "gpt2")
    with pytest.raises(BadInput, match="no layer of this gpt2 slides"):
        ctxext.extend(str(base), factor=4, sliding_window=64, dry_run=True)


def test_a_broken_table_is_called_by_its_name(tmp_path):
    from safetensors.torch import load_file, save_file

    base = build_not_rotary(tmp_path / "base", "gpt2")
    tensors = load_file(base / "model.safetensors")
    tensors["transformer.wpe.weight"][3] = float("nan")
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CtxextError, match=r"wpe\.weight holds NaN"):
        ctxext.extend(str(base), factor=4, output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["", "  \n"])
def test_calibration_on_nothing_is_one_sentence(tmp_path, text):
    base, file = lab(tmp_path / "base", "none"), tmp_path / "empty.txt"
    file.write_text("")
    with pytest.raises(BadInput, match=r"^--calibrate"):
        ctxext.extend(
            str(base), method="temperature", factor=4, dry_run=True,
            calibrate=text and str(file),
        )  # fmt: skip


def test_finetune_names_a_method_that_fits(tmp_path):
    base, text = build_not_rotary(tmp_path / "base", "gpt2"), tmp_path / "text.txt"
    text.write_text("a word and another. " * 200)
    recipe = {"data": {"source": str(text)}, "train": {"seq_length": 512, "steps": 1}}
    with pytest.raises(BadInput) as error:
        ctxext.finetune(str(base), output_dir=tmp_path / "run", recipe=recipe)
    assert "--method interpolate --target 512" in error.value.hint


def test_the_card_of_a_table_speaks_of_no_rope(tmp_path):
    base, run = build_not_rotary(tmp_path / "base", "gpt2"), tmp_path / "run"
    extended(base, run, factor=4)
    ctxext.push(run, repo_id="me/longer", base_model="me/base", dry_run=True)
    card = (run / "README.md").read_text()
    for word in ("RoPE", "rope", "weights are the base's", "LoRA"):
        assert word not in card
    assert "by method `interpolate`; no training: what changed is rows of the position" in card
    text = tmp_path / "text.txt"
    text.write_text("a word and another. " * 800)
    recipe = {
        "data": {"source": str(text)},
        "train": {"what": "position-rows", "steps": 1, "batch_size": 1, "warmup_steps": 0},
    }
    ctxext.finetune(str(run), output_dir=tmp_path / "tuned", recipe=recipe)
    ctxext.push(tmp_path / "tuned", repo_id="me/x", base_model="me/base", dry_run=True)
    (card,) = [each.read_text() for each in (tmp_path / "tuned").rglob("README.md")]
    assert "fine-tuned in rows of its position table alone" in card
    assert "LoRA" not in card
    assert "| train.what | position-rows |" in card


def test_inspect_recommends_nothing_that_extend_refuses(tmp_path):
    base = lab(tmp_path / "base", "none")
    sharp = extended(base, tmp_path / "4", method="temperature", factor=4)
    target = ctxext.inspect(str(sharp), target=1024).target
    assert target.recommendation.method is None
    assert "folded into its weights" in target.recommendation.reason
    assert ctxext.inspect(str(base), target=1024).target.recommendation.method


def test_a_table_that_was_made_of_rows_takes_no_second_method_and_inspect_says_so(tmp_path):
    base = build_not_rotary(tmp_path / "base", "gpt2")
    made = extended(base, tmp_path / "made", factor=2)

    def applying(folder):
        return {row["name"] for row in ctxext.inspect(str(folder)).methods if row["applies"]}

    assert applying(base) == {"interpolate", "tile", "group"}
    assert applying(made) == set()
    for method in applying(base):
        with pytest.raises(BadInput, match="was extended to 256 rows already"):
            ctxext.extend(str(made), method=method, factor=4, dry_run=True)


def test_a_temperature_that_nobody_measured_is_said(tmp_path):
    base, said = lab(tmp_path / "base", "none"), "c = 0.1 is no measurement"

    def warned(**keywords):
        plan = ctxext.extend(
            str(base), method="temperature", target=4 * WINDOW, dry_run=True, **keywords
        )
        return any(said in warning for warning in plan.warnings)

    assert warned()
    assert not warned(parameters={"c": 0.1})


def test_no_engine_is_named_for_the_laboratory_s_decoder(tmp_path):
    """Its class is ctxext's own: a card says what to import, and no command of a server."""
    base = lab(tmp_path / "base", "rope")
    seen = ctxext.inspect(str(base))
    assert seen.serving
    assert {row.verdict for row in seen.serving} == {"refuses"}
    assert all("ctxext.lab.convert" in row.how for row in seen.serving)
    run = extended(base, tmp_path / "run", factor=4, method="yarn")
    ctxext.push(run, repo_id="me/longer", base_model="me/base", dry_run=True)
    card = (run / "README.md").read_text()
    assert "import ctxext.lab.decoder" in card
    assert "vllm serve" not in card


def test_a_stopped_rope_is_not_said_to_turn(tmp_path):
    base = build_family(tmp_path / "base", "llama", num_hidden_layers=1)
    stopped = extended(base, tmp_path / "stopped", method="drop", factor=1)
    for folder, words in ((base, "complete a turn"), (stopped, "none turns")):
        said = run_ctxext("inspect", folder)
        assert said.returncode == 0, said.stderr
        (line,) = [x for x in said.stdout.splitlines() if x.startswith("rotary pairs")]
        assert words in line
