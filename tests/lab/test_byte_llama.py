"""The embedded base: its training code for a few steps, and the checkpoint that ships."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ctxext.lab.byte_llama import MORE, STAGES, learning_rate, rows_of
from support.command import run_ctxext


def test_train_base_writes_a_checkpoint(tmp_path):
    """The code that made the shipped base, every stage at 1/400 of its steps."""
    done = run_ctxext(
        "demo", "--train-base", "--budget", "0.075", "-o", tmp_path / "base", "--json"
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert [s["steps"] for s in document["stages"]] == [
        max(1, round(s.steps / 400)) for s in STAGES
    ]
    assert document["final_loss"] < 6  # ln 256 is 5.5: finite, and no explosion
    record = json.loads((tmp_path / "base" / "ctxext.json").read_text())
    assert record["training"]["corpus"]["source"] == "builtin:python"
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    # embedding 256 x 128 (tied), 4 layers of 4 x 128^2 + 3 x 128 x 352 + 2 norms, the last norm
    assert model.num_parameters() == 256 * 128 + 4 * (4 * 128**2 + 3 * 128 * 352 + 256) + 128
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    text = "def é(x): return '\t\x00' # 你好"
    assert tokenizer(text)["input_ids"] == list(text.encode())
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    seen = run_ctxext("inspect", tmp_path / "base", "--json")
    assert json.loads(seen.stdout)["window"]["original"] == 256


def test_a_step_is_2048_tokens_in_every_stage():
    text = np.frombuffer(b"x = 1\n" * 1000, dtype=np.uint8)
    for stage in STAGES:
        rows = rows_of(stage, np.random.default_rng(0), text)
        assert rows.size == 2048
        assert rows.shape[1] == stage.length


def test_learning_rate_warms_up_and_falls():
    rates = [learning_rate(step, 1000, 1.0) for step in range(1000)]
    assert rates[0] == 0.01
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.02, abs=1e-3)


def test_the_shipped_base_is_small_recorded_and_copies(shipped):
    assert sum(p.stat().st_size for p in shipped.iterdir()) < 2_000_000
    record = json.loads((shipped / "ctxext.json").read_text())
    assert record["kind"] == "base"
    assert "--train-base" in record["command"]
    assert record["training"]["steps"] == sum(s.steps for s in MORE)
    assert record["training"]["started_from"]["steps"] == sum(s.steps for s in STAGES)
    model = AutoModelForCausalLM.from_pretrained(shipped, dtype=torch.float32).eval()
    rng = np.random.default_rng(11)
    string = rng.permutation(np.arange(33, 127))[:16]
    row = np.frombuffer((b"    return value\n" * 20)[:256], dtype=np.uint8).copy()
    row[60:76] = row[240:256] = string
    with torch.no_grad():
        logits = model(torch.from_numpy(row[None].astype(np.int64))).logits[0]
    hits = (logits[-13:-1].argmax(-1).numpy() == row[-12:]).sum()
    assert hits >= 10, hits
