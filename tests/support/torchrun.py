"""The real command line on several processes, as a user starts it."""

import os
import subprocess
import sys
from pathlib import Path

CPU = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}


def torchrun_command(*arguments, ranks=2):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*launcher, "--nproc_per_node", str(ranks), "-m", "ctxext", *map(str, arguments)]


def start_torchrun(*arguments, ranks=2):
    return subprocess.Popen(
        torchrun_command(*arguments, ranks=ranks),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **CPU},
        start_new_session=True,
    )


def run_torchrun(*arguments, ranks=2, timeout=600):
    return subprocess.run(
        torchrun_command(*arguments, ranks=ranks),
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **CPU},
    )


def workers_of(process):
    """Process ids of the ranks, in order."""
    found = {}
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True
    )
    for pid in listed.stdout.split():
        try:
            text = Path(f"/proc/{pid}/environ").read_text()
        except OSError:
            continue
        values = dict(v.partition("=")[::2] for v in text.split("\0"))
        if "RANK" in values:
            found[int(values["RANK"])] = int(pid)
    return [found[rank] for rank in sorted(found)]
