"""Run the laboratory: train every decoder of every seed, measure, and gather the rows."""

import multiprocessing
import os
import signal
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ctxext.errors import CtxextError
from ctxext.lab.budget import Planned, fitted
from ctxext.lab.jobs import (
    Trained,
    begin_worker,
    extend_rope,
    seconds_per_step,
    train_and_measure,
)
from ctxext.lab.setting import LabSetting
from ctxext.lab.statements import Evidence
from ctxext.progress import Progress

ROPE, EXTENDED = "rope", "rope extended"


def cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_laboratory(
    setting: LabSetting,
    budget: float | None,
    models: Path,
    *,
    workers: int,
    on_progress: Progress,
    on_plan: Callable[[Planned], None],
) -> tuple[Planned, list[Trained], Evidence]:
    """Train, measure and extend.

    Args:
        budget: seconds, or None.
        models: folder for the decoders, `ENCODING-SEED` each.
        on_plan: told what is going to be done, before it is.

    Returns:
        What was done, each decoder, and what the statements are checked by.

    Raises:
        BadInput: as `budget.fitted`.
        CtxextError: a process was killed.
    """
    spawn = multiprocessing.get_context("spawn")
    workers = min(workers, len(_every(setting)))
    pool = ProcessPoolExecutor(workers, mp_context=spawn, initializer=begin_worker)
    try:
        with _not_interrupted():
            timings = [pool.submit(seconds_per_step, setting) for _ in range(workers)]
        slowest = max(timing.result() for timing in timings)
        planned = fitted(setting, slowest, workers, budget)
        on_plan(planned)
        trained, ropes = _all_jobs(pool, planned, models, workers, on_progress)
    except BrokenProcessPool as error:
        raise CtxextError(
            "a process of the laboratory was killed, or could not start: a Python script has to "
            "call ctxext.run_lab below `if __name__ == '__main__':`",
            "otherwise it may need more memory: give it fewer --workers",
        ) from error
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    order = {(e, s): i for i, (e, s) in enumerate(_every(planned.setting))}
    trained.sort(key=lambda each: order[each.encoding, each.seed])
    return planned, trained, gathered(planned.setting, trained, ropes)


@contextmanager
def _not_interrupted() -> Iterator[None]:
    """Start processes that Ctrl-C passes by, and hear of signals once they have started.

    Ctrl-C reaches a whole terminal, and the first process ends the others in silence; one that
    loses the first while it starts would write a traceback.
    """
    heard: list[int] = []
    before = {}
    if threading.current_thread() is threading.main_thread():  # no other one is interrupted
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, lambda signum, _: heard.append(signum))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            signal.signal(number, handler)
    for signum in heard[:1]:
        signal.raise_signal(signum)


def _every(setting: LabSetting) -> list[tuple[str, int]]:
    return [(encoding, seed) for encoding in setting.encodings for seed in setting.seeds]


def _all_jobs(
    pool: ProcessPoolExecutor, planned: Planned, models: Path, workers: int, on_progress: Progress
) -> tuple[list[Trained], dict[int, dict[str, Any]]]:
    """Do every job, at most one for each worker at a time: what others wait for, and what takes
    longest, comes first, so that no core is idle at the end."""
    setting = planned.setting
    waiting = deque(sorted(_every(setting), key=lambda job: job[0] != ROPE))
    total = len(waiting) + (len(setting.seeds) if ROPE in setting.encodings else 0)
    running: dict[Future[Any], tuple[str, int]] = {}
    trained: list[Trained] = []
    ropes: dict[int, dict[str, Any]] = {}
    on_progress("lab", 0, total, "")
    while waiting or running:
        while waiting and len(running) < workers:
            encoding, seed = job = waiting.popleft()
            future: Future[Any]
            if encoding == EXTENDED:
                future = pool.submit(extend_rope, setting, seed, models / f"{ROPE}-{seed}")
            else:
                folder = models / f"{encoding}-{seed}"
                future = pool.submit(
                    train_and_measure, setting, encoding, seed, planned.steps, folder
                )
            running[future] = job
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            encoding, seed = running.pop(future)
            if encoding == EXTENDED:
                ropes[seed] = future.result()
            else:
                trained.append(future.result())
                if encoding == ROPE:
                    waiting.appendleft((EXTENDED, seed))
            on_progress("lab", len(trained) + len(ropes), total, f"{encoding}, seed {seed}")
    return trained, ropes


def gathered(
    setting: LabSetting, trained: Sequence[Trained], ropes: Mapping[int, Mapping[str, Any]]
) -> Evidence:
    """Put what was measured by what it is, of each seed in the same order."""
    measured: dict[tuple[str, str], list[Any]] = defaultdict(list)
    order: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for each in trained:
        for variant, values in each.measured.items():
            measured[each.encoding, variant].append(values)
        for mask, changes in each.order.items():
            order[each.encoding, mask].append(changes)
    seeds = [ropes[seed] for seed in setting.seeds if seed in ropes]
    names: Iterable[str] = seeds[0]["extensions"] if seeds else ()
    return Evidence(
        setting=setting,
        measured=measured,
        order=order,
        no_row=[each.no_row for each in trained if each.encoding == "learned"],
        extensions={name: [each["extensions"][name] for each in seeds] for name in names},
        pairs=[each["pairs"] for each in seeds],
        steps=[each["steps"] for each in seeds],
    )
