"""How a learned table is best extended: a GPT-2 of a few minutes, read at four times its window.

    python tests/benchmarks/gpt2.py -o runs/gpt2          (seven minutes of two cores)

Trains the laboratory's decoder with a learned table in GPT-2's block at 64 tokens, writes it as
transformers' own GPT-2, extends it by every method for tables, fine-tunes (new rows alone, and
LoRA), and measures perplexity in and past the trained window on text that nothing was trained on.
Equal tokens of LoRA at the base's own window say what more training alone does.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

import ctxext
from ctxext.api.demo import HELDOUT
from ctxext.lab.convert import to_gpt2
from ctxext.lab.saved import save_decoder
from ctxext.lab.setting import PRESETS
from ctxext.lab.short_training import train_decoder

WINDOW, TARGET = 64, 256
TOKENS = 2048  # of a step
METHODS = ("interpolate", "tile", "group")
TRAINED = ("position-rows", "lora", "full")


def base_of(folder: Path, steps: int) -> Path:
    setting = replace(PRESETS["train-short-test-long"], block="gpt2", train_length=WINDOW)
    model, loss = train_decoder(setting, "learned", 0, steps)
    save_decoder(to_gpt2(model), folder)
    print(f"base: {steps} steps, loss {loss:.3f}")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output-dir", type=Path, default=Path("runs/gpt2"))
    parser.add_argument("--base-steps", type=int, default=12_000)
    parser.add_argument("--steps", type=int, default=300)
    given = parser.parse_args()
    torch.set_num_threads(2)
    out: Path = given.output_dir
    models = {"base": base_of(out / "base", given.base_steps)}
    for method in METHODS:
        models[method] = out / method
        ctxext.extend(
            str(out / "base"), method=method, target=TARGET, output_dir=models[method],
            overwrite=True,
        )  # fmt: skip
    runs = [
        ("base", "lora", WINDOW),
        *(("interpolate", what, TARGET) for what in TRAINED),
        ("tile", "position-rows", TARGET),
    ]
    for method, what, length in runs:
        run = out / f"{method}-{what}"
        recipe = {
            "data": {"source": "builtin:python"},
            "train": {
                "what": what, "seq_length": length, "steps": given.steps,
                "batch_size": TOKENS // length, "gradient_accumulation": 1, "lr": 2e-3,
            },
        }  # fmt: skip
        ctxext.finetune(str(models[method]), output_dir=run, recipe=recipe, overwrite=True)
        models[f"{method} + {what}"] = run / "merged"
    measured = ctxext.perplexity(
        [str(folder) for folder in models.values()], names=list(models), data=HELDOUT,
        lengths=(WINDOW, TARGET), protocol="disjoint", tokens=60_000,
    )  # fmt: skip
    by_place = {(row.model, row.length): row for row in measured.results}
    short = by_place["base", WINDOW].perplexity
    print("| model | 64 | 256 | 256 against the base's 64 |\n| --- | --- | --- | --- |")
    for name in models:
        near, far = (by_place.get((name, length)) for length in (WINDOW, TARGET))
        shown = [f"{row.perplexity:.3f}" if row else "–" for row in (near, far)]
        change = f"{far.perplexity / short - 1:+.1%}" if far else "no row"
        print(f"| {name} | {shown[0]} | {shown[1]} | {change} |")


if __name__ == "__main__":
    main()
