"""Which engines read a rope rightly, and how each is started: one line an engine."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ctxext.checkpoints.config.decoder_part import stated_part
from ctxext.checkpoints.config.detect import Position, reads_alike_in_transformers_4
from ctxext.checkpoints.lab_decoder.model_type import MODEL_TYPE
from ctxext.encodings.rope_types import ROPE_TYPES, rope_type_facts
from ctxext.engines import ENGINES, Engine, before, takes_attention
from ctxext.engines.notes import first_transformers
from ctxext.methods import Attention, name_of_scaling, top_keys
from ctxext.methods.yarn import DEFAULT_BETAS
from ctxext.runs.rows.inspect import Serving

_READINGS: Final[Mapping[str, tuple[str, str]]] = {
    "ignored": ("wrong", "ignores {rope_type} scaling, and serves the unscaled rope"),
    "lost": ("wrong", "loses {rope_type} scaling: its file format has no word for it"),
    "refused": ("refuses", "does not know {rope_type} scaling, and stops"),
}
_RIGHT: Final = ("ok", "needs version")


@dataclass(frozen=True)
class Written:
    """How a rope stands in a config.

    Attributes:
        rope_type: of the block.
        keys: the others that the block has, those at their defaults aside.
        attention_factor: that the block says; None where it says none.
        top_keys: keys at the top of the config that do a part of the work.
        model_type: the family; some read a rope_type since a later release than others.
        old_keys: whether `rope_theta` and `rope_scaling` say the same as `rope_parameters`.
    """

    rope_type: str
    keys: Collection[str]
    attention_factor: float | None = None
    top_keys: Collection[str] = ()
    model_type: str = ""
    old_keys: bool = True

    @classmethod
    def of(cls, config: Mapping[str, Any], position: Position) -> "Written | None":
        """Take it from a checkpoint's config; None where there is no rope that is known."""
        rope = position.rope
        if rope is None:
            return None
        block, decoder = rope.block, stated_part(config, position.part)
        return cls(
            rope_type=block.rope_type,
            keys=[
                # An engine that passes over a key computes with its default.
                *(key for key, value in block.numbers.items() if value != DEFAULT_BETAS.get(key)),
                *([] if block.truncate else ["truncate"]),
            ],
            attention_factor=block.numbers.get("attention_factor"),
            top_keys=[key for key in top_keys() if decoder.get(key) is not None],
            model_type=position.model_type,
            old_keys=reads_alike_in_transformers_4(config, rope),
        )

    @classmethod
    def as_block(
        cls, block: Mapping[str, Any], beside: Mapping[str, Any], model_type: str
    ) -> "Written":
        """Take it from what a method writes: a rope block, and keys beside it."""
        return cls(
            rope_type=block["rope_type"],
            keys=[*block],
            attention_factor=block.get("attention_factor"),
            top_keys=[*beside],
            model_type=model_type,
        )

    @property
    def attention(self) -> Attention:
        """The attention factor beside longrope's lists, as engines tell them apart."""
        if self.attention_factor is None:
            return "standard"
        return "one" if self.attention_factor == 1 else "own"


def serving(
    written: Written | None, target: int, model: str, *, local: bool
) -> tuple[Serving, ...]:
    """Say of each engine whether it runs a rope as transformers 5 does; nothing without a rope.

    Args:
        target: the window to serve, tokens.
        model: what commands name: a repository id, or a folder where `local`.
    """
    if written is None:
        return ()
    rows = []
    for engine in ENGINES:
        verdict, why = _verdict(engine, written)
        if verdict == "ok":
            why = _how(engine, target, model, local=local)
        rows.append(Serving(engine=engine.name, verdict=verdict, how=why, source=engine.source))
    return tuple(rows)


def divided(written: Written) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Divide engines into those that run a rope rightly in their current releases, and others."""
    right = tuple(engine.name for engine in ENGINES if _verdict(engine, written)[0] in _RIGHT)
    return right, tuple(engine.name for engine in ENGINES if engine.name not in right)


def _verdict(engine: Engine, written: Written) -> tuple[str, str]:
    if written.model_type == MODEL_TYPE:
        return (
            "refuses",
            f"does not know {MODEL_TYPE}: ctxext.lab.convert.to_llama makes it a Llama",
        )
    if written.rope_type not in ROPE_TYPES:
        return "unknown", f"rope_type {written.rope_type} is not known to ctxext"
    for key in written.top_keys:
        if key not in engine.top_keys:
            return "wrong", f"does not read {key}"
        if releases := engine.top_keys[key]:
            return "wrong", f"reads {key} in {releases} only"
    reading = _READINGS.get(engine.reading(written.rope_type))
    if reading is not None:
        return reading[0], reading[1].format(rope_type=written.rope_type)
    if not written.old_keys and not engine.reads_rope_parameters:
        return "wrong", "reads rope_theta and rope_scaling, which this config has not (extend does)"
    if "long_factor" in rope_type_facts(written.rope_type).keys:
        if not takes_attention(engine, written.attention):
            return "wrong", "puts an attention factor of its own in place of what the block says"
    elif (verdict := _of_keys(engine, written.keys)) is not None:
        return verdict
    if engine.releases and not written.old_keys:
        return "needs version", "from 5 on: rope_theta and rope_scaling do not say what it reads"
    if engine.releases:
        since = first_transformers(
            name_of_scaling(written.rope_type), written.model_type, written.keys
        )
        if since != "any" and any(before(release, since) for release in engine.releases):
            return "needs version", f"from {since} on"
    return "ok", ""


def _of_keys(engine: Engine, keys: Collection[str]) -> tuple[str, str] | None:
    """Say which keys of the block an engine passes over; None where it reads all."""
    ignored = {key: engine.ignored_keys[key] for key in keys if key in engine.ignored_keys}
    if always := [key for key, releases in ignored.items() if not releases]:
        return "wrong", f"ignores {' and '.join(always)}"
    if ignored:
        releases = " and ".join(sorted(set(ignored.values())))
        return "needs version", f"{releases} releases ignore {' and '.join(ignored)}"
    return None


def _how(engine: Engine, target: int, model: str, *, local: bool) -> str:
    command = engine.command(model, target, local=local)
    if command is not None:
        return command
    return f"{engine.window_flag} {target}" if engine.window_flag else "reads it as it is"
