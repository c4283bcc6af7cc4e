"""How much memory there is for a step: of the GPU, or of this machine within its container."""

from pathlib import Path

import torch

_MEMINFO = Path("/proc/meminfo")
_CGROUPS = (  # limit, usage: version 2, version 1
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
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
    for limit, usage in _CGROUPS:
        try:
            return max(0, int(limit.read_text()) - int(usage.read_text()))
        except (OSError, ValueError):  # another version, or "max": no limit
            continue
    return None
