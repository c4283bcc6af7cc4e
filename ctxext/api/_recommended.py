"""Choose one method for a target, by what each does to the pairs and not by its name.

In this order: what rules every method out is said; a checkpoint that is scaled keeps its scaling;
else the one that leaves fast pairs as trained, brings slow ones back into the angles of training,
and is run rightly by most engines.
"""

import math
from collections.abc import Sequence
from typing import Final

from ctxext.checkpoints.config import families
from ctxext.checkpoints.config.detect import Position
from ctxext.checkpoints.config.extendable import not_extendable
from ctxext.checkpoints.config.patch import resolve_target
from ctxext.checkpoints.config.sliding import may_be_off, slides_in_cache_alone, window_words
from ctxext.checkpoints.config.still import stands_still
from ctxext.checkpoints.folder import CONFIG
from ctxext.encodings.kinds import ROTARY
from ctxext.engines import ENGINES
from ctxext.errors import BadInput
from ctxext.methods import METHODS, ScoreExtension, methods_for, name_of_scaling
from ctxext.runs.rows.inspect import MethodAtTarget, Recommendation

_UNTRAINED: Final = 4.0
"""Times the trained window that methods were seen to hold without training (bloc97 2023 and the
demo's base); beyond, what is read gets worse with the length whatever the method."""
_AS_TRAINED: Final = 1 + 1e-6


def recommended(
    position: Position, target: int, rows: Sequence[MethodAtTarget], model: str
) -> Recommendation:
    """Say what to do, and why, in a sentence or two.

    Args:
        rows: what each method does at the target.
        model: what commands name.
    """
    if (said := _nothing_to_scale(position, target, model)) is not None:
        return said
    if position.encoding not in ROTARY:
        return _without_rope(position, target, rows, model)
    if (still := _of_still_attention(position, target, model)) is not None:
        return still
    if (held := _held_by_its_scaling(position, rows)) is not None:
        return held
    usable = [row for row in rows if row.reason is None and _reaches(row, target)]
    if not usable:
        reason = next((row.reason for row in rows if row.reason), "no method reaches it")
        return Recommendation(reason=f"no method: {reason}")
    scale = target / position.window.original
    kept = _own(position, usable)
    chosen = kept or max(usable, key=lambda row: _merit(row, scale))
    sentences = [
        _keeps(position, chosen) if kept else _why(chosen, scale),
        _training(chosen, target / position.window.current),
        _elsewhere(chosen, usable, scale),
        *_of_the_family(position, target),
    ]
    command = f"ctxext extend {model} --method {chosen.name} --target {target}"
    if windowed := _all_windowed(position, target):
        sentences.insert(0, windowed)
        off = may_be_off(position.model_type)
        command += f" --sliding-window {'off' if off else target}"
    return Recommendation(
        method=chosen.name,
        reason=". ".join(sentence for sentence in sentences if sentence) + ".",
        command=f"{command} -o OUT",
    )


def _without_rope(
    position: Position, target: int, rows: Sequence[MethodAtTarget], model: str
) -> Recommendation:
    """Name the encoding's first method, and what is known of it."""
    reasons = {row.name: row.reason for row in rows}
    first = methods_for(position.encoding)[0]
    if (reason := reasons.get(first.name)) is not None:
        return Recommendation(reason=f"no method: {reason}")
    return Recommendation(
        method=first.name,
        reason=f"{first.name}: {first.training}",
        command=f"ctxext extend {model} --method {first.name} --target {target} -o OUT",
    )


def _nothing_to_scale(position: Position, target: int, model: str) -> Recommendation | None:
    """Say why no method is the answer, where none is."""
    if position.encoding is None:
        return Recommendation(
            reason="position encoding is 'unknown': there are no frequencies to scale"
        )
    reason = not_extendable(position, CONFIG)
    if reason is None and position.stated_window is None:
        reason = BadInput(
            f"no key of the config of this {position.model_type} states its window",
            "give it with --original-length",
        )
    if reason is None and position.doubts:
        reason = position.doubts[0]
    if reason is None and target <= position.window.current:
        reading = "trained to" if target <= position.window.original else "scaled to"
        return Recommendation(
            reason=f"the checkpoint is {reading} {position.window.current} tokens already: nothing "
            f"is to scale for {target}; measure whether it reads them",
            command=f"ctxext eval-retrieval {model} --lengths {target}",
        )
    if reason is None:
        try:
            resolve_target(position, target, None)
        except BadInput as error:
            reason = error
    if reason is None:
        return None
    hint = f"; {reason.hint}" if reason.hint else ""
    return Recommendation(reason=f"{reason}{hint}")


def _of_still_attention(position: Position, target: int, model: str) -> Recommendation | None:
    """Recommend a temperature where no pair of the rope turns."""
    sharper = next((each for each in METHODS.values() if each.makes is ScoreExtension), None)
    if sharper is None or not stands_still(position):
        return None
    return Recommendation(
        method=sharper.name,
        reason=f"{sharper.name}: no pair of the rope turns, so attention is told no positions; "
        "beyond the trained window it spreads, and is sharpened on a held-out text",
        command=f"ctxext extend {model} --method {sharper.name} --target {target} "
        "--calibrate TEXT -o OUT",
    )


