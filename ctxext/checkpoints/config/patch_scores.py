"""Make the new config of a checkpoint whose attention is sharpened: its window, as a value."""

from collections.abc import Mapping
from typing import Any

from ctxext.checkpoints.config.decoder_part import stated_part, with_decoder_part
from ctxext.checkpoints.config.detect import Position
from ctxext.checkpoints.config.extendable import not_by_this
from ctxext.checkpoints.config.patch import Patch
from ctxext.checkpoints.config.still import stands_still
from ctxext.checkpoints.config.write_rope import write_rope
from ctxext.errors import BadInput
from ctxext.methods import Method, pair_by_pair


def plan_scores(
    config: Mapping[str, Any],
    position: Position,
    method: Method,
    target: int,
    parameters: Mapping[str, Any],
    where: str,
) -> Patch:
    """Compute the config of a checkpoint with a rope beside layers whose scores are scaled.

    A rope of which no pair turns reaches as far as its config says; one that turns in other layers
    has to reach the target already.

    Args:
        config, position: of the base.
        target, parameters: as for `ctxext.methods`; the method makes a `ScoreExtension`.

    Raises:
        BadInput: no layer is without positions, or the rope of the others does not reach so far.
    """
    reason = not_by_this(position, method, where)
    if reason is not None:
        raise reason
    window, rope = position.window, position.rope
    if rope is None or position.spec is None:
        raise BadInput(f"{where}: the rope of this {position.model_type} is unknown")
    extension = method(position.spec, target, **parameters)
    new = dict(stated_part(config, position.part))
    if target != window.current:
        if not stands_still(position):
            raise BadInput(
                f"{where}: {method.name} acts on the layers without positions, and the rope of the "
                f"others reaches {window.current} tokens, not {target}",
                f"extend it first (--method yarn --target {target}), and that checkpoint then",
            )
        stopped = pair_by_pair(rope.spec, target, [0.0] * (rope.spec.rotary_dim // 2), {})
        write_rope(new, stopped, position)
    whole = with_decoder_part(config, position.part, new)
    return Patch(whole, extension, method.name, window.original, target, extension.notes)
