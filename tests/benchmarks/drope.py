"""DroPE against YaRN at equal tokens: the demo's base (window 256) read at 8 times its window.

    python tests/benchmarks/drope.py                       (about ten minutes of one core)
    python tests/benchmarks/drope.py --steps 1200 --device cuda

Three runs of all weights on the built-in corpus with planted repeats, 4096 tokens a step:

* YaRN at the window: rows of 256, so that no position past it is ever trained
* YaRN at the long length: rows of 2048
* DroPE: no pair turns, rows of 256; then read as it is, and with the temperature that `extend
  --method temperature --calibrate` finds on the parts of held-out modules that are not measured

Prints Markdown: perplexity by position on held-out modules, the share of a planted string that is
copied from so many tokens back, and the grid of temperatures.
"""

import argparse
import tempfile
import time
from pathlib import Path

from ctxext.api.demo import ORIGINAL, TARGET, heldout, measure
from ctxext.api.extend import extend
from ctxext.api.finetune import finetune
from ctxext.api.train_base import shipped_base
from ctxext.data.builtin import python_sources
from ctxext.lengths import show_length

TOKENS = 4096  # of a step
FAR = (64, 256, 1024)


def train(folder, out, *, steps, length, device):
    rows = TOKENS // length
    recipe = {
        "data": {"source": "builtin:python/repeats"},
        "train": {
            "what": "full", "seq_length": length, "steps": steps, "batch_size": rows,
            "gradient_accumulation": 1, "lr": 1e-3, "warmup_steps": max(1, steps // 20),
            "gradient_checkpointing": False, "save_every": steps,
        },
    }  # fmt: skip
    finetune(str(folder), output_dir=out, recipe=recipe, merge_dtype="float32", device=device)
    return out / "merged"


def unmeasured(folder):
    """What follows the measured window in every held-out module that is long enough."""
    folder.mkdir()
    for number, (_, text) in enumerate(python_sources(held_out=True)):
        if len(text.encode()) >= 2 * TARGET:
            (folder / f"{number}.txt").write_bytes(text.encode()[TARGET:])
    return folder


def line(name, documents, folder, seconds, spans):
    rows, copied = measure(name, folder, documents, 0)
    if not spans:
        spans += [f"{show_length(row.start)}-{show_length(row.end)}" for row in rows]
        head = ["model", *spans, *(f"{distance} back" for distance in FAR), "training, s"]
        print("| " + " | ".join(head) + " |\n|" + " --- |" * len(head))
    shares = [next(c for c in copied if c.distance == distance) for distance in FAR]
    cells = [
        name, *(f"{row.perplexity:.3g}" for row in rows),
        *(f"{each.accuracy:.0%}" for each in shares), f"{seconds:.0f}" if seconds else "",
    ]  # fmt: skip
    print("| " + " | ".join(cells) + " |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    steps, device = given.steps, given.device
    base, spans = shipped_base(), []
    documents = heldout(base)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        yarn, dropped = root / "yarn", root / "dropped"
        extend(str(base), method="yarn", target=TARGET, output_dir=yarn)
        extend(str(base), method="drop", factor=1.0, output_dir=dropped)
        line("base", documents, base, None, spans)
        line("YaRN, untrained", documents, yarn, None, spans)
        runs = {
            "YaRN, trained at 256": (yarn, ORIGINAL),
            "YaRN, trained at 2048": (yarn, TARGET),
            "DroPE, trained at 256": (dropped, ORIGINAL),
        }
        merged = {}
        for number, (name, (folder, length)) in enumerate(runs.items()):
            began = time.monotonic()
            merged[name] = train(
                folder, root / f"run{number}", steps=steps, length=length, device=device
            )  # fmt: skip
            line(name, documents, merged[name], time.monotonic() - began, spans)
        sharpened = extend(
            str(merged["DroPE, trained at 256"]), method="temperature", target=TARGET,
            calibrate=str(unmeasured(root / "text")), output_dir=root / "sharp",
        )  # fmt: skip
        c = sharpened.parameters["c"]
        line(f"DroPE, c {c:g} (calibrated)", documents, root / "sharp", None, spans)
        for other in (0.1, 0.2):
            out = root / f"sharp{other}"
            extend(
                str(merged["DroPE, trained at 256"]), method="temperature", target=TARGET,
                parameters={"c": other}, output_dir=out,
            )  # fmt: skip
            line(f"DroPE, c {other:g}", documents, out, None, spans)
        print("\n| c | perplexity of the calibration text at 2048 |\n| --- | --- |")
        for row in sharpened.calibration:
            print(f"| {row.c:g} | {row.perplexity:.4g} |")


if __name__ == "__main__":
    main()
