"""`ctxext eval-harness`: lm-evaluation-harness as it is, called with the right window."""

import contextlib
import importlib.metadata
import importlib.util
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from ctxext.api._arguments import checked, maybe_tokens, several, several_lengths
from ctxext.checkpoints.config.dtype import DtypeWord, check_dtype
from ctxext.checkpoints.folder import CONFIG, Source
from ctxext.checkpoints.live.load import pick_device
from ctxext.checkpoints.live.quiet import quiet_transformers
from ctxext.checkpoints.opened import Opened
from ctxext.checkpoints.provenance import SCHEMA, command_line, versions, write_record
from ctxext.encodings.kinds import ROTARY
from ctxext.errors import BadInput, CtxextError, is_out_of_memory
from ctxext.evaluation.harness.results import publishable, rows_of
from ctxext.evaluation.harness.tasks import Tasks, unreachable, words
from ctxext.evaluation.session import Loading
from ctxext.progress import Progress, silent
from ctxext.runs.json_file import dump_json, read_json_object
from ctxext.runs.output import staged_folder, write_file
from ctxext.runs.rows.harness import HarnessResult

KIND = "eval-harness"
DOCUMENT = f"{KIND}.json"
FULL = "harness.json"
"""The harness's own results beside it."""
OLDEST = "0.4.13"
"""Of lm-eval: before, RULER never ends at short lengths."""
SEEDS = (0, 1234, 1234, 1234)
"""The harness's own, of Python's random, numpy, torch and the few-shot sampler."""
_EXPECTED = (  # said for every run, or by us in better words
    "ype `str`", "already-initialized", "runcat", "Custom kwargs", "using default",
    "No aggregation function",
)  # fmt: skip
# Each of RULER's lengths is a metric: they are meant to count documents of their own.
_LENGTHS_APART: Final = re.compile(r"same number of documents \(\d+,\w+=\d+(, \d+,\w+=\d+)*\)")


@checked
def harness(
    model: str,
    *,
    tasks: str | Sequence[str],
    lengths: int | str | Sequence[int | str] = (),
    max_length: int | str | None = None,
    num_fewshot: int | None = None,
    limit: int | None = None,
    batch_size: int = 1,
    include_path: str | Path | None = None,
    seed: int | None = None,
    output_dir: str | Path | None = None,
    overwrite: bool = False,
    revision: str | None = None,
    tokenizer: str | None = None,
    dtype: DtypeWord = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    on_progress: Progress = silent,
) -> HarnessResult:
    """Run tasks of lm-evaluation-harness on a checkpoint, in the window that it claims to read.

    Args:
        model: a checkpoint.
        tasks: the harness's names of tasks, groups and tags; `mmlu_*` stands for all that match.
        lengths: tokens, for tasks that make their documents at lengths (RULER); none = the window.
        max_length: tokens, prompt and answer together; None = the window, also where only the
            scaling factor says it (dynamic).
        num_fewshot: examples in the prompt; None = as the task says.
        limit: documents of each task, and of each of its lengths; None = all.
        batch_size: requests that are read together.
        include_path: folder with YAML files of further tasks.
        seed: of everything random; None = the harness's own seeds.
        tokenizer: folder or repository whose tokenizer is used; None = the checkpoint's own.
        output_dir: gets `eval-harness.json`, `harness.json` and `ctxext.json`.

    Raises:
        BadInput: anything the user can mend, the harness not being installed included.
        CtxextError: a task's data cannot be had, out of memory, the model returned NaN.
    """
    tasks, lengths = several(tasks, commas=True), several_lengths(lengths, "lengths")
    longest = maybe_tokens(max_length, "max_length")
    _check(tasks, num_fewshot, limit, batch_size, include_path)
    _require_harness()
    loading = Loading(revision, tokenizer, check_dtype(dtype), device, trust_remote_code)
    checkpoint = loading.open(model)
    window = _window(checkpoint, longest, lengths)
    seeds = SEEDS if seed is None else (seed,) * 4
    with contextlib.ExitStack() as held:
        folder = None
        if output_dir is not None:
            folder = held.enter_context(
                staged_folder(
                    Path(output_dir), overwrite=overwrite, inputs=(checkpoint.source.folder,),
                    may_lie_inside=True,
                )
            )  # fmt: skip
        said = held.enter_context(_kept_quiet())
        _set_seeds(seeds)
        loading.check_weights(checkpoint)
        encoder = loading.tokenizer_of(checkpoint)
        pick_device(device)  # a wrong one is said before texts are fetched
        loaded = _tasks(tasks, include_path, lengths, window, checkpoint, loading, on_progress)
        loaded.configure(num_fewshot, seeds[3])
        from ctxext.evaluation.harness.model import Windowed

        notes: list[str] = []
        reader = Windowed(
            loading.load(checkpoint, on_note=notes.append), encoder, window=window,
            batch_size=batch_size, name=checkpoint.source.name, on_progress=on_progress,
        )  # fmt: skip
        full = _evaluate(reader, loaded, limit)
        cut = Counter(task for task, _ in reader.cut)
        result = HarnessResult(
            model=checkpoint.source.name,
            window=window,
            original_window=checkpoint.position.trained_tokens,
            harness_version=importlib.metadata.version("lm_eval"),
            tasks=tuple(rows_of(full, at_length=loaded.at_lengths(limit), cut=cut)),
            lengths=tuple(lengths or (window,)) if loaded.at_lengths() else (),
            num_fewshot=num_fewshot,
            limit=limit,
            batch_size=batch_size,
            seeds=seeds,
            warnings=(
                *checkpoint.warnings, *notes, *_warnings(checkpoint, reader, cut, full), *said()
            ),
            output_dir=str(output_dir) if output_dir is not None else None,
            checkpoint=checkpoint.identity,
            tokenizer=checkpoint.tokenizer.name if checkpoint.tokenizer else None,
        )  # fmt: skip
        if folder is not None:
            _write(folder, result, full, _folders(checkpoint.source, include_path))
    return result


