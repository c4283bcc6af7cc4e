"""Many pieces of work, each done once: shared by processes, and kept for a run that goes on."""

from collections.abc import Callable, Sequence

from ctxext.machine.launch import Launch
from ctxext.runs.journal import Journal, Rows


def shared_rows(
    pieces: int,
    work: Callable[[int], Rows],
    *,
    key: str,
    journal: Journal,
    launch: Launch,
    fits: Callable[[int, Rows], bool],
    on_done: Callable[[Sequence[int]], None],
) -> list[Rows]:
    """Do each piece of work once, and return what `work` gave for it, on every process.

    Args:
        pieces: how many there are, the same on every process.
        work: makes the rows of a piece, whichever process does it.
        key: what the rows depend on.
        fits: whether rows of an earlier run can be those of a piece; else it is done again.
        on_done: told of pieces that are known: first of those of an earlier run, even if there are
            none, then of each that this process does, last of those that the others did.

    Raises:
        CtxextError: `work` failed, here or on another process.
    """
    kept = journal.known(key)
    known = {n: kept[n] for n in range(pieces) if n in kept and fits(n, kept[n])}
    missing = [index for index in range(pieces) if index not in known]
    mine = missing[launch.rank :: launch.ranks]
    on_done(list(known))

    def do() -> None:
        for index in mine:
            known[index] = work(index)
            journal.add(key, index, known[index])
            on_done([index])

    launch.agree(do)
    for rows in launch.gather({index: known[index] for index in mine}):
        known.update(rows)
    if others := sorted(set(missing) - set(mine)):
        on_done(others)
    return [known[index] for index in range(pieces)]
