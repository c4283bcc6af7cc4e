"""Measure memory of this machine and this process: what is free, used, and may be used.

psutil says what it knows; by hand is what it does not: the limit of a container, and the peak of a
process on Linux.
"""

import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil  # type: ignore[import-untyped]

if TYPE_CHECKING:
    import torch

USABLE = 0.9
"""Share of free memory that a plan or a run counts on: allocators waste some, and estimates err."""
_CGROUPS = (  # limit, usage, and in the third file what of it are cached files: version 2, 1
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", ("inactive_file", "active_file")),
    (
        Path("/sys/fs/cgroup/memory"),
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        ("total_inactive_file", "total_active_file"),
    ),
)


def available_bytes(device: "torch.device") -> int | None:
    """Measure the bytes that can still be allocated on a device; None where nobody says so.

    On a GPU what the driver calls free, and what torch holds without using it. On a CPU the smaller
    of what the kernel calls available and what is left of the container's limit.
    """
    if device.type == "cuda":
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + idle)
    return host_memory()


def host_memory() -> int | None:
    """Measure the bytes of host memory that can still be allocated; None where nobody says so."""
    known = [n for n in (_system_available(), _cgroup_left()) if n is not None]
    return min(known, default=None)


def peak_memory_bytes() -> int:
    """Measure the most bytes used so far, of the GPU where there is one, else of this process."""
    import torch  # here: a merge reads its peak and waits for none of it

    return int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else process_peak()


def process_peak() -> int:
    """Measure the most bytes of host memory that this process, libraries included, has had.

    Read where the kernel counts for this process alone: what `getrusage` says begins at the peak of
    the process that started it.
    """
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def process_memory() -> int:
    """Measure the bytes of host memory that this process has now."""
    return int(psutil.Process().memory_info().rss)


def _system_available() -> int | None:
    try:
        return int(psutil.virtual_memory().available)
    except (OSError, psutil.Error):  # a machine that shows no /proc
        return None


def _cgroup_left() -> int | None:
    for folder, limit, usage, cached in _CGROUPS:
        try:
            left = int((folder / limit).read_text()) - int((folder / usage).read_text())
            # Files that were read (a checkpoint's) are dropped when memory is wanted.
            return max(0, left + _cached_files(folder / "memory.stat", cached))
        except (OSError, ValueError):  # another version, or "max": no limit
            continue
    return None


def _cached_files(statistics: Path, keys: tuple[str, ...]) -> int:
    lines = (line.split() for line in statistics.read_text(encoding="ascii").splitlines())
    return sum(int(line[1]) for line in lines if line and line[0] in keys)
