"""The real command line, as a user starts it."""

import atexit
import os
import subprocess
import sys

from support.warm import Warm

_WARM = Warm()
atexit.register(_WARM.close)


def run_ctxext(*arguments, env=None, timeout=240):
    """The installed command in its own process; text output."""
    arguments = list(map(str, arguments))
    env = {**os.environ, **(env or {})}
    return _WARM.run(arguments, env, timeout) or subprocess.run(
        [sys.executable, "-m", "ctxext", *arguments],
        capture_output=True, text=True, timeout=timeout, env=env,
    )  # fmt: skip


def start_ctxext(*arguments, env=None):
    """The same, running: a `Popen`, or what does as one."""
    arguments = list(map(str, arguments))
    env = {**os.environ, **(env or {})}
    return _WARM.start(arguments, env) or subprocess.Popen(
        [sys.executable, "-m", "ctxext", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env,
    )  # fmt: skip
