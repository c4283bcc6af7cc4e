"""Methods at equal steps: linear, NTK and YaRN on the demo's base, 8 times its window.

    python tests/benchmarks/methods.py                     (about eight minutes on two cores)
    python tests/benchmarks/methods.py --steps 60,300

Each fine-tuned with `recipes/demo.yaml` (LoRA r=16, rows of 2048), with and without norms trained,
and measured on held-out modules: perplexity in the window and at its eightfold, and the share of a
planted string that is copied from 1024 tokens back. Prints Markdown.
"""

import argparse
import tempfile
from pathlib import Path

from ctxext.api.demo import TARGET, heldout, measure
from ctxext.api.extend import extend
from ctxext.api.finetune import finetune
from ctxext.api.train_base import shipped_base
from ctxext.lengths import show_length
from ctxext.runs.recipe.reader import override, read_recipe, shipped_recipe


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", default="linear,ntk,yarn")
    parser.add_argument("--steps", default="60")
    given = parser.parse_args()
    base = shipped_base()
    documents = heldout(base)
    buckets = None
    with tempfile.TemporaryDirectory() as folder:
        for steps in map(int, given.steps.split(",")):
            for method in given.methods.split(","):
                extended = Path(folder) / method
                extend(str(base), method=method, target=TARGET, output_dir=extended, overwrite=True)
                for norms in (False, True):
                    run = Path(folder) / "run"
                    changes = {
                        "lora.train_norms": norms,
                        "train.steps": steps,
                        "train.save_every": steps,
                    }
                    recipe = override(read_recipe(shipped_recipe("demo")), changes, flag="bench")
                    trained = finetune(
                        str(extended), output_dir=run, recipe=recipe, overwrite=True,
                        merge_dtype="float32",
                    )  # fmt: skip
                    rows, copied = measure(method, run / "merged", documents, 0)
                    if buckets is None:
                        buckets = [(row.start, row.end) for row in rows]
                        spans = [f"{show_length(a)}-{show_length(b)}" for a, b in buckets]
                        head = ["method", "norms trained", "steps", "last loss", *spans]
                        print("| " + " | ".join([*head, "copied from 1024 back"]) + " |")
                        print("|" + " --- |" * (len(head) + 1))
                    far = next(row for row in copied if row.distance == 1024)
                    cells = [
                        method, "yes" if norms else "no", str(steps), f"{trained.final_loss:.3f}",
                        *(f"{row.perplexity:.2f}" for row in rows), f"{far.accuracy:.0%}",
                    ]  # fmt: skip
                    print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
