"""The list `stages` of a recipe: one run in parts, each at a window of its own.

A stage is a training run in `OUT/stages/N`, begun from what the stage before has trained. What the
last one leaves is lifted to `OUT`, where a run without stages leaves it.
"""

import copy
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ctxext.checkpoints.provenance import read_record
from ctxext.checkpoints.weights.carry import link_or_copy, listing
from ctxext.checkpoints.weights.safetensors_file import printable
from ctxext.choices import suggestion
from ctxext.errors import BadInput, shown
from ctxext.runs.build import as_section, build
from ctxext.runs.log import log_text, read_log
from ctxext.runs.output import beside, write_file
from ctxext.runs.recipe.config import DataConfig, FinetuneConfig, ParallelConfig, TrainConfig
from ctxext.runs.recipe.extend_config import ExtendConfig
from ctxext.runs.recipe.memory_config import MemoryConfig
from ctxext.runs.recipe.reader import ALTERNATIVES
from ctxext.runs.recipe.validation_config import ValidationConfig
from ctxext.runs.rows.record import RunRecord, Training
from ctxext.runs.rows.training import StepRow

STAGES = "stages"
EXTENDED = "extended"
LOG = "log.jsonl"
_SECTIONS: dict[str, type[Any]] = {
    "extend": ExtendConfig,
    "data": DataConfig,
    "train": TrainConfig,
    "memory": MemoryConfig,
    "parallel": ParallelConfig,
    "validation": ValidationConfig,
}
_FIXED = ("what", "quantize", "seed")  # of section train: the same in all stages


@dataclass(frozen=True)
class Stage:
    """A stage, or the whole of a run without stages.

    Attributes:
        config: with everything filled in.
        index: its place in the list, from 0; None = the run has no stages.
    """

    config: FinetuneConfig
    folder: Path
    index: int | None = None

    @property
    def name(self) -> str:
        """`stages[0]`, as its keys are called in messages."""
        return "" if self.index is None else f"{STAGES}[{self.index}]"


def stages_of(recipe: FinetuneConfig | Mapping[str, Any], out: Path) -> tuple[Stage, ...]:
    """Read the stages of a recipe, in order; a recipe without has one, in `out` itself.

    Raises:
        BadInput: as `build`, and as the list `stages` may be wrong; the stage is named.
    """
    if isinstance(recipe, FinetuneConfig):  # made in Python: its values are still to be checked
        recipe = recipe.to_dict()
    top = {key: as_section(key, value) for key, value in recipe.items() if key != STAGES}
    config = build(FinetuneConfig, top, where="recipe")
    if STAGES not in recipe:
        return (Stage(config, out),)
    entries = recipe[STAGES]
    if not isinstance(entries, list) or not entries:
        raise BadInput(
            f"{STAGES} has to be a list of at least one stage, and is {shown(entries)}",
            "leave it out to train in one go",
        )
    return tuple(
        Stage(_stage_config(top, entry, f"{STAGES}[{index}]"), out / STAGES / f"{index + 1}", index)
        for index, entry in enumerate(entries)
    )


def _stage_config(top: Mapping[str, Any], entry: Any, where: str) -> FinetuneConfig:
    """Lay the sections of one stage over those at the top of the recipe."""
    if not isinstance(entry, Mapping):
        raise BadInput(f"{where} has to be sections with keys, and is {shown(entry)}")
    values = dict(top)
    for section, given in entry.items():
        if section == "lora":
            raise BadInput(
                f"{where}.lora: what is trained stays the same in all stages",
                "write the section at the top of the recipe",
            )
        if section not in _SECTIONS:
            raise _unknown(f"{where}.{printable(section)}", section, list(_SECTIONS))
        if section == "extend" and given is None:
            values["extend"] = None
            continue
        keys = as_section(section, given)
        if not isinstance(keys, Mapping):
            raise BadInput(f"{where}.{section} has to be a section with keys, and is {shown(keys)}")
        known = [field.name for field in fields(_SECTIONS[section])]
        for key in keys:
            if key not in known:
                raise _unknown(f"{where}.{section}.{printable(key)}", key, known)
            if section == "train" and key in _FIXED:
                raise BadInput(
                    f"{where}.train.{key} is set, and stays the same in all stages",
                    f"write train.{key} at the top of the recipe",
                )
        values[section] = _laid_over(section, values.get(section) or {}, keys)
    with named(where):
        return build(FinetuneConfig, values, where=where)


def _unknown(path: str, key: str, known: Sequence[str]) -> BadInput:
    return BadInput(f"{path} is no key of a recipe's stage", suggestion(key, known))