def _tasks(
    names: Sequence[str],
    include_path: str | Path | None,
    lengths: Sequence[int],
    window: int,
    checkpoint: Opened,
    loading: Loading,
    on_progress: Progress,
) -> Tasks:
    """Load the harness's tasks, at lengths where they are made at lengths."""
    tasks = Tasks.load(
        names, include_path, lengths or (window,),
        tokenizer=_readable_by_tasks(checkpoint.tokens_from, loading.trust_remote_code),
        on_progress=on_progress,
    )  # fmt: skip
    if lengths and not tasks.at_lengths():
        raise BadInput(
            "--lengths is given, and none of --tasks makes its documents at lengths",
            "leave it out; RULER's tasks do",
        )
    return tasks


def _check(
    tasks: Sequence[str],
    num_fewshot: int | None,
    limit: int | None,
    batch_size: int,
    include_path: str | Path | None,
) -> None:
    if not [task for task in tasks if task.strip()]:
        raise BadInput("--tasks names no task", "e.g. --tasks hellaswag,niah_single_1")
    if num_fewshot is not None and num_fewshot < 0:
        raise BadInput(f"--num-fewshot is {num_fewshot}, and has to be 0 or more")
    if limit is not None and limit < 1:
        raise BadInput(f"--limit is {limit}, and has to be at least 1")
    if batch_size < 1:
        raise BadInput(f"--batch-size is {batch_size}, and has to be at least 1")
    if include_path is not None and not Path(include_path).is_dir():
        raise BadInput(f"--include-path {include_path} is no folder")
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise BadInput(
            "eval-harness runs as one process, and a launcher started several",
            "run `ctxext eval-harness` by itself",
        )


def _require_harness() -> None:
    """Check that lm-eval can be called.

    Raises:
        BadInput: it is not installed, or too old.
    """
    hint = "pip install 'ctxext[harness]'"
    if importlib.util.find_spec("lm_eval") is None:
        raise BadInput("eval-harness needs lm-evaluation-harness, which is not installed", hint)
    from packaging.version import Version

    installed = importlib.metadata.version("lm_eval")
    if Version(installed) < Version(OLDEST):
        raise BadInput(
            f"eval-harness needs lm-eval {OLDEST} or newer, and {installed} is here", hint
        )
    try:
        import lm_eval.models.huggingface
        import lm_eval.tasks  # noqa: F401
    except ImportError as error:
        raise BadInput(f"lm-evaluation-harness cannot be imported: {words(error)}", hint) from error


def _window(opened: Opened, wanted: int | None, lengths: Sequence[int]) -> int:
    """Tell how many tokens the harness may use.

    Raises:
        BadInput: no window is stated; more than there are learned positions, or `lengths` beyond.
    """
    current = opened.position.claimed_tokens
    window = wanted or current
    if window is None:
        raise BadInput(
            f"{opened.source.name}/{CONFIG} states no window", "say how far to read: --max-length"
        )
    for length in lengths:
        if length > window:
            raise BadInput(
                f"--lengths has {length}, and {opened.source.name} is read at {window} tokens",
                f"shorter lengths, or --max-length {length}",
            )
    if (
        current is not None
        and window > current
        and opened.position.encoding not in (*ROTARY, "alibi", "none")
    ):
        raise BadInput(
            f"--max-length is {window}, and {opened.source.name} has {current} positions",
            "leave it out",
        )
    return window


def _readable_by_tasks(source: Source, trust_remote_code: bool) -> str | None:
    """Give the tokenizer for tasks that cut their documents by it; they run any code it brings."""
    for name in ("tokenizer_config.json", CONFIG):
        path = source.folder / name
        if path.is_file() and "auto_map" in read_json_object(path)[0] and not trust_remote_code:
            return None
    return str(source.folder)


