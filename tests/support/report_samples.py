"""Run folders made by hand, in the documented JSON, for the tests of the report.

Three models on one text: `base` (window 256) collapses beyond it, `yarn` is stable and reads
nothing beyond, `lora` is stable and reads all but the middle of the longest.
"""

import hashlib
import json
import math

from support.lab_samples import lab_document

LENGTHS = (256, 512, 1024, 2048)
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
PERPLEXITY = {
    "base": (2.6, 4.7, 11.0, 31.0),
    "yarn": (3.1, 3.05, 3.0, 2.95),
    "lora": (2.7, 2.6, 2.5, 2.4),
}
SAMPLES = 40


def wilson(right, samples, z=1.96):
    """Low and high of the 95 % interval."""
    p, n = right / samples, samples
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()


def write_run(folder, kind, document=None, **record):
    folder.mkdir(parents=True)
    whole = {
        "schema": "ctxext.run/1",
        "kind": kind,
        "versions": {"ctxext": "0.1.0", "torch": "2.13.0"},
        "command": f"ctxext {kind} somewhere",
        **record,
    }
    (folder / "ctxext.json").write_text(json.dumps(whole))
    if document is not None:
        (folder / f"{kind}.json").write_text(json.dumps(document))
    return folder


def perplexity_document(names=None, **changes):
    """`names`: what the three models are called instead."""
    called = dict(zip(PERPLEXITY, names or PERPLEXITY, strict=True))
    rows, positions = [], []
    for model, values in PERPLEXITY.items():
        for length, value in zip(LENGTHS, values, strict=True):
            cell = {
                "perplexity": value,
                "nll": math.log(value),
                "stderr": 0.02,
                "tokens": 4000,
                "bits_per_byte": math.log2(value),
            }
            sha = {"config_sha256": sha256(model), "record_sha256": None, "window": 2048}
            rows.append({"model": called[model], "length": length, **cell, "seconds": 1.0, **sha})
            positions.append(
                {"model": called[model], "start": length // 2, "end": length, **cell}
            )  # fmt: skip
    return {
        "schema": "ctxext.eval-ppl/1",
        "data": {"source": "book.txt", "tokens": 60_000, "sha256": "ab" * 32},
        "protocol": "sliding",
        "stride": 256,
        "aligned": False,
        "results": rows,
        "by_position": positions,
        "window": 256,
        "key_tokens": {
            "reference": "lora", "context": 128, "block": 64, "gain": 2.0, "loss": 2.0,
            "results": [
                {"model": called[m], "length": n, "perplexity": PERPLEXITY[m][0] + i, "nll": 1.0,
                 "stderr": 0.1, "tokens": 500, "share": 0.042}
                for m in PERPLEXITY for i, n in enumerate(LENGTHS)
            ],
        },
        "failed": [],
        "warnings": [],
        **changes,
    }  # fmt: skip


def right_answers(model, length, depth):
    """Of SAMPLES: the base and yarn read up to 256, lora everything but the middle of 2048."""
    if model != "lora":
        return 39 if length <= 256 else 2
    return 8 if length == 2048 and depth == 0.5 else 38


def retrieval_document(names=None, tasks=("passkey", "copy"), **changes):
    called = dict(zip(PERPLEXITY, names or PERPLEXITY, strict=True))
    results, effective, middle = [], [], []
    for model in PERPLEXITY:
        for task in tasks:
            by_length = []
            for length in LENGTHS:
                total = 0
                for depth in DEPTHS:
                    right = right_answers(model, length, depth)
                    total += right
                    low, high = wilson(right, SAMPLES)
                    results.append(
                        {"model": called[model], "task": task, "length": length, "depth": depth,
                         "accuracy": right / SAMPLES, "low": low, "high": high, "samples": SAMPLES,
                         "choice": None, "choice_low": None, "choice_high": None, "chance": None,
                         "gain": 1.5, "gain_stderr": 0.1}
                    )  # fmt: skip
                samples = SAMPLES * len(DEPTHS)
                low, high = wilson(total, samples)
                by_length.append(
                    {"length": length, "accuracy": total / samples, "low": low, "high": high,
                     "samples": samples}
                )  # fmt: skip
            effective.append(
                {"model": called[model], "task": task, "threshold": 0.8, "own": None,
                 "effective_length": 2048 if model == "lora" else 256, "by_length": by_length}
            )  # fmt: skip
            middle.append(
                {"model": called[model], "task": task, "length": 2048, "difference": -0.75,
                 "middle": 0.2, "ends": 0.95, "low": -0.87, "high": -0.58, "lost": model == "lora"}
            )  # fmt: skip
    return {
        "schema": "ctxext.eval-retrieval/1",
        "data": {"source": "book.txt", "sha256": "ab" * 32},
        "score": "logprob",
        "seed": 0,
        "samples": SAMPLES,
        "threshold": 0.8,
        "tasks": list(tasks),
        "lengths": list(LENGTHS),
        "depths": list(DEPTHS),
        "window": 256,
        "results": results,
        "effective": effective,
        "middle": middle,
        "failed": [
            {"model": called["base"], "length": 4096, "task": tasks[0], "error": "no memory"}
        ],
        "warnings": ["text was short"],
        **changes,
    }


def harness_document(model, value):
    task = {"task": "arc_easy", "version": 1, "n_shot": 0, "metric": "acc", "filter": "none"}
    return {
        "schema": "ctxext.eval-harness/1",
        "model": model,
        "window": 2048,
        "harness_version": "0.4.9",
        "tasks": [{**task, "value": value, "stderr": 0.01, "samples": 500}],
        "warnings": [],
    }


def fertility_document(model="lora"):
    rows = [
        {"text": f"{name}.txt", "language": name, "characters": 1000, "bytes": 1000 * size,
         "words": None if name == "zh" else 200, "tokens": tokens, "unknown": unknown,
         "tokens_per_character": tokens / 1000, "tokens_per_byte": tokens / 1000 / size,
         "tokens_per_word": None if name == "zh" else tokens / 200,
         "against_reference": tokens / 300, "window_characters": 2048 * 1000 // tokens}
        for name, size, tokens, unknown in (("en", 1, 300, 0), ("de", 1, 450, 0), ("zh", 3, 900, 9))
    ]  # fmt: skip
    return {
        "schema": "ctxext.fertility/1", "model": model, "reference": "en", "window": 2048,
        "results": rows, "warnings": [],
    }  # fmt: skip


CONFIG_DIFF = {
    "max_position_embeddings": [256, 2048],
    "rope_parameters": [
        {"rope_theta": 10000.0, "rope_type": "default"},
        {"rope_theta": 10000.0, "rope_type": "yarn", "factor": 8.0},
    ],
}


def every_kind(root, names=None):
    """A folder of each kind; the list of them."""
    made = [
        write_run(root / "eval", "eval-ppl", perplexity_document(names)),
        write_run(root / "retrieval", "eval-retrieval", retrieval_document(names)),
        write_run(root / "arc-base", "eval-harness", harness_document("base", 0.40)),
        write_run(root / "arc-lora", "eval-harness", harness_document("lora", 0.41)),
        write_run(root / "fertility", "fertility", fertility_document()),
        write_run(
            root / "yarn", "extend", method="yarn", window={"original": 256, "target": 2048},
            base={"id": "base", "config_sha256": sha256("base")}, config_diff=CONFIG_DIFF,
        ),
    ]  # fmt: skip
    training = {"steps": 30, "tokens": 30 * 4096, "final_loss": 1.0}
    run = write_run(root / "lora", "finetune", config_diff=CONFIG_DIFF, training=training)
    with (run / "log.jsonl").open("w") as file:
        for step in range(1, 31):
            line = {"step": step, "loss": 1 + 1 / step, "grad_norm": 0.5, "lr": 1e-3}
            file.write(json.dumps({**line, "tokens": 4096 * step, "tokens_per_second": 3e3}) + "\n")
    return [*made, run]


# One of each kind, for readers.
DOCUMENTS = {
    "eval-ppl": perplexity_document(),
    "eval-retrieval": retrieval_document(tasks=("copy",)),
    "eval-harness": harness_document("lora", 0.4),
    "fertility": fertility_document(),
    "demo": {
        "schema": "ctxext.demo/1",
        "window": {"original": 256, "target": 2048},
        "by_position": perplexity_document()["by_position"],
        "copying": [{"model": "base", "distance": n, "accuracy": 0.5} for n in (64, 128)],
    },
    "lab": lab_document(),
}
