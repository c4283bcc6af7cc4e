"""What the static commands cost as whole processes, side by side with the usual ways.

    python tests/benchmarks/static.py            (about two minutes; 2 GiB of disk)

Start-up against importing torch and transformers; `extend` against load + save_pretrained; `merge`
against peft's merge_and_unload + save_pretrained. CPU seconds are user + system time of the
process, the least of several runs: steadier than wall time on a shared machine. Prints Markdown.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

CTXEXT = [sys.executable, "-m", "ctxext"]
LOAD_SAVE = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
model.config.max_position_embeddings = 32768
model.config.rope_parameters = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0,
    "original_max_position_embeddings": 8192}
model.save_pretrained(sys.argv[2])
"""
PEFT_MERGE = """
import sys
from peft import PeftModel
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
PeftModel.from_pretrained(model, sys.argv[2]).merge_and_unload().save_pretrained(sys.argv[3])
"""


@dataclass(frozen=True)
class Cost:
    cpu_seconds: float
    wall_seconds: float
    peak_mib: float


def cost(command, runs, clean=None):
    """The least of several runs of a command, by the operating system's own accounting."""
    best = None
    for _ in range(runs):
        if clean is not None:
            shutil.rmtree(clean, ignore_errors=True)
        began = os.times().elapsed
        process = subprocess.Popen(
            [str(c) for c in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"failed: {command}")
        now = Cost(
            usage.ru_utime + usage.ru_stime, os.times().elapsed - began, usage.ru_maxrss / 1024
        )
        if best is None or now.cpu_seconds < best.cpu_seconds:
            best = now
    return best


def make_checkpoint(folder, hidden, layers, window=8192):
    """A random bfloat16 Llama in shards of 200 MB, with a byte tokenizer."""
    code = """
import sys, torch, transformers
hidden, layers, folder, window = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
config = transformers.LlamaConfig(vocab_size=32000, hidden_size=hidden, intermediate_size=hidden*3,
    num_hidden_layers=layers, num_attention_heads=16, num_key_value_heads=4,
    max_position_embeddings=window, rope_parameters={"rope_type": "default", "rope_theta": 1e4})
model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
model.save_pretrained(folder, max_shard_size="200MB")
import peft
torch.manual_seed(0)
lora = peft.get_peft_model(model, peft.LoraConfig(r=16, target_modules=["q_proj", "v_proj"]))
for p in lora.parameters():
    if p.requires_grad: p.data.normal_(std=0.02)
lora.save_pretrained(folder + "-adapter")
"""
    subprocess.run(
        [sys.executable, "-c", code, str(hidden), str(layers), str(folder), str(window)],
        check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def row(name, got):
    print(
        f"| {name} | {got.cpu_seconds:.2f} | {got.wall_seconds:.2f} | {got.peak_mib:.0f} |",
        flush=True,
    )


def main():
    root = Path(tempfile.mkdtemp(prefix="ctxext-bench-"))
    try:
        print("| command | cpu s | wall s | peak MiB |\n| --- | --- | --- | --- |")
        row("`ctxext --help`", cost([*CTXEXT, "--help"], 5))
        both = [sys.executable, "-c", "import torch, transformers"]
        row("`import torch, transformers`", cost(both, 5))
        for name, hidden, layers in (("88 MiB", 512, 4), ("1.0 GiB", 2048, 10)):
            base, out = root / f"base-{hidden}", root / "out"
            make_checkpoint(base, hidden, layers)
            command = [*CTXEXT, "extend", base, "--target", "32k", "-o", out]
            row(f"`ctxext extend`, {name}", cost(command, 3, out))
            save = [sys.executable, "-c", LOAD_SAVE, base, out]
            row(f"load + save_pretrained, {name}", cost(save, 2, out))
            adapter = f"{base}-adapter"
            command = [*CTXEXT, "merge", adapter, "--base", base, "-o", out]
            row(f"`ctxext merge`, {name}", cost(command, 3, out))
            peft = [sys.executable, "-c", PEFT_MERGE, base, adapter, out]
            row(f"peft merge + save_pretrained, {name}", cost(peft, 2, out))
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
