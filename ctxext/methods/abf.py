"""ABF: a larger base, given, or chosen from the target by published rules."""

import math
from bisect import bisect_right
from functools import lru_cache
from typing import Final

from ctxext.encodings.rope import RopeSpec, inv_freq_of
from ctxext.errors import BadInput
from ctxext.methods._base import by_base
from ctxext.methods._registry import RopeExtension, method

_LARGEST_THETA: Final = 3e38  # of a float32
_STEP: Final = 2 ** (1 / 8)  # from one base that is tried to the next
_FARTHEST: Final = 64  # distances that are passed over at once
_LAST: Final = 1e12  # no published checkpoint has a base near it


def critical_base(spec: RopeSpec, target: int) -> float:
    """Compute the base whose pairs that were trained on full turns reach a window.

        rope_theta' = rope_theta ** (ln(target / 2 pi) / ln(L / 2 pi))

    With a larger one, the pair that just completes a turn in L tokens completes less than one in
    `target` tokens; with a smaller one it meets angles that it never saw. Liu et al., Scaling Laws
    of RoPE-based Extrapolation, arXiv:2310.05209, theorem 2.

    Raises:
        BadInput: a window of six tokens or fewer, in which nothing completes a turn.
    """
    turns = spec.original_max_position_embeddings / (2 * math.pi)
    if turns <= 1:
        raise BadInput(
            f"a window of {spec.original_max_position_embeddings} tokens is too short to choose "
            "a base from",
            "give one: --set rope_theta=N",
        )
    exponent = math.log(target / (2 * math.pi)) / math.log(turns)
    try:
        return float(spec.rope_theta**exponent)
    except OverflowError:
        return math.inf


def keeps_order(rotary_dim: int, rope_theta: float, target: int) -> bool:
    """Tell whether similar tokens outweigh random ones at every distance up to a target.

        B(m) = sum over i of cos(m rope_theta ** (-2 i / d)) >= 0    for all m = 0 .. target

    Men et al., Base of RoPE Bounds Context Length, arXiv:2405.14591, theorem 1. It is not monotone
    in the base, so each is tried as it is. Over k tokens a pair changes its cosine by at most k
    times its frequency, and by 2; where B is larger than all of that, k distances need no look.
    """
    inv_freq = inv_freq_of(RopeSpec(rotary_dim, rope_theta, target))
    change = [sum([min(2.0, k * f) for f in inv_freq]) for k in range(1, _FARTHEST)]
    cos, m = math.cos, target
    while m > 0:  # from the far end, where it fails first
        similar = sum([cos(m * f) for f in inv_freq])
        if similar < 0:
            return False
        m -= 1 + bisect_right(change, similar)
    return True


@lru_cache(maxsize=64)
def chosen_base(spec: RopeSpec, target: int) -> tuple[float, bool]:
    """Choose the smallest base that satisfies both published rules.

    Returns:
        (base, whether `keeps_order` holds for it): tried are bases 9 % apart, from the critical or
        the present one upwards, whichever is larger. Where none up to 1e12 holds, as with few
        pairs, it is that first one.
    """
    least = max(spec.rope_theta, critical_base(spec, target))
    base = least
    while base <= max(_LAST, least):
        if keeps_order(spec.rotary_dim, base, target):
            return base, True
        base *= _STEP
    return least, False


def base_for(
    spec: RopeSpec, target: int, rope_theta: float | None, name: str
) -> tuple[float, tuple[str, ...]]:
    """Return the base for a target, checked if given and else chosen, and what to say about it.

    Raises:
        BadInput: below the present base, or beyond float32.
    """
    if rope_theta is not None:
        if not spec.rope_theta <= rope_theta < _LARGEST_THETA:
            raise BadInput(
                f"{name} needs a rope_theta of at least {spec.rope_theta:g}, the present one, and "
                f"below 3e38, and got {rope_theta:g}"
            )
        return float(rope_theta), ()
    base, holds = chosen_base(spec, target)
    if not base < _LARGEST_THETA:
        raise BadInput(
            f"the critical base for {target} tokens is beyond float32",
            "give a smaller one: --set rope_theta=N",
        )
    if holds:
        return base, ()
    return base, (
        f"no rope_theta up to {_LAST:g} keeps B(m) >= 0 (arXiv:2405.14591) to {target} tokens with "
        f"{spec.rotary_dim // 2} pairs: {base:g} is the critical base alone (arXiv:2310.05209)",
    )


@method(
    formula="rope_theta' = N, inv_freq'[i] = rope_theta' ** (-2 i / d)",
    applies_to=("rope", "partial-rope", "mixed"),
    paper="Xiong et al., arXiv:2309.16039; the choice: arXiv:2310.05209 and arXiv:2405.14591",
    training="1000 steps and more; without, as ntk",
    rope_type="default",
    since="any",
    told_apart=False,
)
def abf(spec: RopeSpec, target: int, *, rope_theta: float | None = None) -> RopeExtension:
    """Raise the base of the frequencies ("adjusted base frequency").

        inv_freq'[i] = rope_theta' ** (-2 i / d)

    Without a `rope_theta` the smallest is taken that two published rules allow: not below the
    critical base (arXiv:2310.05209), with which no pair that was trained on full turns meets a new
    angle; and from there the first for which B(m) >= 0 for all m up to the target
    (arXiv:2405.14591), computed as it stands. The two are combined because each misses something:
    the first asks nothing of the pairs that are slower, and the second knows nothing of what was
    trained. Larger bases cost resolution, so the smallest. Never below the present base.

    Args:
        spec: d = `rotary_dim`; trained window L in tokens.
        target: window to reach, tokens.
        rope_theta: the new base, at least the present one; None: chosen.

    Returns:
        `inv_freq` (d/2,), radians per token, float64; `attention_factor` 1.

    Raises:
        BadInput: rope_theta out of range; a window too short to choose from.
    """
    theta, notes = base_for(spec, target, rope_theta, "abf")
    factor = target / spec.original_max_position_embeddings
    return by_base(spec, target, theta, {"factor": factor, "rope_theta": theta}, notes=notes)
