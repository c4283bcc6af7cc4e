"""The `ctxext` command: its panels, and the only place that turns errors into exit codes."""

import atexit
import io
import os
import signal
import sys
import time
from importlib import import_module
from types import FrameType
from typing import Annotated, Any

import typer

from ctxext.cli._ended import end_on_signals, pass_over_signals
from ctxext.cli._help import Command, Group
from ctxext.cli._output import abandon, say_error
from ctxext.cli._stopped import Stopped
from ctxext.errors import BadInput, CtxextError
from ctxext.machine.launch import environment_rank
from ctxext.machine.signals import ending_signals

LOOK, EXTEND, EVALUATE, RELEASE, LEARN = "Look", "Extend", "Evaluate", "Release", "Learn"
_PANELS = {
    "inspect": LOOK,
    "methods": LOOK,
    "extend": EXTEND,
    "finetune": EXTEND,
    "merge": EXTEND,
    "eval-ppl": EVALUATE,
    "eval-retrieval": EVALUATE,
    "eval-harness": EVALUATE,
    "fertility": EVALUATE,
    "report": EVALUATE,
    "push": RELEASE,
    "demo": LEARN,
    "lab": LEARN,
}
"""Every command, with its panel in the help; its file has its name."""


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"ctxext {version('ctxext')}")
        raise typer.Exit


def _global(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def command_line(asked: str | None = None) -> typer.Typer:
    """Make the command line, of the one command that is asked for, or else of all: a fifth of the
    time of a short command is the import of the others.

    Args:
        asked: the first word that was typed; anything but a command's name is none.
    """
    app = typer.Typer(
        name="ctxext",
        cls=Group,
        help="Extend the context window of pretrained decoder checkpoints, prove it, and ship it."
        "\n\nLengths accept 8192, 8k, 128k (k = 1024). MODEL is a folder or a Hub repository id.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        # --output_dir is --output-dir: half of this ecosystem writes underscores.
        context_settings={"token_normalize_func": _with_hyphens},
    )
    app.callback()(_global)
    only = _with_hyphens(asked or "")
    for name, panel in _PANELS.items():
        if only in _PANELS and name != only:
            continue
        file = import_module(f"ctxext.cli.{name.replace('-', '_')}")
        app.command(name, cls=Command, rich_help_panel=panel)(file.command)
    return app


def _with_hyphens(token: str) -> str:
    return token.replace("_", "-")


_PATIENCE = 15.0  # seconds that rank 0 may start later than the others, and fail as they did


def _stop(signum: int, frame: FrameType | None) -> None:
    signal.signal(signum, signal.SIG_DFL)  # a second one ends the process at once
    raise Stopped(signum)


def main() -> None:
    """Run the command line; exit codes: 0 done, 1 failed, 2 bad input, 130 and 143 on signals."""
    as_json = "--json" in sys.argv[1:]
    _let_gpu_memory_grow()
    # A stream that was closed (`>&-`) is None, and its number would go to the next file opened.
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115, PTH123
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115, PTH123
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115, PTH123
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # an encoding without some letter is no failure
            stream.reconfigure(errors="backslashreplace")
    for number in ending_signals():
        signal.signal(number, _stop)  # KeyboardInterrupt would end in Typer, without a word
    atexit.register(pass_over_signals)  # registered first, it is called last
    try:
        code = _run(as_json)
        sys.stdout.flush()
    except BrokenPipeError:
        code = 0  # the reader (`| head`) has what it wanted
        abandon(sys.stdout)
    except OSError as error:
        code = 1
        abandon(sys.stdout)
        say_error(CtxextError(f"stdout cannot be written: {error.strerror}"), as_json=False)
    except Stopped as stop:  # when all was said
        code = stop.exit_code
    end_on_signals()
    sys.exit(code)


_ALLOCATOR = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF", "PYTORCH_ALLOC_CONF")


def _let_gpu_memory_grow() -> None:
    """Have torch, which is not imported yet, map a GPU's memory in pieces that can be joined.

    Blocks of gigabytes that grow with the row would otherwise leave holes that none of them fills.
    Whoever has set the allocator keeps what they set.
    """
    if not any(name in os.environ for name in _ALLOCATOR):
        os.environ["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"


def _let_rank_0_speak() -> None:
    """Wait: a launcher ends all processes when one has failed, so a silent one is not the first."""
    for number in ending_signals():
        signal.signal(number, signal.SIG_DFL)
    time.sleep(_PATIENCE)


def _run(as_json: bool) -> int:
    main = environment_rank() == 0
    try:
        asked = sys.argv[1] if len(sys.argv) > 1 else None
        result: Any = command_line(asked)(standalone_mode=False)
        return result if isinstance(result, int) else 0
    except CtxextError as error:
        if main or error.alone:  # of the processes that fail alike one speaks
            say_error(error, as_json=as_json and main)
        else:
            _let_rank_0_speak()
        return error.exit_code
    except Stopped as stop:
        if main:
            say_error(CtxextError(stop.word, stop.way_out), as_json=as_json)
        return stop.exit_code
    except SystemExit:  # of the help, when nobody reads it to its end
        return 0
    except typer.Abort:  # a question met the end of its input
        say_error(CtxextError("aborted"), as_json=as_json)
        return 1
    except typer.Exit as done:
        return done.exit_code
    except BrokenPipeError:
        raise
    except OSError as error:  # the machine's and no bug: a full disk, a file that may not be read
        where = f"{error.filename}: " if error.filename else ""
        say_error(CtxextError(f"{where}{error.strerror or error}"), as_json=as_json)
        return 1
    except Exception as error:
        usage = getattr(error, "format_message", None)
        if usage is None:  # a bug keeps its traceback
            raise
        message = str(usage()).replace("\n", " ")
        if not main:
            _let_rank_0_speak()
        elif message:  # empty: nothing was asked, and the help has been printed
            say_error(BadInput(message, f"try: {_asked(error)} --help"), as_json=as_json)
        return 2


def _asked(error: Exception) -> str:
    """Give the command that a usage error is about, as one types it."""
    context: typer.Context | None = getattr(error, "ctx", None)
    if context is None or context.parent is None:
        return "ctxext"
    return f"ctxext {context.info_name}"
