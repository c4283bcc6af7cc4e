"""`--method drop` and `--method temperature`: a rope that stops, attention that is sharpened."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import ctxext
from ctxext.checkpoints.live.load import load_model
from ctxext.checkpoints.opened import open_checkpoint
from ctxext.checkpoints.weights.files import read_weights
from ctxext.errors import BadInput
from ctxext.training.model.temperature import SCALE, train_temperature
from support.checkpoints import build_tiny
from support.command import run_ctxext
from support.families import build_family
from support.not_rotary import SIZES

IDS = torch.arange(120)[None] * 7 % 251


def plain(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def live(folder, scale):
    opened = open_checkpoint(str(folder))
    model = load_model(opened.source, opened.position)
    weights = read_weights(folder)
    model = train_temperature(model, weights, opened.position, per_head=False).eval()
    getattr(model, SCALE).data.fill_(scale)
    return logits(model)


@pytest.fixture
def dropped(tmp_path):
    base = build_tiny(tmp_path / "base", vocabulary=272)
    ctxext.extend(str(base), method="drop", factor=1.0, output_dir=tmp_path / "dropped")
    return tmp_path / "dropped"


def test_no_pair_turns_in_plain_transformers(tmp_path, dropped):
    still = plain(tmp_path / "base")
    still.model.rotary_emb.inv_freq.zero_()
    assert torch.allclose(logits(plain(dropped)), logits(still), atol=1e-5)
    assert not torch.allclose(logits(plain(tmp_path / "base")), logits(still), atol=1e-2)


def test_the_window_may_stay_or_grow(tmp_path, dropped):
    done = run_ctxext("inspect", dropped)
    assert "no pair of its rope turns" in done.stderr
    result = ctxext.extend(
        str(tmp_path / "base"), method="drop", target=512, output_dir=tmp_path / "far"
    )
    assert any("train it at its own window first" in warning for warning in result.warnings)
    window = ctxext.inspect(str(tmp_path / "far")).position.window
    assert (window.original, window.current) == (128, 512)
    back = ctxext.extend(str(tmp_path / "far"), method="none", output_dir=tmp_path / "back")
    assert torch.equal(logits(plain(back.output_dir)), logits(plain(tmp_path / "base")))


def test_scores_are_sharpened_in_the_weights(tmp_path, dropped):
    out = tmp_path / "sharp"
    result = ctxext.extend(
        str(dropped), method="temperature", target=1024, parameters={"c": 0.3}, output_dir=out
    )
    scale = 1 + 0.3 * math.log(8)
    assert result.weights == "rewritten"
    assert torch.allclose(logits(plain(out)), live(dropped, scale), atol=1e-5, rtol=1e-4)
    before, after = load_file(dropped / "model.safetensors"), load_file(out / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "q_proj" in name}
    for name in changed:  # all dims of every head, by beta itself
        assert torch.allclose(after[name], before[name] * scale, rtol=1e-6)
    config = json.loads((out / "config.json").read_text())
    assert config["max_position_embeddings"] == 1024
    window = ctxext.inspect(str(out)).position.window
    assert (window.original, window.current) == (128, 1024)
    with pytest.raises(BadInput, match="folded into its weights"):
        ctxext.extend(str(out), method="temperature", target=2048, output_dir=tmp_path / "again")


def test_attention_without_positions_beside_state_spaces(tmp_path):
    base = build_family(tmp_path / "jamba", "jamba", **SIZES["jamba"])
    result = ctxext.extend(
        str(base), method="temperature", target=512, output_dir=tmp_path / "sharp", check=True
    )
    scale = 1 + 0.1 * math.log(4)
    assert result.checked_logit_change > 1e-4
    assert torch.allclose(
        logits(plain(tmp_path / "sharp")), live(base, scale), atol=1e-5, rtol=1e-4
    )
    assert json.loads((tmp_path / "sharp/config.json").read_text())[
        "max_position_embeddings"
    ] == 512  # fmt: skip


def test_layers_that_turn_are_left_alone_and_have_to_reach_the_target(tmp_path):
    base = build_family(
        tmp_path / "smollm3", "smollm3", num_hidden_layers=4, no_rope_layers=[1, 1, 1, 0]
    )
    with pytest.raises(BadInput, match="reaches 128 tokens, not 512") as caught:
        ctxext.extend(str(base), method="temperature", target=512, output_dir=tmp_path / "sharp")
    assert "--method yarn --target 512" in caught.value.hint
    far = tmp_path / "yarn"
    ctxext.extend(str(base), method="yarn", target=512, output_dir=far)
    ctxext.extend(str(far), method="temperature", target=512, output_dir=tmp_path / "sharp")
    before, after = (load_file(f / "model.safetensors") for f in (far, tmp_path / "sharp"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"model.layers.3.self_attn.q_proj.weight"}


def test_calibration_takes_the_lowest_of_its_grid(tmp_path, dropped, book):
    out = tmp_path / "sharp"
    command = ["extend", dropped, "--method", "temperature", "--target", 512, "-o", out]
    done = run_ctxext(*command, "--calibrate", book, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    grid = document["calibration"]
    assert [row["c"] for row in grid] == sorted({row["c"] for row in grid})
    best = min(grid, key=lambda row: row["perplexity"])
    assert document["parameters"]["c"] == best["c"]
    assert len({row["perplexity"] for row in grid}) == len(grid)
    chosen = ctxext.perplexity([str(out)], data=str(book), lengths=[512], protocol="disjoint")
    assert chosen.results[0].perplexity == pytest.approx(best["perplexity"], rel=0.2)


def test_what_contradicts_itself_is_refused(tmp_path, dropped, book):
    base, text = str(tmp_path / "base"), str(book)
    cases = [
        (base, {"method": "temperature"}, "its rope turns"),
        (base, {"method": "yarn", "calibrate": text}, "yarn has none"),
        (str(dropped), {"method": "temperature", "parameters": {"c": 0.1}, "calibrate": text},
         "--set c is given"),
        (str(dropped), {"method": "temperature", "parameters": {"c": -1.0}}, "vanish or turn over"),
        (str(dropped), {"method": "drop"}, "nothing was extended"),
    ]  # fmt: skip
    for model, options, words in cases:
        with pytest.raises(BadInput, match=words):
            ctxext.extend(model, target=512, output_dir=tmp_path / "out", **options)
    short = tmp_path / "short.txt"
    short.write_text("too little")
    with pytest.raises(BadInput, match="has no document of 512 tokens"):
        ctxext.extend(
            str(dropped), method="temperature", target=512, output_dir=tmp_path / "out",
            calibrate=str(short),
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_the_three_commands(tmp_path, book):
    """Drop, train again at the window, sharpen: as the docs have them."""
    base = build_tiny(tmp_path / "base", vocabulary=272)
    drop, tuned, sharp = (tmp_path / name for name in ("drop", "tuned", "sharp"))
    commands = [
        ["extend", base, "--method", "drop", "--factor", 1, "-o", drop],
        ["finetune", drop, "--recipe", "drope", "--data", book, "--steps", 3, "--batch-size", 2,
         "--gradient-accumulation", 1, "--device", "cpu", "-o", tuned, "--set",
         "train.warmup_steps=1", "--set", "data.tokens=0"],
        ["extend", tuned / "merged", "--method", "temperature", "--target", 512, "--calibrate",
         book, "-o", sharp],
        ["eval-ppl", base, sharp, "--data", book, "--tokens", 2000, "--lengths", "128,512"],
    ]  # fmt: skip
    for command in commands:
        done = run_ctxext(*command)
        assert done.returncode == 0, (command, done.stderr)
    record = json.loads((sharp / "ctxext.json").read_text())
    assert record["method"] == "temperature"
    assert record["window"] == {"original": 128, "target": 512}