def _evaluate(reader: Any, loaded: Tasks, limit: int | None) -> dict[str, Any]:
    """Return what `lm_eval.evaluate` returns, without the environment it would report."""
    import jinja2
    from lm_eval import evaluate

    names = ", ".join(loaded.tasks)
    task_dict = {
        "tasks": loaded.tasks,
        "groups": loaded.groups,
        "group_map": {name: group.child_names for name, group in loaded.groups.items()},
    }
    samples = loaded.chosen(limit) if limit is not None else None
    try:
        full = evaluate(lm=reader, task_dict=task_dict, samples=samples, log_samples=False)
    except ConnectionError as error:  # of a metric or few-shot examples that are fetched late
        raise unreachable(names, error) from error
    except OverflowError as error:
        raise CtxextError(f"a metric of --tasks {names} is too large for a number") from error
    except jinja2.TemplateError as error:
        raise BadInput(f"--tasks {names}: a template fails: {words(error)}") from error
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise CtxextError(
            f"out of memory at {reader.batch_size} x up to {reader.max_length} tokens",
            "--batch-size 1, or a shorter --max-length",
        ) from error
    return dict(full)


def _warnings(opened: Opened, reader: Any, cut: Counter[str], full: Mapping[str, Any]) -> list[str]:
    out = []
    window, batch_size = reader.max_length, reader.batch_size
    current = opened.position.claimed_tokens
    if current is not None and window > current:
        out.append(f"--max-length {window} is beyond the window of {current} tokens")
    if reader.starts_after_new_line:
        out.append("the tokenizer has neither BOS nor EOS: texts begin after a new line")
    if reader.left_out_bos:
        out.append(
            "whole texts begin with one BOS, where lm_eval by itself puts two and scores the "
            "second: it prints these numbers with --model_args add_bos_token=False"
        )
    rope = opened.position.rope
    if batch_size > 1 and rope and rope.block.follows_length:
        out.append(
            f"{rope.block.rope_type} scaling depends on the longest of a batch: with --batch-size "
            f"{batch_size} numbers are not those of --batch-size 1"
        )
    for task, count in sorted(cut.items()):
        total = full["n-samples"].get(task, {}).get("effective", count)
        out.append(
            f"{task}: {count} of {total} documents are longer than the window of {window} tokens "
            "with their answer, and the harness cut off their beginning"
        )
    return out


def _set_seeds(seeds: Sequence[int]) -> None:
    import random

    import numpy as np
    import torch

    random.seed(seeds[0])
    np.random.seed(seeds[1])
    torch.manual_seed(seeds[2])


class _Heard(logging.Handler):
    """The harness's own warnings, one of each place that warns."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: dict[tuple[str, int], str] = {}

    def emit(self, record: logging.LogRecord) -> None:
        text = " ".join(record.getMessage().split())
        if not any(words in text for words in _EXPECTED) and not _LENGTHS_APART.search(text):
            self.said.setdefault((record.pathname, record.lineno), f"the harness: {text[:300]}")


@contextmanager
def _kept_quiet() -> Iterator[Any]:
    """Keep the harness's prints, bars and log off the terminal.

    Yields:
        A function that gives its warnings.
    """
    heard = _Heard()
    logger = logging.getLogger("lm_eval")
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(heard)
    try:
        with (
            open(os.devnull, "w") as sink,  # noqa: PTH123
            quiet_transformers(),
            contextlib.redirect_stdout(sink),
            contextlib.redirect_stderr(sink),
        ):
            yield lambda: list(heard.said.values())
    finally:
        logger.removeHandler(heard)
        logger.propagate = propagate


def _folders(source: Source, include_path: str | Path | None) -> list[Path]:
    """List the folders whose paths are nobody else's business."""
    import lm_eval

    out = [Path(lm_eval.__file__).parent, source.folder, source.folder.resolve()]
    out += [Path.cwd(), Path.home()]
    if include_path is not None:
        out += [Path(include_path).resolve(), Path(include_path)]
    return [path for path in out if path.is_absolute()]


def _write(
    folder: Path, result: HarnessResult, full: Mapping[str, Any], folders: Sequence[Path]
) -> None:
    document = result.to_dict()
    del document["output_dir"]
    names = ("random_seed", "numpy_seed", "torch_seed", "fewshot_seed")
    config = {
        "model": result.model,
        "model_args": {"max_length": result.window},
        "batch_size": result.batch_size,
        "limit": result.limit,
        **dict(zip(names, result.seeds, strict=True)),
    }
    write_file(folder / DOCUMENT, dump_json(publishable(document, folders)))
    write_file(folder / FULL, dump_json(publishable({**full, "config": config}, folders)))
    write_record(
        folder,
        {
            "schema": SCHEMA,
            "kind": KIND,
            "versions": {**versions(), "lm_eval": result.harness_version},
            "evaluations": [DOCUMENT],
            "command": command_line(),
        },
    )
