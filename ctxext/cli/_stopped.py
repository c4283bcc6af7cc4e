"""A signal as an exception, so that half-written output is removed on the way out."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Stopped(BaseException):
    """Ctrl-C or another signal that ends the command.

    Attributes:
        word: what became of the command.
        exit_code: of the process.
        way_out: one sentence about what is kept, and how one goes on; from the command it met.
    """

    def __init__(self, signum: int) -> None:
        interrupted = signum == signal.SIGINT
        self.word, self.exit_code = ("interrupted", 130) if interrupted else ("terminated", 143)
        self.way_out = ""


@contextmanager
def kept_in(output_dir: Path | None, *, overwrite: bool) -> Iterator[None]:
    """Let a signal say what an evaluation keeps of what it measured."""
    try:
        yield
    except Stopped as stop:
        stop.way_out = _way_out(output_dir, overwrite=overwrite)
        raise


def _way_out(output_dir: Path | None, *, overwrite: bool) -> str:
    if output_dir is None:
        return (
            "nothing is kept: with --output-dir DIR what is measured would be, and the same "
            "command would go on from there"
        )
    if not any(path.stat().st_size for path in output_dir.glob("measured-*.jsonl")):
        return "nothing was measured yet: the same command starts again"
    again = "the same command without --overwrite" if overwrite else "the same command"
    return f"what was measured is kept in {output_dir}, and {again} goes on from there"
