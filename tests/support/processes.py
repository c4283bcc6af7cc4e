"""Several real processes over gloo, for tests of what they do together."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from support.command import run_launched


def run_ranks(work: Callable[..., Any], ranks: int, folder: Path, *args: Any) -> list[Any]:
    """`work(launch, *args)` in `ranks` processes; what each returned."""
    done = run_launched(ranks=ranks, work=(_rank, (work, folder, args)))
    if done.returncode:
        raise AssertionError(f"a rank ended with {done.returncode}:\n{done.stderr}")
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(ranks)]


def _rank(work: Any, folder: Path, args: Any) -> None:
    from ctxext.machine.launch import launched

    torch.set_num_threads(1)
    with launched("cpu") as launch:
        torch.save(work(launch, *args), folder / f"{launch.rank}.pt")
