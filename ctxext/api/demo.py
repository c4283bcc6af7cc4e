"""`ctxext demo`: the whole job on the checkpoint that ctxext carries."""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ctxext.api._arguments import checked
from ctxext.api.extend import extend
from ctxext.api.finetune import finetune
from ctxext.api.perplexity import perplexity
from ctxext.api.report import make_report
from ctxext.api.retrieval import retrieval
from ctxext.api.train_base import check_budget, shipped_base
from ctxext.checkpoints.folder import Source
from ctxext.checkpoints.live.load import load_model
from ctxext.checkpoints.live.quiet import quiet_transformers
from ctxext.checkpoints.live.tokenizer import load_tokenizer
from ctxext.checkpoints.opened import open_checkpoint
from ctxext.checkpoints.provenance import SCHEMA, command_line, versions, write_record
from ctxext.data.sources import Source as TextSource
from ctxext.data.tokens import TokenIds, tokenize
from ctxext.errors import CtxextError
from ctxext.progress import Progress, silent
from ctxext.report.charts.demo import plot_demo
from ctxext.runs.json_file import dump_measured
from ctxext.runs.output import check_output
from ctxext.runs.recipe.reader import override, read_recipe, shipped_recipe
from ctxext.runs.rows.demo import CopyRow, DemoResult, MergedCheck
from ctxext.runs.rows.perplexity import PositionRow
from ctxext.runs.rows.row import Windows

ORIGINAL, TARGET = 256, 2048
METHODS = ("linear", "ntk", "yarn")
TRAINED = ("linear", "yarn")
DISTANCES = (64, 128, 256, 512, 1024, 1536)
REPORTED = ("base", "yarn", "yarn+lora")  # collapsed, stable, used
LENGTHS = (256, 512, 1024, 2048)
HELDOUT = "builtin:python/heldout"
_READ, _DEPTHS, _SAMPLES = 40_000, (0.0, 0.5, 1.0), 8
_THRESHOLD = "own:0.75"  # 24 questions a length are too few to hold 85 % to
FULL_MINUTES = 3.0
_SAME = 1e-4  # merged and unmerged perplexity differ by float32 rounding only
_PRINTABLE = range(33, 127)


@checked
def demo(
    output_dir: str | Path,
    *,
    budget: float | None = None,
    overwrite: bool = False,
    seed: int = 0,
    on_progress: Progress = silent,
) -> DemoResult:
    """Run the whole main job on the embedded byte-level Llama: window 256, target 2048.

    The text it is measured on is the part of the built-in corpus that nothing was trained on.

    Args:
        output_dir: new folder: the extended checkpoints, the two runs, `demo.json`, `demo.png`,
            and the report on base, YaRN and YaRN + LoRA, `report.html`, with its two runs.
        budget: minutes on two cores, roughly: scales the fine-tuning steps. None = three.

    Raises:
        BadInput: the output folder cannot be used.
        CtxextError: the merged checkpoint is not the model that was trained.
    """
    began = time.monotonic()
    check_budget(budget)
    recipe = _recipe(budget or FULL_MINUTES, seed)
    out = Path(output_dir)
    check_output(out, overwrite=overwrite)
    base = shipped_base()
    out.mkdir(parents=True, exist_ok=True)
    _write_record(out)
    folders = {"base": base}
    for method in METHODS:
        folders[method] = out / method
        extend(
            str(base), method=method, target=TARGET, output_dir=folders[method],
            weights="copy", overwrite=True,
        )  # fmt: skip
    for method in TRAINED:
        run = out / f"{method}-lora"
        finetune(
            str(folders[method]), output_dir=run, overwrite=True, merge_dtype="float32",
            recipe=recipe,
            on_progress=lambda _, *rest, name=method: on_progress(f"{name} + LoRA", *rest),
        )  # fmt: skip
        folders[f"{method}+lora"] = run / "merged"

    documents = heldout(base)
    positions: list[PositionRow] = []
    copies: list[CopyRow] = []
    for done, (name, folder) in enumerate(folders.items(), start=1):
        rows, copied = measure(name, folder, documents, seed)
        positions += rows
        copies += copied
        on_progress("measure", done, len(folders), name)
    _evaluate(out, folders, seed, on_progress)
    difference = _merged_difference(out / "yarn", out / "yarn-lora", documents)
    result = DemoResult(
        output_dir=str(output_dir),
        window=Windows(original=ORIGINAL, target=TARGET),
        by_position=tuple(positions),
        copying=tuple(copies),
        merged_check=MergedCheck(max_relative_difference=difference),
        lora_steps=recipe["train"]["steps"],
        seconds=round(time.monotonic() - began, 1),
    )
    (out / "demo.json").write_text(dump_measured(result.to_dict()), encoding="utf-8")
    for suffix in ("png", "svg"):
        plot_demo(out / f"demo.{suffix}", positions, copies, original=ORIGINAL, target=TARGET)
    make_report([out], output=out / "report.html", overwrite=True)
    if not difference <= _SAME:
        raise CtxextError(
            f"the merged checkpoint's perplexity differs from base + adapter by {difference:.1e}"
        )
    return result


