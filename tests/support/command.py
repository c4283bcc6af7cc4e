"""The command line through its entry point, in processes of its own."""

import atexit
import os
import socket

from support.warm import Warm

_WARM = Warm()
atexit.register(_WARM.close)


def run_ctxext(*arguments, env=None, timeout=240, **request):
    """The command in its own process; text output.

    Args:
        request: as of `warm.become`.
    """
    env = {**os.environ, **(env or {})}
    return _WARM.run(list(map(str, arguments)), env, timeout, **request)


def start_ctxext(*arguments, env=None):
    """The same, running: what does as a `Popen`."""
    return _WARM.start(list(map(str, arguments)), {**os.environ, **(env or {})})


def run_launched(*arguments, ranks=2, timeout=600, work=None):
    """The command in several processes that know of each other, as `torchrun` sets them up.

    Args:
        work: a function of a test module and its arguments, in the place of the command.
    """
    port = free_port()
    variables = [
        {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks),
            "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            "ACCELERATE_USE_CPU": "true",
        }
        for rank in range(ranks)
    ]  # fmt: skip
    return _WARM.ranks(list(map(str, arguments)), variables, timeout, work)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
