"""How long the rest of an evaluation takes: the work that is left, at the speed that was measured.

Work is counted in operations of a forward pass: every token goes through the weights and attends to
all tokens before it, so a window twice as long is more than twice the work. What an operation takes
is not guessed but measured, on the pieces that were read last.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ctxext.checkpoints.folder import CONFIG
from ctxext.checkpoints.opened import Opened
from ctxext.checkpoints.weights.files import read_weights
from ctxext.progress import Note, Progress, show_duration, unheard
from ctxext.runs.numbers import whole

Cost = Callable[[int], float]
"""Tokens of a window -> operations to read it, up to a factor that all windows share."""
_SHORT = 10.0  # seconds; of what takes no longer nobody has to be told, and nothing can be foretold


def cost_of(checkpoint: Opened) -> Cost:
    """Count the operations that a checkpoint needs for a window: 2 P a token, and 4 Q a pair.

    P are its weights (of experts, the share that a token goes through), Q the width of its queries
    in all layers; a layer with a window attends to no more than that.
    """
    where, config = f"{checkpoint.source.name}/{CONFIG}", checkpoint.config
    used = whole(config, "num_experts_per_tok", where) or 1
    experts = next(
        (n for key in ("num_local_experts", "num_experts", "n_routed_experts")
         if (n := whole(config, key, where))), used,
    )  # fmt: skip
    weights = 0.0
    for name, (_, info) in read_weights(checkpoint.source.folder).tensors.items():
        if len(info.shape) > 1 and "embed" not in name and "lm_head" not in name:
            weights += info.elements * (used / experts if ".experts." in name else 1)
    heads = whole(config, "num_attention_heads", where) or checkpoint.position.kv_heads or 0
    width = heads * (checkpoint.position.head_dim or 0)
    layers = [each for each in checkpoint.position.layers if each.attention != "linear"]

    def cost(length: int) -> float:
        pairs = sum(_pairs(length, layer.window) for layer in layers)
        return 2 * weights * length + 4 * width * pairs

    return cost


def _pairs(length: int, window: int | None) -> float:
    """Count the tokens that all tokens of a row see together, themselves included."""
    if window is None or window >= length:
        return length * (length + 1) / 2
    return window * (window + 1) / 2 + (length - window) * window


@dataclass
class Forecast:
    """What is left of a run, and how fast it goes.

    Attributes:
        total: operations of the whole run; None = nothing is foretold.
        ranks: processes that share each task.
        on_note: told once, as soon as it can be known, how long all of it takes.
        clock: seconds.
    """

    total: float | None = None
    ranks: int = 1
    on_note: Note = unheard
    clock: Callable[[], float] = time.monotonic
    _left: float = field(default=0.0, init=False)  # operations of all that is to be read yet
    _after: float = field(default=0.0, init=False)  # of them, those of later tasks
    _marks: list[tuple[float, float]] = field(default_factory=list, init=False)  # (time, left)
    _pieces: int = field(default=0, init=False)  # of this task, done by this process
    _said: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._left = self._after = self.total or 0.0

    def listener(
        self, task: str, sizes: Sequence[int], costs: Sequence[float], on_progress: Progress
    ) -> Callable[[Sequence[int]], None]:
        """Make what hears which pieces of a task are done (`shared_rows`), and tells of it.

        Args:
            task: its name for progress.
            sizes, costs: of each piece, in the unit of progress and in operations.
        """
        total, done, begun = sum(sizes), 0, False

        def heard(pieces: Sequence[int]) -> None:
            nonlocal done, begun
            done += sum(sizes[piece] for piece in pieces)
            work = sum(costs[piece] for piece in pieces)
            left = ""
            if not begun:
                self.begin(sum(costs), known=work)
            elif done < total:
                left = self.did(work)
            begun = True
            on_progress(task, done, total, left)

        return heard

    def begin(self, task: float, known: float) -> None:
        """Begin a task of so many operations, some of which an earlier run did."""
        self._after = max(0.0, self._after - task)
        self._left = self._after + task - known
        self._marks, self._pieces = [(self.clock(), self._left)], 0

    def did(self, work: float) -> str:
        """Hear of a piece that this process has done just now, and say how long the rest takes."""
        self._left = max(self._after, self._left - work * self.ranks)
        self._pieces += 1
        if self._pieces == 2:  # the first piece of a task pays for what is made ready once
            del self._marks[0]
        self._marks = [self._marks[0], (self.clock(), self._left)]
        seconds = self.left()
        if self.total is None or seconds is None:
            return ""
        warm = self._pieces > 1 or self.clock() - self._marks[0][0] >= _SHORT
        if not self._said and warm and seconds >= _SHORT:
            self.on_note(
                f"about {show_duration(seconds)} more for all of it, by the speed of what was read "
                "so far"
            )
            self._said = True
        return f"about {show_duration(seconds)} left in all"

    def left(self) -> float | None:
        """Return the seconds that the rest takes at the speed of this task; None = not known."""
        (began, at_first), (ended, at_last) = self._marks[0], self._marks[-1]
        if at_last >= at_first or ended <= began:
            return None
        return self._left * (ended - began) / (at_first - at_last)
