"""From a base to a merged checkpoint that was measured, on a class of every kind of family."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from support.command import run_ctxext
from support.families import build_family

EVERY_TIME = ["gemma3", "deepseek_v3"]  # a rope by layer type inside text_config; latent attention
SLOW = ["gemma3_text", "qwen3_next", "qwen3_moe", "gpt_neox", "smollm3", "olmo3", "gemma2",
        "qwen2_5_vl", "mistral3", "glm4", "phi3"]  # fmt: skip
PICTURES = ("gemma3", "qwen2_5_vl", "mistral3")


def ran(*arguments):
    done = run_ctxext(*arguments)
    assert done.returncode == 0, done.stderr
    return done


def loaded(folder, model_type):
    auto = AutoModelForImageTextToText if model_type in PICTURES else AutoModelForCausalLM
    return auto.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.parametrize(
    "model_type", [*EVERY_TIME, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_extend_train_merge_measure(tmp_path, book, model_type):
    changes = {"original_max_position_embeddings": 128} if model_type == "phi3" else {}
    base = build_family(tmp_path / "base", model_type, **changes)
    extended, run, merged = (tmp_path / name for name in ("extended", "run", "merged"))
    ran("extend", base, "--target", "256", "-o", extended)
    before = json.loads((base / "config.json").read_text())
    after = json.loads((extended / "config.json").read_text())
    if model_type in PICTURES:
        assert before["vision_config"] == after["vision_config"]
        assert after["text_config"]["max_position_embeddings"] == 256
    ran("finetune", extended, "--data", book, "--seq-length", 256, "--steps", 2, "--lr", "1e-2",
        "--batch-size", 1, "--gradient-accumulation", 1, "-o", run)  # fmt: skip
    ran("merge", run / "adapter", "--base", extended, "--verify", "-o", merged)
    ids = torch.randint(3, 200, (1, 200))
    with torch.no_grad():
        plain = loaded(extended, model_type)(input_ids=ids).logits
        trained = loaded(merged, model_type)(input_ids=ids).logits
    assert not torch.allclose(plain, trained, atol=1e-4)
    measured = ran("eval-ppl", extended, merged, "--data", book, "--tokens", 600,
                   "--lengths", "128,256", "-o", tmp_path / "ppl", "--json")  # fmt: skip
    rows = json.loads(measured.stdout)["results"]
    assert {row["length"] for row in rows} == {128, 256}
    ran("eval-retrieval", merged, "--lengths", "256", "--samples", 1, "--depths", 0.5,
        "--tasks", "passkey", "--data", book, "-o", tmp_path / "retrieval")  # fmt: skip