def _reaches(row: MethodAtTarget, target: int) -> bool:
    return row.follows_length or (row.max_position_embeddings or 0) >= target


def _own(position: Position, rows: Sequence[MethodAtTarget]) -> MethodAtTarget | None:
    """Find the method that a checkpoint is scaled by."""
    rope = position.rope
    if rope is None or rope.block.rope_type == "default":
        return None
    name = name_of_scaling(rope.block.rope_type)
    return next((row for row in rows if row.name == name), None)


def _held_by_its_scaling(
    position: Position, rows: Sequence[MethodAtTarget]
) -> Recommendation | None:
    """Say what the method that a checkpoint is scaled by needs, where a target is not enough."""
    row = _own(position, rows)
    if row is None or row.reason is None:
        return None
    return Recommendation(
        method=row.name,
        reason=f"{_keeps(position, row)}. For this target: {row.reason}.",
        command=f"ctxext methods {row.name}",
    )


def _merit(row: MethodAtTarget, scale: float) -> tuple[float, ...]:
    """Order methods; more is better, the first difference decides."""
    fast, slow = row.slowed.get("fast", (1.0, 1.0)), row.slowed.get("slow", (scale, scale))
    return (
        max(row.factors) > _AS_TRAINED,
        not row.follows_length,
        fast[1] <= _AS_TRAINED,
        slow[0] >= scale * (1 - 1e-6) and math.isfinite(slow[1]),
        len(row.engines),
        row.attention_factor != 1,
        -fast[1],
    )


def _keeps(position: Position, row: MethodAtTarget) -> str:
    return (
        f"{row.name}: the checkpoint is scaled by it already, to {position.window.current} tokens, "
        "and its weights were trained under it or meant for it: another method would change more"
    )


def _why(row: MethodAtTarget, scale: float) -> str:
    """Say what the method does to the pairs, in the words of the table."""
    parts = []
    if "fast" in row.slowed:
        fast = row.slowed["fast"]
        parts.append(
            "fast pairs turn as in training"
            if fast[1] <= _AS_TRAINED
            else f"fast pairs are slowed by up to {fast[1]:.3g}"
        )
    if "slow" in row.slowed:
        slow = row.slowed["slow"]
        whole = math.isclose(slow[0], scale, rel_tol=1e-6)
        parts.append(
            "those that never completed a turn are slowed by the whole "
            f"factor of {scale:g}, so that they meet no new angle"
            if whole
            else f"those that never completed a turn are slowed by {slow[0]:.3g} to {slow[1]:.3g}"
        )
    else:
        parts.append("all pairs complete turns in the trained window, so no angle is new")
    return f"{row.name}: {', '.join(parts)}; {len(row.engines)} of {len(ENGINES)} engines run it"


def _training(row: MethodAtTarget, step: float) -> str:
    """Say whether a step from what is claimed now is read without training."""
    if step <= _UNTRAINED:
        return (
            f"{step:.3g} times the claimed window is within what was seen to be read without "
            f"training: measure it, and fine-tune for more ({row.training})"
        )
    return (
        f"{step:.3g} times the claimed window is beyond what is read well without training: "
        f"fine-tune at the target with ctxext finetune ({row.training})"
    )


def _elsewhere(row: MethodAtTarget, usable: Sequence[MethodAtTarget], scale: float) -> str:
    """Name the best method that the remaining engines run, where there are any."""
    missing = [engine.name for engine in ENGINES if engine.name not in row.engines]
    if not missing:
        return ""
    wide = [other for other in usable if set(missing) <= set(other.engines)]
    if not wide:
        return f"Not run rightly by {', '.join(missing)}"
    best = max(wide, key=lambda other: _merit(other, scale))
    return f"For {', '.join(missing)} take {best.name}"


def _all_windowed(position: Position, target: int) -> str | None:
    """Say that windows come first, where every layer looks back less far than the target."""
    reach = [layer.window or 0 for layer in position.layers if layer.attention == "sliding"]
    if not reach or len(reach) < len(position.layers) or max(reach) >= target:
        return None
    trained = "; the weights were trained so, and need training without"
    return (
        f"Windows first: {window_words(position, max(reach))}, and no scaling of the rope reaches "
        f"further{'' if slides_in_cache_alone(position.model_type) else trained}"
    )


def _of_the_family(position: Position, target: int) -> list[str]:
    """Say what a family does that a table of pairs does not show."""
    said = []
    still = sum(layer.position_encoding == "none" for layer in position.layers)
    short = [x.window for x in position.layers if x.attention == "sliding" and x.window]
    if position.model_type in families.LATENT:
        said.append(
            "Latent attention turns a part of each head only, so the temperature goes on the whole "
            "score (mscale_all_dim)"
        )
    if still:
        said.append(f"{still} of {len(position.layers)} layers have no position and stay as is")
    if short and len(short) < len(position.layers) and min(short) < target:
        said.append(
            f"{len(short)} of {len(position.layers)} layers go on attending to the last "
            f"{min(short)} tokens"
        )
    return said