def _laid_over(section: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Lay a stage's keys over a section at the top.

    A key takes the place of the one that says the same in another way, and a method does not
    inherit the parameters of another.
    """
    kept = dict(old)
    for key, value in new.items():
        other = ALTERNATIVES.get(f"{section}.{key}")
        if other is not None and value:
            kept.pop(other, None)
    default = ExtendConfig.method
    changed = new.get("method", old.get("method", default)) != old.get("method", default)
    if section == "extend" and changed:
        kept.pop("parameters", None)
    return {**kept, **new}


@contextmanager
def named(stage: str) -> Iterator[None]:
    """Say in a message of which stage it is, unless it says so by itself."""
    try:
        yield
    except BadInput as error:
        if not stage or str(error).startswith(stage):
            raise
        raise BadInput(f"{stage}: {error}", error.hint) from error


def whole_recipe(configs: Sequence[Mapping[str, Any]], *, staged: bool) -> dict[str, Any]:
    """Compose the recipe of a run, which read again gives the same stages.

    Args:
        configs: of each stage, as `FinetuneConfig.to_dict` gives it. What a stage may not say, and
            what a reader who knows of no stages finds, is the last one's.
        staged: False = there is one, and it is the recipe.
    """
    last = dict(configs[-1])
    if not staged:
        return last
    entries = []
    for config in configs:
        entry = {key: value for key, value in config.items() if key in _SECTIONS}
        if "extend" in last and "extend" not in entry:
            entry = {"extend": None, **entry}
        if "validation" in last and "validation" not in entry:
            entry["validation"] = asdict(ValidationConfig())  # none, which it would else inherit
        entry["train"] = {k: v for k, v in config["train"].items() if k not in _FIXED}
        entries.append(copy.deepcopy(entry))  # what is shared YAML would write as aliases
    return {**last, STAGES: entries}


def to_compare(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out of a `whole_recipe` what its stages say once more."""
    if STAGES not in recipe:
        return dict(recipe)
    fixed = {key: recipe["train"][key] for key in _FIXED}
    return {"lora": recipe["lora"], "train": fixed, STAGES: recipe[STAGES]}


def is_complete(stage: Stage) -> bool:
    """Tell whether a stage of a list ran to its last step, and what it leaves is written."""
    if stage.index is None:
        return False  # a run without stages looks at its own checkpoint
    record = read_record(stage.folder)
    done = record.training if record is not None else None
    return done is not None and done.steps == stage.config.train.steps


def read_summary(stage: Stage) -> dict[str, Any]:
    """Read steps, tokens and loss of a complete stage from its record."""
    record = read_record(stage.folder) or RunRecord()
    done = record.training or Training(steps=0, tokens=0)
    return {"steps": done.steps, "tokens": done.tokens, "final_loss": done.final_loss}


def trained_path(stage: Stage) -> Path:
    """Return the file with the tensors that a complete stage has trained: its last, or its best."""
    from ctxext.training.run.state import best_file, trained_file

    if stage.config.validation.keep_best:
        return best_file(stage.folder)
    return trained_file(stage.folder, stage.config.train.steps)


def joined_log(stages: Sequence[Stage]) -> list[StepRow]:
    """Join the lines of all stages begun, `step` and `tokens` counted on, with the stage's number.

    A run without stages has its own lines, as they are.
    """
    if stages[0].index is None:
        return read_log(stages[0].folder / LOG)

    lines: list[StepRow] = []
    for number, stage in enumerate(stages, start=1):
        lines = counted_on(lines, number, read_log(stage.folder / LOG))
    return lines


def counted_on(before: Sequence[StepRow], number: int, lines: Sequence[StepRow]) -> list[StepRow]:
    """Add a stage's lines to those of the stages before, `step` and `tokens` counted on."""
    steps, tokens = (before[-1].step, before[-1].tokens) if before else (0, 0)
    return [
        *before,
        *(
            replace(line, step=steps + line.step, tokens=tokens + line.tokens, stage=number)
            for line in lines
        ),
    ]


def lift(last: Stage, out: Path) -> None:
    """Put what the last stage leaves where a run without stages leaves it; files are linked."""
    for name in ("adapter", EXTENDED):
        shutil.rmtree(out / name, ignore_errors=True)
        if (last.folder / name).is_dir():
            _link_tree(last.folder / name, out / name)


def write_log(out: Path, log: Sequence[StepRow]) -> None:
    """Write `OUT/log.jsonl` of a run with stages, in one step."""
    write_file(out / LOG, log_text(log))


def drop_checkpoints(stages: Sequence[Stage]) -> None:
    """Remove what only a resumed run needs."""
    for stage in stages:
        shutil.rmtree(stage.folder / "checkpoints", ignore_errors=True)


def _link_tree(source: Path, target: Path) -> None:
    with beside(target) as staging:
        for name in listing(source):
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(source / name, staging / name, "auto")
