"""Several real processes over gloo, for tests of what they do together."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_ranks(work: Callable[..., Any], ranks: int, folder: Path, *args: Any) -> list[Any]:
    """`work(launch, *args)` in `ranks` processes; what each returned."""
    mp.spawn(_rank, (work, ranks, free_port(), folder, args), nprocs=ranks)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(ranks)]


def _rank(rank: int, work: Any, ranks: int, port: int, folder: Path, args: Any) -> None:
    from ctxext.machine.launch import launched

    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_WORLD_SIZE=str(ranks),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), ACCELERATE_USE_CPU="true",
    )  # fmt: skip
    with launched("cpu") as launch:
        torch.save(work(launch, *args), folder / f"{rank}.pt")
