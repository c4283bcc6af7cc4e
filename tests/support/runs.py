"""A fine-tuning run as a process of its own, and how far its log says that it is."""

import json
import os
import subprocess
import sys
import time

import pytest


def start_ctxext(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "ctxext", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ},
    )


def log_of(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def numbers(out):
    return [(line["loss"], line["grad_norm"], line["tokens"]) for line in log_of(out)]


def wait_for_step(process, out, step, *, may_end=False):
    """Until the log has this step; `may_end`: or the process has ended by itself."""
    log = out / "log.jsonl"
    for _ in range(60_000):
        if process.poll() is not None:
            if may_end:
                return
            pytest.fail(f"the run ended by itself: {process.communicate()[1]}")
        if log.exists() and len(log.read_text().splitlines()) >= step:
            return
        time.sleep(0.01)
    raise AssertionError("the run never reached the step")
