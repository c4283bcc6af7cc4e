"""Fine-tuning and evaluation on one GPU: tokens per second, and the peak beside what was planned.

    python tests/benchmarks/gpu.py                        (8 B parameters: an 80 GB card, 8 minutes)
    python tests/benchmarks/gpu.py --rows 0 1 --folder /dev/shm/bench
    python tests/benchmarks/gpu.py --small                (any card, or a CPU: half a minute)

The model has Llama 3.1 8B's sizes and random weights (so no loss is worth reading), in bfloat16;
rows with fewer layers measure a length at which all 32 would take too long: a step's memory beside
weights and parked layer inputs is one layer's. LoRA r=16 on q, k, v, o. Each row is a process of
its own that runs `ctxext.finetune` for two steps, or three, and is then asked to stop; speed is of
the fastest step but the first. The plan is `finetune --dry-run`'s for this card, without what the
driver takes. Prints Markdown, row by row, and a JSON line with all of it.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

LARGE = {
    "vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": 14_336,
    "num_attention_heads": 32, "num_key_value_heads": 8,
}  # fmt: skip
SMALL = {
    "vocab_size": 512, "hidden_size": 256, "intermediate_size": 704,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
SPARING = {"recompute": "all", "mlp_tile": 4096, "offload": "activations"}
# name, layers, length, recipe
TRAINED = [
    ("recompute auto", 32, 32_768, {"memory": {"recompute": "auto"}}),
    ("tiled, offloaded", 32, 131_072, {"memory": SPARING}),
    ("tiled, offloaded", 2, 524_288, {"memory": SPARING}),
    ("documents apart (flex)", 32, 32_768, {"data": {"documents": "separate"}}),
    ("compiled", 32, 32_768, {"train": {"compile": True}}),
    ("4bit", 32, 32_768, {"train": {"quantize": "4bit"}, "memory": {"mlp_tile": 8192}}),
]
READ = [("all at once", 32, 131_072, 0), ("prefill chunks of 8k", 32, 131_072, 8192)]


def build(folder, sizes, layers, window):
    """Save random weights and a byte tokenizer, once."""
    import torch
    import transformers

    sys.path.insert(0, str(Path(__file__).parents[1]))
    from support.checkpoints import write_byte_tokenizer

    if (folder / "tokenizer.json").exists():
        return
    config = transformers.LlamaConfig(
        **sizes, num_hidden_layers=layers, max_position_embeddings=window, head_dim=64,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
        pad_token_id=None, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    config.head_dim = sizes["hidden_size"] // sizes["num_attention_heads"]
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    write_byte_tokenizer(folder, window)


def write_text(path, tokens):
    """Words, a byte a token; in a .jsonl file, documents of 200 to 2000 of them, one a line."""
    rng = random.Random(0)
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 9))) for _ in range(4000)]
    with path.open("w") as file:
        while file.tell() < tokens:
            text = " ".join(rng.choices(words, k=rng.randint(200, 2000)))
            file.write((json.dumps({"text": text}) if path.suffix == ".jsonl" else text) + "\n")


def train(base, text, out, length, recipe, steps):
    import torch

    import ctxext
    from ctxext.runs.log import read_log

    settings = {
        "data": {"source": str(text), **recipe.get("data", {})},
        "train": {
            "seq_length": length, "steps": 1000, "save_every": 1000, "gradient_accumulation": 1,
            "warmup_steps": 0, **recipe.get("train", {}),
        },
        "memory": recipe.get("memory", {"recompute": "all", "mlp_tile": 8192}),
    }  # fmt: skip
    planned = ctxext.plan_finetune(str(base), recipe=settings)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()

    def stop(task, done, total, detail):
        log = out / "log.jsonl"
        if log.exists() and len(read_log(log)) >= steps and not asked:
            asked.append(True)
            os.kill(os.getpid(), signal.SIGTERM)

    asked = []
    made = ctxext.finetune(str(base), output_dir=out, recipe=settings, on_progress=stop)
    ends = [row.seconds for row in read_log(out / "log.jsonl")]
    steps = [after - before for before, after in pairwise(ends)]
    return {
        "tokens_per_second": length / min(steps),
        "seconds": steps,
        "peak": made.peak_memory_bytes,
        "planned": planned.memory.peak - planned.memory.runtime,
        "planned_tokens_per_second": planned.tokens / planned.seconds,
        "recomputed": planned.memory.recomputed,
        "longest": planned.longest,
        "host": planned.memory.host,
        "parts": planned.memory.parts(),
    }


def read(base, text, length, chunk):
    import ctxext
    from ctxext.machine.memory import peak_memory_bytes

    began = time.perf_counter()
    result = ctxext.perplexity(
        str(base), data=str(text), lengths=[length], protocol="disjoint", tokens=length + 2,
        prefill_chunk=chunk,
    )  # fmt: skip
    (row,) = [row for row in result.results if row.note is None]
    whole = time.perf_counter() - began
    return {
        "tokens_per_second": row.tokens / row.seconds, "whole_seconds": whole,
        "peak": peak_memory_bytes(),
    }  # fmt: skip


def gib(number):
    return f"{number / 2**30:.1f}" if number else "-"


def run_row(arguments, job):
    command = [sys.executable, __file__, "--job", json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stderr[-3000:], file=sys.stderr, flush=True)
        return {"failed": (done.stderr.strip().splitlines() or ["killed"])[-1]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="*", help="numbers of rows, from 0")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--job")
    arguments = parser.parse_args()
    if arguments.job:
        job = json.loads(arguments.job)
        work = {"train": train, "read": read}[job.pop("do")]
        paths = {key: Path(job.pop(key)) for key in ("base", "text", "out") if key in job}
        print(json.dumps(work(**paths, **job)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        everything(arguments, arguments.folder or Path(temporary))


def everything(arguments, folder):
    import torch

    sizes, divide = (SMALL, 64) if arguments.small else (LARGE, 1)
    folder.mkdir(parents=True, exist_ok=True)
    texts = {True: folder / "documents.jsonl", False: folder / "text.txt"}
    for text in texts.values():
        write_text(text, 4 * 524_288 // divide)
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(f"{name}, torch {torch.__version__}\n", flush=True)
    print("| what | layers | tokens in a row | tokens/s | planned | peak, GiB | planned, GiB |")
    print("|---|---|---|---|---|---|---|", flush=True)
    jobs = [("finetune, " + t[0], *t[1:]) for t in TRAINED] + [
        ("eval-ppl, " + r[0], *r[1:]) for r in READ
    ]
    measured = []
    for number, (what, layers, length, how) in enumerate(jobs):
        if arguments.rows and number not in arguments.rows:
            continue
        length //= divide
        layers = min(layers, 2) if arguments.small else layers
        base = folder / f"{layers}-layers"
        build(base, sizes, layers, 524_288 // divide)
        apart = isinstance(how, dict) and how.get("data", {}).get("documents") == "separate"
        job = {"base": str(base), "text": str(texts[apart]), "length": length}
        if isinstance(how, dict):
            out = folder / f"run-{number}"
            job |= {"do": "train", "out": str(out), "recipe": how, "steps": arguments.steps}
        else:
            job |= {"do": "read", "chunk": how // divide}
        began = time.perf_counter()
        row = run_row(arguments, job)
        measured.append({"what": what, "layers": layers, "length": length, **row,
                         "process_seconds": time.perf_counter() - began})  # fmt: skip
        if "failed" in row:
            print(f"| {what} | {layers} | {length} | {row['failed']} | | | |", flush=True)
            continue
        speed, planned = row["tokens_per_second"], row.get("planned_tokens_per_second")
        plan = f"{planned:,.0f}" if planned else "-"
        numbers = f"{speed:,.0f} | {plan} | {gib(row['peak'])} | {gib(row.get('planned'))}"
        print(f"| {what} | {layers} | {length} | {numbers} |", flush=True)
    print("\n" + json.dumps(measured), flush=True)


if __name__ == "__main__":
    main()
