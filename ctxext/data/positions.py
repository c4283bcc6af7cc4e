"""Give the tokens of a row positions that restart with each document, or have gaps (PoSE)."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ctxext.errors import BadInput

_SALT = 0x706F7365  # keeps these random numbers apart from those that order the rows


def restarting_positions(begins: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Count the position of each token in its document, (count, length).

    Args:
        begins: (count, length), where documents begin; column 0 is True.

    >>> restarting_positions(np.array([[True, False, True, False, False]])).tolist()
    [[0, 1, 0, 1, 2]]
    """
    place = np.broadcast_to(np.arange(begins.shape[1]), begins.shape)
    return place - np.maximum.accumulate(np.where(begins, place, 0), axis=1)


@dataclass(frozen=True)
class PositionSkips:
    """Positions of a short row spread over a long window (PoSE, arXiv:2309.10400, section 3.2).

    A row of L tokens is cut into N chunks; chunk i is moved ahead by u_i, where u_0 = 0 and
    u_i ~ U{u_(i-1), ..., T - L}. So positions begin at 0, rise strictly, stay below T, and over
    many rows take every value and every distance below T. The paper leaves the chunks' lengths open
    and its code draws the first of two from 1 .. L / 2; here every way to cut the row is equally
    likely. The text stays contiguous (the paper's v_i = 0; it found no difference).

    Attributes:
        length: tokens in a row, L.
        target: window to train for, T.
        chunks: N.
        seed: of all draws.

    Raises:
        BadInput: a target below the row, fewer than two chunks, or more chunks than tokens.
    """

    length: int
    target: int
    chunks: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.target < self.length:
            raise BadInput(
                f"train.pose_target is {self.target}, shorter than a row of {self.length} tokens",
                "give a shorter --seq-length, or a longer target",
            )
        if not 2 <= self.chunks <= self.length:
            raise BadInput(
                f"train.pose_chunks is {self.chunks}, and has to be 2 to the {self.length} tokens "
                "of a row"
            )

    def batch(self, first: int, count: int) -> npt.NDArray[np.int64]:
        """Draw positions of rows number `first` .. `first + count - 1`, (count, length).

        A function of (seed, number) only, as the rows themselves.
        """
        return np.stack([self._row(number) for number in range(first, first + count)])

    def _row(self, number: int) -> npt.NDArray[np.int64]:
        rng = np.random.default_rng((self.seed, _SALT, number))
        cuts = np.sort(rng.choice(self.length - 1, self.chunks - 1, replace=False)) + 1
        jumps = np.zeros(self.length, dtype=np.int64)
        moved = 0
        for cut in cuts:
            further = int(rng.integers(moved, self.target - self.length + 1))
            jumps[cut] = further - moved
            moved = further
        return np.arange(self.length, dtype=np.int64) + np.cumsum(jumps)
