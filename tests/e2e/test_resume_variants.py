"""SIGKILL and --resume for what is trained otherwise: the same losses and the same bytes."""

import json

import pytest

from support.checkpoints import build_tiny
from support.command import run_ctxext, start_ctxext
from support.runs import kill, wait_for

STEPS = 8
OPTIONS = [
    "--seq-length", "64", "--steps", str(STEPS), "--batch-size", "1", "--lr", "1e-3",
    "--gradient-accumulation", "1", "--save-every", "2", "--dtype", "float32", "--device", "cpu",
]  # fmt: skip
VARIANTS = {
    "dora-plus-rslora-s2": [
        "lora.dora=true", "lora.plus_ratio=8", "lora.rslora=true", "train.attention=s2",
        "lora.targets=all-linear", "lora.dropout=0.1", "lora.train_embeddings=true",
    ],
    "full": ["train.what=full", "train.weight_decay=0.1"],
}  # fmt: skip


def arguments(base, book, out, variant):
    sets = [part for word in VARIANTS[variant] for part in ("--set", word)]
    return ["finetune", base, "--data", book, *OPTIONS, *sets, "-o", out]


def losses(out):
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"], line["grad_norm"], line["lr"]) for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_killed_and_resumed(tmp_path, book, variant):
    base = build_tiny(tmp_path / "base", "qwen3", tied=True)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    done = run_ctxext(*arguments(base, book, whole, variant))
    assert done.returncode == 0, done.stderr
    assert ("lose retrieval" in done.stderr) == ("s2" in variant)
    process = start_ctxext(*arguments(base, book, cut, variant))
    wait_for(process, (cut / "checkpoints" / "step-2").exists)
    kill(process)
    done = run_ctxext(*arguments(base, book, cut, variant), "--resume")
    assert done.returncode == 0, done.stderr
    assert len(losses(cut)) == STEPS
    assert losses(cut) == losses(whole)
    compared = [p.relative_to(whole) for p in whole.glob("*/*.safetensors")]
    assert {str(path.parent) for path in compared} == (
        {"merged"} if variant == "full" else {"merged", "adapter"}
    )
    for path in compared:
        assert (whole / path).read_bytes() == (cut / path).read_bytes(), path
