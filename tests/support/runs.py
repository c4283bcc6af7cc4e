"""Runs as processes of their own, how far they are, and their end."""

import json
import signal
import time

import pytest


def log_of(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def numbers(out):
    return [(line["loss"], line["grad_norm"], line["tokens"]) for line in log_of(out)]


def wait_for(process, reached, *, may_end=False):
    """Until `reached()`; `may_end`: or the process has ended by itself."""
    for _ in range(60_000):
        if process.poll() is not None:
            if may_end:
                return
            pytest.fail(f"the run ended by itself: {process.communicate()[1]}")
        if reached():
            return
        time.sleep(0.01)
    raise AssertionError("the run never came so far")


def has_lines(path, count):
    """Whether a file is there and has so many lines."""
    return lambda: path.exists() and len(path.read_text().splitlines()) >= count


def wait_for_step(process, out, step, *, may_end=False):
    """Until the log has this step."""
    wait_for(process, has_lines(out / "log.jsonl", step), may_end=may_end)


def kill(process):
    """SIGKILL, and fail where it came too late."""
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "the run ended before it could be killed"
