"""Tell which process of `torchrun` or `accelerate launch` this is, and make all of them agree.

What the processes tell each other here (a failure, a signal, a small object) goes over gloo on the
CPU, apart from the gradients: it waits as long as rank 0 needs to tokenise or merge, it notices at
once when a process has died, and it never makes a GPU wait.

By hand, because accelerate (`broadcast_object_list`, `gather_object`) shares objects, not failures:
with it a rank that fails leaves the others waiting.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from ctxext.errors import BadInput, CtxextError

T = TypeVar("T")
_PATIENCE = timedelta(days=7)  # of one process for another that works; a dead one is noticed
GPU_PATIENCE = timedelta(hours=12)
"""Of the groups that gradients go over: a rank with long documents, a first step that compiles or
pins its memory is waited for. NCCL's own ten minutes would end such a run."""


@dataclass(frozen=True)
class Launch:
    """One of `ranks` processes that do one run together.

    Attributes:
        rank: 0 writes the files and speaks.
        ranks: processes on all machines.
        group: what they talk over (a gloo process group); None when there is one process.
        local_ranks: those of them that are on this machine, and share its memory.
    """

    rank: int = 0
    ranks: int = 1
    group: Any = None
    local_ranks: int = 1

    @property
    def main(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    def agree(self, work: Callable[[], T]) -> T:
        """Do `work` on every rank; where one fails, all fail alike.

        Raises:
            BadInput, CtxextError: this rank's own, else that of the first rank that failed.
        """
        if self.ranks == 1:
            return work()
        try:
            result, failure = work(), None
        except Exception as error:
            result, failure = None, error
        told = self.gather(_told(failure))
        if failure is not None:
            raise failure
        for rank, report in enumerate(told):
            if report is not None:
                raise _heard(report, f"rank {rank}: ")
        return result  # type: ignore[return-value]

    def on_main(self, work: Callable[[], T]) -> T:
        """Do `work` on rank 0; all get what it returns (small, picklable), or fail as it failed."""
        if self.ranks == 1:
            return work()
        import torch.distributed as dist

        result, failure = None, None
        if self.main:
            try:
                result = work()
            except Exception as error:
                failure = error
        box: list[Any] = [(result, _told(failure))]
        dist.broadcast_object_list(box, src=0, group=self.group)
        if failure is not None:
            raise failure
        result, report = box[0]
        if report is not None:
            raise _heard(report, "")
        return result  # type: ignore[no-any-return]

    def gather(self, value: T) -> list[T]:
        """Collect what each rank has, in the order of ranks."""
        if self.ranks == 1:
            return [value]
        import torch.distributed as dist

        out: list[Any] = [None] * self.ranks
        dist.all_gather_object(out, value, group=self.group)
        return out

    def any(self, flag: bool) -> bool:
        """Tell whether a flag is set on any rank."""
        if self.ranks == 1:
            return flag
        import torch
        import torch.distributed as dist

        mine = torch.tensor(int(flag))
        dist.all_reduce(mine, group=self.group)
        return bool(mine)


def environment_rank() -> int:
    """Read the rank that a launcher gave this process; 0 when there was none."""
    text = os.environ.get("RANK", "0")
    return int(text) if text.isdecimal() else 0


def was_launched() -> bool:
    """Tell whether a launcher started this process, and will pass its own signals on to it."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


@contextmanager
def launched(device: str) -> Iterator[Launch]:
    """Join the other processes of `torchrun` or `accelerate launch`; alone, nothing happens.

    Args:
        device: `--device`; NCCL is used unless it is `cpu` or there is no GPU.

    Raises:
        BadInput: a launcher's environment that is no number.
    """
    if _number("WORLD_SIZE", 1) == 1:
        theirs = _has_accelerate_state()
        try:
            yield Launch()
        finally:
            if not theirs and _has_accelerate_state():
                _forget_accelerate_state()
        return
    import torch
    import torch.distributed as dist
    from accelerate.state import PartialState

    ours = not dist.is_initialized()
    state = PartialState(cpu=device == "cpu" or not torch.cuda.is_available(), timeout=GPU_PATIENCE)
    group = dist.new_group(backend="gloo", timeout=_PATIENCE)
    try:
        ranks = state.num_processes
        yield Launch(state.process_index, ranks, group, _number("LOCAL_WORLD_SIZE", ranks))
    except BaseException:
        # gloo waits for nobody, and its threads would abort an interpreter that ends with them;
        # NCCL could wait for a process that is gone, and is left alone.
        dist.destroy_process_group(None if ours and dist.get_backend() == "gloo" else group)
        raise
    if ours:
        dist.destroy_process_group()
        _forget_accelerate_state()


def _has_accelerate_state() -> bool:
    """Tell whether accelerate holds a device for this process; it is not imported to ask."""
    module = sys.modules.get("accelerate.state")
    return module is not None and bool(module.is_initialized())


def _forget_accelerate_state() -> None:
    """Let the next run of this process choose its device: accelerate keeps the first for good."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    try:
        return int(text)
    except ValueError as error:
        raise BadInput(f"the environment's {name} is {text!r}, and has to be a number") from error


_Report = tuple[bool, str, str]


def _told(failure: Exception | None) -> _Report | None:
    if failure is None:
        return None
    hint = failure.hint if isinstance(failure, CtxextError) else ""
    text = str(failure) if isinstance(failure, CtxextError) else f"failed with {failure!r}"
    return isinstance(failure, BadInput), text, hint


def _heard(report: _Report, prefix: str) -> CtxextError:
    bad_input, text, hint = report
    return (BadInput if bad_input else CtxextError)(prefix + text, hint)
