"""Which engines read a rope rightly, and how each is started: one line an engine."""

from collections.abc import Collection, Mapping
from typing import Any, Final

from ctxext.checkpoints.config.rotation import Rope
from ctxext.encodings.rope_types import ROPE_TYPES
from ctxext.engines import ENGINES, Engine
from ctxext.runs.rows.inspect import Serving

_READINGS: Final[Mapping[str, tuple[str, str]]] = {
    "ignored": ("wrong", "ignores {rope_type} scaling, and serves the unscaled rope"),
    "lost": ("refuses", "has no {rope_type} scaling"),
    "refused": ("refuses", "does not know {rope_type} scaling, and stops"),
}


def serving(
    rope_type: str,
    keys: Collection[str],
    target: int,
    model: str,
    *,
    local: bool,
    old_keys: bool = True,
) -> tuple[Serving, ...]:
    """Say of each engine whether it runs a rope as transformers 5 does.

    Args:
        rope_type: of the block.
        keys: the others that the block has.
        target: the window to serve, tokens.
        model: what commands name: a repository id, or a folder where `local`.
        old_keys: whether `rope_theta` and `rope_scaling` say the same as `rope_parameters`.
    """
    rows = []
    for engine in ENGINES:
        verdict, why = _verdict(engine, rope_type, keys, old_keys=old_keys)
        if verdict == "ok":
            why = _how(engine, target, model, local=local)
        rows.append(Serving(engine=engine.name, verdict=verdict, how=why, source=engine.source))
    return tuple(rows)


def serving_of(
    rope: Rope, target: int, model: str, *, local: bool, old_keys: bool
) -> tuple[Serving, ...]:
    """Say the same of the rope that a checkpoint has."""
    block = rope.block
    keys = [*block.numbers, *([] if block.truncate else ["truncate"])]
    return serving(block.rope_type, keys, target, model, local=local, old_keys=old_keys)


def divided(block: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Divide engines into those that run a rope block rightly, in current releases, and others."""
    rows = serving(block["rope_type"], [*block], 0, "", local=False)
    right = tuple(row.engine for row in rows if row.verdict in ("ok", "needs version"))
    return right, tuple(row.engine for row in rows if row.engine not in right)


def _verdict(
    engine: Engine, rope_type: str, keys: Collection[str], *, old_keys: bool
) -> tuple[str, str]:
    if rope_type not in ROPE_TYPES:
        return "unknown", f"rope_type {rope_type} is not known to ctxext"
    reading = _READINGS.get(engine.reading(rope_type))
    if reading is not None:
        return reading[0], reading[1].format(rope_type=rope_type)
    if not old_keys and not engine.reads_rope_parameters:
        return "wrong", "reads rope_theta and rope_scaling, which this config has not (extend does)"
    ignored = {key: engine.ignored_keys[key] for key in keys if key in engine.ignored_keys}
    if always := [key for key, releases in ignored.items() if not releases]:
        return "wrong", f"ignores {' and '.join(always)}"
    if ignored:
        releases = " and ".join(sorted(set(ignored.values())))
        return "needs version", f"{releases} releases ignore {' and '.join(ignored)}"
    return "ok", ""


def _how(engine: Engine, target: int, model: str, *, local: bool) -> str:
    command = engine.command(model, target, local=local)
    if command is not None:
        return command
    return f"{engine.window_flag} {target}" if engine.window_flag else "reads it as it is"
