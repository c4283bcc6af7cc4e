"""`ctxext` in processes of its own that need not import torch each time.

Hundreds of tests start the command, and five of its six seconds would go into importing torch,
transformers and peft. Each test process keeps one server that has imported them, and every command
is a fork of it: its own process with its own environment, working folder, output and exit code,
through the same entry point. What libraries read from the environment while they are imported
cannot be changed in a fork; a command that asks for that is started anew.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

# Read once, when their library or the interpreter starts.
AT_IMPORT = ("HF_", "HUGGINGFACE", "TRANSFORMERS_", "TORCH", "PYTHON", "OMP_", "MKL_", "MALLOC_",
             "ACCELERATE", "MPL", "LD_", "XDG_", "HOME")  # fmt: skip
PRELOADED = (
    "torch", "transformers", "transformers.models.llama.modeling_llama", "peft", "accelerate",
    "safetensors.torch", "matplotlib.figure", "pydantic", "rich.console", "rich.table",
    "rich.progress",
)  # fmt: skip


def at_import(env):
    return {name: value for name, value in env.items() if name.startswith(AT_IMPORT)}


class Warm:
    """The server of one test process; started when it is first asked."""

    def __init__(self):
        self.process = self.env = None

    def run(self, arguments, env, timeout):
        """As `subprocess.run(..., capture_output=True, text=True)`; None where it cannot be."""
        if self.process is None:
            self.env = at_import(os.environ)
            self.process = subprocess.Popen(
                [sys.executable, __file__], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        if at_import(env) != self.env:
            return None
        with tempfile.TemporaryDirectory(prefix="ctxext-warm-") as place:
            request = {
                "arguments": arguments, "env": env, "folder": str(Path.cwd()), "place": place,
                "timeout": timeout,
            }  # fmt: skip
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            code = json.loads(self.process.stdout.readline())
            out, err = ((Path(place) / name).read_text() for name in ("stdout", "stderr"))
        command = ["ctxext", *arguments]
        if code is None:
            raise subprocess.TimeoutExpired(command, timeout, out, err)
        return subprocess.CompletedProcess(command, code, out, err)

    def close(self):
        if self.process is not None:
            self.process.communicate()


def become(request):
    """What a new process is: its streams, environment and folder."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(Path(request["place"]) / name, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["folder"])
    sys.argv = ["ctxext", *request["arguments"]]


def ended(child, timeout):
    """The exit code of a child, negative for a signal; None after a timeout."""
    end = time.monotonic() + timeout
    pause = 0.001
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(pause)
        pause = min(2 * pause, 0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def leave():
    """Run the command to its end, without taking the imported libraries apart."""
    from ctxext.cli.main import main

    try:
        main()
    except SystemExit as done:
        code = done.code
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


def serve():
    """Fork once a line of standard input, until it ends; the child runs the command."""
    import ctxext

    ours = [module.name for module in pkgutil.walk_packages(ctxext.__path__, "ctxext.")]
    for name in (*PRELOADED, *ours):
        if name != "ctxext.__main__":
            with contextlib.suppress(ImportError):  # lm_eval is there for the slow tests alone
                importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a fork that touches no old object copies no page
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            become(request)
            leave()
        print(json.dumps(ended(child, request["timeout"])), flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        serve()
