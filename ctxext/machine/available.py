"""How much memory there is for a step: of the GPU, or of this machine within its container."""

from pathlib import Path

import torch

_MEMINFO = Path("/proc/meminfo")
_CGROUPS = (  # limit, usage, and in the third file what of it are cached files: version 2, 1
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", ("inactive_file", "active_file")),
    (
        Path("/sys/fs/cgroup/memory"),
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        ("total_inactive_file", "total_active_file"),
    ),
)


def available_bytes(device: torch.device) -> int | None:
    """Bytes that can still be allocated on a device; None where nobody says so.

    On a GPU what the driver calls free, and what torch holds without using it. On a CPU the smaller
    of the kernel's MemAvailable and what is left of the container's limit.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + idle)
    return host_memory()


def host_memory() -> int | None:
    """Bytes of host memory that can still be allocated; None where nobody says so."""
    known = [n for n in (_mem_available(_MEMINFO), _cgroup_left()) if n is not None]
    return min(known, default=None)


def _mem_available(path: Path) -> int | None:
    try:
        for line in path.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass  # not Linux
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
