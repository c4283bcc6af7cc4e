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
import shutil
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

    def start(self, arguments, env):
        """As `subprocess.Popen(..., text=True)` with pipes; None where it cannot be."""
        if self.process is None:
            self.env = at_import(os.environ)
            self.process = subprocess.Popen(
                [sys.executable, __file__], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        if at_import(env) != self.env:
            return None
        place = tempfile.mkdtemp(prefix="ctxext-warm-")
        folder = str(Path.cwd())
        request = {"arguments": arguments, "env": env, "folder": folder, "place": place}
        return Started(self.ask, ["ctxext", *arguments], self.ask(request), Path(place))

    def run(self, arguments, env, timeout):
        """As `subprocess.run(..., capture_output=True, text=True)`; None where it cannot be."""
        started = self.start(arguments, env)
        if started is None:
            return None
        try:
            out, err = started.communicate(timeout)
        except subprocess.TimeoutExpired:
            started.kill()
            started.communicate()
            raise
        return subprocess.CompletedProcess(started.args, started.returncode, out, err)

    def ask(self, request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        if self.process is not None:
            self.process.communicate()


class Started:
    """A command that runs; what tests ask of a `Popen`."""

    def __init__(self, ask, args, pid, place):
        self.ask, self.args, self.pid, self.place = ask, args, pid, place
        self.returncode = None

    def poll(self):
        return self.wait(0)

    def wait(self, timeout=None):
        if self.returncode is None:
            self.returncode = self.ask({"child": self.pid, "timeout": timeout})
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout=None):
        """(stdout, stderr) after its end, once."""
        if self.wait(timeout) is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        said = tuple((self.place / name).read_text() for name in ("stdout", "stderr"))
        shutil.rmtree(self.place)
        return said


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
    """The exit code of a child, negative for a signal; None where it still runs after that."""
    end = time.monotonic() + (float("inf") if timeout is None else timeout)
    pause = 0.001
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= end:
            return None
        time.sleep(pause)
        pause = min(2 * pause, 0.02)


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
    """Answer lines of standard input: a command by the process id of its fork, or how one ended."""
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
        if "child" in request:
            answer = ended(request["child"], request["timeout"])
        else:
            answer = os.fork()
            if not answer:
                become(request)
                leave()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        serve()
