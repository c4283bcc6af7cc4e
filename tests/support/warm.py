"""`ctxext` in processes of its own that need not import torch each time.

Hundreds of tests start the command, and five of its six seconds would go into importing torch,
transformers and peft. Each test process keeps a server that has imported them, and every command
is a fork of it: its own process with its own environment, working folder, output and exit code,
through the same entry point. What libraries read from the environment while they are imported
cannot be changed in a fork: each such environment has a server of its own.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import pickle
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
WHEN_USED = ("HF_TOKEN", "PYTHONIOENCODING")  # of these, what is read anew each time
MODEL_MADE = "(a model was made)"
PRELOADED = (
    "torch", "transformers", "transformers.models.llama.modeling_llama", "peft", "accelerate",
    "safetensors.torch", "matplotlib.figure", "pydantic", "rich.console", "rich.table",
    "rich.progress",
)  # fmt: skip


def at_import(env):
    return {
        name: value
        for name, value in env.items()
        if name.startswith(AT_IMPORT) and name not in WHEN_USED
    }


class Warm:
    """The servers of one test process, by the environment that their libraries were imported in."""

    def __init__(self):
        self.servers = {}

    def start(self, arguments, env, **request):
        """As `subprocess.Popen(..., text=True)` with pipes.

        Args:
            request: what a fork is told besides; see `become`.
        """
        server = self.server(env)
        place = tempfile.mkdtemp(prefix="ctxext-warm-")
        request |= {"arguments": arguments, "env": env, "folder": str(Path.cwd()), "place": place}
        return Started(server.ask, ["ctxext", *arguments], server.ask(request), Path(place))

    def run(self, arguments, env, timeout, **request):
        """As `subprocess.run(..., capture_output=True, text=True)`."""
        started = self.start(arguments, env, **request)
        try:
            out, err = started.communicate(timeout)
        except subprocess.TimeoutExpired:
            started.kill()
            started.communicate()
            raise
        return subprocess.CompletedProcess(started.args, started.returncode, out, err)

    def ranks(self, arguments, variables, timeout, work=None):
        """Start a fork for each of `variables`, as a launcher does; one that fails ends the others.

        Args:
            variables: of each process, what its environment has besides.
            work: (function, arguments) to call in the place of the command.

        Returns:
            As `subprocess.run`: the first failure's code, and what all of them said, in order.
        """
        pickled = None if work is None else pickle.dumps(work).hex()
        env = dict(os.environ)
        started = [
            self.start(arguments, env, more=more, work=pickled, path=sys.path) for more in variables
        ]
        end = time.monotonic() + timeout
        while None in (codes := [process.poll() for process in started]):
            if any(codes) or time.monotonic() > end:
                break
            time.sleep(0.02)
        for process in started:
            if process.wait(2) is None:  # they end by themselves where they have been told
                process.kill()
        said = [process.communicate() for process in started]
        code = next(filter(None, [*codes, *(process.returncode for process in started)]), 0)
        return subprocess.CompletedProcess(
            started[0].args, code, *("".join(stream) for stream in zip(*said, strict=True))
        )

    def server(self, env):
        """The server of an environment; it takes as long to start as a command would."""
        key = frozenset(at_import(env).items())
        if key not in self.servers:
            self.servers[key] = Server(env)
        return self.servers[key]

    def close(self):
        for server in self.servers.values():
            server.process.communicate()


class Server:
    """A process that has imported everything, and forks."""

    def __init__(self, env):
        self.process = subprocess.Popen(
            [sys.executable, __file__], env=env, text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )  # fmt: skip

    def ask(self, request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


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
    """What a new process is: its streams, environment and folder.

    `more` is added to the environment, and `path` is where modules are looked for; with
    `watch_models`, standard error tells of the first weight of a model.
    """
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(Path(request["place"]) / name, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    code = request["env"].get("PYTHONIOENCODING")
    sys.stdout = open(1, "w", encoding=code, closefd=False)  # noqa: SIM115
    sys.stderr = open(  # noqa: SIM115
        2, "w", buffering=1, encoding=code, errors="backslashreplace", closefd=False
    )
    os.environ.clear()
    os.environ.update({**request["env"], **request.get("more", {})})
    sys.path[:] = request.get("path", sys.path)
    os.chdir(request["folder"])
    sys.argv = ["ctxext", *request["arguments"]]
    if request.get("watch_models"):
        watch_models()


def watch_models():
    """Write `MODEL_MADE` to standard error when a model first has a weight, not on "meta"."""
    from torch import nn

    register = nn.Module.register_parameter

    def told(self, name, param):
        register(self, name, param)
        if param is not None and param.device.type != "meta":
            nn.Module.register_parameter = register
            print(MODEL_MADE, file=sys.stderr)

    nn.Module.register_parameter = told


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


def leave(work):
    """Run the command, or a pickled function, to its end, without taking libraries apart."""
    from ctxext.cli.main import main

    try:
        if work is None:
            main()
        else:
            function, arguments = pickle.loads(bytes.fromhex(work))
            function(*arguments)
        code = 0
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
                leave(request.get("work"))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        serve()