def _recipe(budget: float, seed: int) -> dict[str, Any]:
    """Read the shipped recipe, its steps scaled to the budget."""
    recipe = read_recipe(shipped_recipe("demo"))
    steps = max(1, round(recipe["train"]["steps"] * budget / FULL_MINUTES))
    return override(recipe, {"train.steps": steps, "train.seed": seed}, flag="demo")


def _evaluate(out: Path, folders: dict[str, Path], seed: int, on_progress: Progress) -> None:
    """Run both evaluations of three checkpoints side by side, as a user would."""
    models = [str(folders[name]) for name in REPORTED]
    perplexity(
        models, names=REPORTED, data=HELDOUT, lengths=LENGTHS, aligned=True, stride=TARGET,
        tokens=_READ, output_dir=out / "eval-ppl", overwrite=True, on_progress=on_progress,
    )  # fmt: skip
    retrieval(
        models, names=REPORTED, tasks=("copy", "passkey"), lengths=LENGTHS, depths=_DEPTHS,
        samples=_SAMPLES, seed=seed, threshold=_THRESHOLD, data=HELDOUT, overwrite=True,
        output_dir=out / "eval-retrieval", on_progress=on_progress,
    )  # fmt: skip


def heldout(base: Path) -> list[TokenIds]:
    """Give the first window of every held-out module that fills one."""
    tokenizer = load_tokenizer(Source(base, base.name))
    corpus = tokenize(TextSource(HELDOUT), tokenizer)
    return [d[:TARGET] for d in corpus.documents if len(d) >= TARGET]


def measure(
    name: str, folder: Path, documents: Sequence[TokenIds], seed: int
) -> tuple[list[PositionRow], list[CopyRow]]:
    from ctxext.evaluation.perplexity.blocks import Grid
    from ctxext.evaluation.perplexity.scores import by_position
    from ctxext.evaluation.reading.reading import Reading
    from ctxext.evaluation.reading.scoring import Scorer
    from ctxext.evaluation.retrieval.copying import copying

    opened = open_checkpoint(str(folder))
    model = load_model(opened.source, opened.position)
    grid = Grid.of(documents, TARGET, HELDOUT)
    rows = by_position(Reading(Scorer(model), name), documents, TARGET, grid=grid)
    # Bytes are tokens here, so the planted strings are printable bytes.
    copied = copying(
        model, documents, list(_PRINTABLE), length=TARGET, distances=DISTANCES, seed=seed, name=name
    )
    return rows, copied


def _merged_difference(extended: Path, run: Path, documents: Sequence[TokenIds]) -> float:
    """Give the largest relative difference of a perplexity: the merged folder in plain transformers
    against the extended base with the adapter put on by peft."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    from ctxext.evaluation.perplexity.scores import by_position
    from ctxext.evaluation.reading.reading import Reading
    from ctxext.evaluation.reading.scoring import Scorer

    few = list(documents[:4])
    with quiet_transformers():
        plain = AutoModelForCausalLM.from_pretrained(run / "merged", dtype=torch.float32).eval()
        live = AutoModelForCausalLM.from_pretrained(extended, dtype=torch.float32)
        adapted = peft.PeftModel.from_pretrained(live, run / "adapter").eval()
    merged = by_position(Reading(Scorer(plain)), few, TARGET)
    separate = by_position(Reading(Scorer(adapted.get_base_model())), few, TARGET)
    pairs = [(a.perplexity, b.perplexity) for a, b in zip(merged, separate, strict=True)]
    return max(abs(a - b) / b if a and b else math.inf for a, b in pairs)


def _write_record(out: Path) -> None:
    """Mark the folder as ours from the start, so that `--overwrite` may replace a broken run."""
    write_record(
        out,
        {"schema": SCHEMA, "kind": "demo", "versions": versions(), "command": command_line()},
    )
