"""Tasks of lm-evaluation-harness, found by name and loaded with their documents."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctxext.errors import BadInput, CtxextError
from ctxext.evaluation.harness.results import chosen_documents, lengths_for, unknown_task
from ctxext.progress import Progress


@dataclass(frozen=True)
class Tasks:
    """Loaded tasks, with their data, and the groups over them, by name."""

    tasks: dict[str, Any]
    groups: dict[str, Any]

    @classmethod
    def load(
        cls,
        names: Sequence[str],
        include_path: str | Path | None,
        lengths: Sequence[int],
        *,
        tokenizer: str | None,
        on_progress: Progress,
    ) -> "Tasks":
        """Read the harness's list of tasks, and these tasks' documents.

        Raises:
            BadInput: a task that is not there, or that cannot be loaded.
            CtxextError: documents that cannot be had without a network.
        """
        metadata: dict[str, Any] = {"tokenizer": tokenizer} if tokenizer else {}
        metadata["max_seq_lengths"] = list(lengths)
        manager, wanted = _manager(names, include_path, metadata)
        tasks = cls({}, {})
        for index, name in enumerate(wanted):
            on_progress("loading tasks", index, len(wanted), name)
            # The manager gives every task this same dictionary.
            metadata["max_seq_lengths"] = lengths_for(name, lengths)
            loaded = _load(manager, name, trusted=tokenizer is not None)
            tasks.tasks.update(loaded["tasks"])
            tasks.groups.update(loaded.get("groups", {}))
        on_progress("loading tasks", len(wanted), len(wanted), "")
        for name, task in tasks.tasks.items():
            if getattr(task, "UNSAFE_CODE", False):
                raise BadInput(
                    f"--tasks {name} runs code that the model writes, which ctxext does not do",
                    "run it with lm_eval's own command, in a sandbox",
                )
        return tasks

    def configure(self, num_fewshot: int | None, seed: int) -> None:
        """Set few-shot examples as `lm_eval.simple_evaluate` does: a task's own 0 stays 0."""
        for task in self.tasks.values():
            shots = task.get_config("num_fewshot")
            if num_fewshot is not None and shots != 0:
                task.set_config(key="num_fewshot", value=num_fewshot)
            elif shots is None:
                task.set_config(key="num_fewshot", value=0)
            task.set_fewshot_seed(seed=seed)

    def lengths(self, name: str) -> list[int] | None:
        """Tell at which length each document of a task was made; None of a task without."""
        task = self.tasks[name]
        if not callable(task.get_config("custom_dataset")):
            return None
        documents = task.eval_docs
        if "max_length" not in getattr(documents, "column_names", ()):
            return None
        return [int(length) for length in documents["max_length"]]

    def chosen(self, limit: int) -> dict[str, list[int]]:
        """Choose the documents of each task under `--limit`."""
        return {
            name: chosen_documents(self.lengths(name), len(task.eval_docs), limit)
            for name, task in self.tasks.items()
        }

    def at_lengths(self, limit: int | None = None) -> dict[str, dict[str, int]]:
        """Count the documents read at each length, of the tasks that have lengths."""
        out = {}
        for name in self.tasks:
            lengths = self.lengths(name)
            if lengths is not None:
                counted = Counter(str(length) for length in lengths)
                out[name] = {k: min(n, limit) if limit else n for k, n in counted.items()}
        return out


def _manager(
    names: Sequence[str], include_path: str | Path | None, metadata: dict[str, Any]
) -> tuple[Any, list[str]]:
    """Return the harness's list of tasks, and the names that were meant."""
    from lm_eval.tasks import TaskManager

    names = list(dict.fromkeys(name.strip() for name in names if name.strip()))
    folder = str(Path(include_path).resolve()) if include_path is not None else None
    if folder is not None:
        # Its own list of 14,000 takes ten seconds to read, and is often not needed.
        included = TaskManager(include_path=folder, include_defaults=False, metadata=metadata)
        if set(names) <= set(included.all_subtasks):
            return included, names
    manager = TaskManager(include_path=folder, metadata=metadata)
    wanted: list[str] = []
    for name in names:
        matching = manager.match_tasks([name]) if any(c in name for c in "*?[") else [name]
        if not matching or not set(matching) <= set(manager.all_tasks):
            raise unknown_task(
                name, manager.all_tasks, own_folder=str(include_path) if include_path else None
            )
        wanted += matching
    return manager, list(dict.fromkeys(wanted))


def _load(manager: Any, name: str, *, trusted: bool) -> Mapping[str, Any]:
    import jinja2
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
        HTTPError,  # httpx's or httpx2's, whichever huggingface_hub uses
    )

    try:
        loaded: Mapping[str, Any] = manager.load([name])
        return loaded
    except (ConnectionError, HTTPError, TimeoutError) as error:
        raise unreachable(name, error) from error
    except (
        DatasetsError, OSError, ImportError, ValueError, KeyError, TypeError, AttributeError,
        AssertionError, LookupError, RuntimeError, jinja2.TemplateError,
    ) as error:  # fmt: skip
        if not trusted and "tokenizer" in str(error):
            raise BadInput(
                f"--tasks {name} reads the checkpoint's tokenizer, which brings its own code",
                "read the code, then add --trust-remote-code",
            ) from error
        said = words(error).replace("`max_seq_lengths`", "--lengths")
        raise BadInput(f"the harness cannot load --tasks {name}: {said}") from error


def unreachable(name: str, error: Exception) -> CtxextError:
    return CtxextError(
        f"--tasks {name} needs data from the network, which cannot be reached: {words(error)}",
        "run it once with a network and without HF_HUB_OFFLINE; the data then stays in HF_HOME",
    )


def words(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:300]
