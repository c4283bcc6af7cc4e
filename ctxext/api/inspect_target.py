"""`ctxext inspect --target`: what each method does to the rotary pairs, and which one to take."""

from collections.abc import Mapping, Sequence
from typing import Any

from ctxext.api._recommended import recommended
from ctxext.api._serving import Written, divided
from ctxext.checkpoints.config.detect import Position
from ctxext.checkpoints.config.extendable import not_by_this
from ctxext.checkpoints.config.kv_cache import kv_bytes_by_dtype
from ctxext.checkpoints.config.patch_window import plan_extended
from ctxext.checkpoints.folder import CONFIG
from ctxext.encodings.rope import inv_freq_of
from ctxext.encodings.rope_types import follows_length
from ctxext.encodings.turns import Bands, bands_of, first_negative, slowed
from ctxext.engines import ENGINES
from ctxext.errors import BadInput
from ctxext.methods import METHODS, Method, RopeExtension, methods_for
from ctxext.runs.rows.inspect import MethodAtTarget, TargetTable


def target_table(
    config: Mapping[str, Any], position: Position, target: int, model: str
) -> TargetTable:
    """Ask every method what it would do to a checkpoint.

    Args:
        config, position: of the checkpoint.
        target: window in tokens.
        model: what commands name.
    """
    rope, window = position.rope, position.stated_window
    bands = bands_of(inv_freq_of(rope.spec), window.original) if rope and window else None
    rows = tuple(
        _row(method, config, position, target, bands)
        for method in sorted(
            methods_for(position.encoding) or METHODS.values(), key=lambda each: each.name
        )
    )
    now, negative = {}, None
    if rope is not None and rope.inv_freq is not None and bands is not None:
        now = by_band(bands, slowed(inv_freq_of(rope.spec), rope.inv_freq))
        negative = first_negative(rope.inv_freq, target)
    return TargetTable(
        tokens=target,
        factor=target / window.original if window else None,
        pairs={name: len(band) for name, band in bands.named().items()} if bands else {},
        first_negative=negative,
        kv_cache=kv_bytes_by_dtype(position, target),
        now=now,
        methods=rows,
        recommendation=recommended(position, target, rows, model),
    )


def by_band(bands: Bands, factors: Sequence[float]) -> dict[str, tuple[float, float]]:
    """Take the smallest and the largest factor of the pairs in each band that has any."""
    return {
        name: (min(factors[i] for i in band), max(factors[i] for i in band))
        for name, band in bands.named().items()
        if band
    }


def _row(
    method: Method,
    config: Mapping[str, Any],
    position: Position,
    target: int,
    bands: Bands | None,
) -> MethodAtTarget:
    """Ask one method; what it refuses is its row's sentence."""
    rope = position.rope
    try:
        if (reason := not_by_this(position, method, CONFIG)) is not None:
            raise reason
        if method.takes_back:
            raise BadInput(f"--target: {method.name} takes an extension back, and has no target")
        extension = plan_extended(
            config, position, method, target, parameters={}, where=CONFIG,
            # What the rope does is asked apart from windows, which would be refused.
            sliding_window=target if _all_windowed(position) else "keep",
        ).extension  # fmt: skip
    except BadInput as error:
        return MethodAtTarget(name=method.name, reason=str(error), training=method.training)
    if extension is None:
        said = f"{target} tokens is the trained window, so there is nothing to scale"
        return MethodAtTarget(name=method.name, reason=said, training=method.training)
    if rope is None or bands is None or not isinstance(extension, RopeExtension):
        return MethodAtTarget(
            name=method.name,
            training=method.training,
            max_position_embeddings=extension.max_position_embeddings,
            engines=tuple(engine.name for engine in ENGINES),
        )
    factors = slowed(inv_freq_of(rope.spec), extension.inv_freq)
    right, wrong = divided(
        Written.as_block(extension.rope_block, extension.beside, position.model_type)
    )
    return MethodAtTarget(
        name=method.name,
        training=method.training,
        slowed=by_band(bands, factors),
        rope_theta=extension.rope_theta,
        attention_factor=extension.attention_factor,
        max_position_embeddings=extension.max_position_embeddings,
        follows_length=follows_length(extension.rope_block),
        engines=right,
        engines_not=wrong,
        factors=tuple(factors),
    )


def _all_windowed(position: Position) -> bool:
    return all(layer.attention == "sliding" and layer.window for layer in position.layers)
