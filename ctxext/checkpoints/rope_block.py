"""The rope keys of a config.json, in both dialects, read into one form.

transformers 5 keeps everything in `rope_parameters`; transformers 4 and most serving engines read
`rope_scaling` beside a top-level `rope_theta`. Files in the world hold one, the other, or both.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ctxext.checkpoints.numbers import real, whole
from ctxext.errors import BadInput

Dialect = Literal["rope_parameters", "rope_scaling"]
ROPE_KEYS = (
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "rope_type",
    "type",
    "factor",
    "max_position_embeddings",
    "original_max_position_embeddings",
)
_NUMBERS = (
    "factor",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "low_freq_factor",
    "high_freq_factor",
    "mscale",
    "mscale_all_dim",
    "partial_rotary_factor",
)
_ALIASES = {"su": "longrope"}


@dataclass(frozen=True)
class RopeBlock:
    """How a checkpoint scales its rotary encoding now.

    Attributes:
        rope_type: `default`, `linear`, `dynamic`, `yarn`, `llama3`, `longrope`, or a name that
            ctxext does not know, as it stands in the file.
        rope_theta: base; `theta_assumed` when the file has none and the family's default is used.
        factor: as written; None when absent.
        original_max_position_embeddings: trained window if the file says it, tokens.
        numbers: the other numeric keys that are present, by name.
        short_factor, long_factor: longrope's lists, each of rotary_dim / 2 numbers.
        truncate: yarn's flag.
        dialects: what each dialect present says, normalized, for showing a disagreement.
        preferred: whether the user said which dialect counts.
    """

    rope_type: str
    rope_theta: float
    theta_assumed: bool = False
    factor: float | None = None
    original_max_position_embeddings: int | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()
    truncate: bool = True
    dialects: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    preferred: bool = False

    @property
    def dialects_agree(self) -> bool:
        """Whether every dialect in the file says the same."""
        return len({json.dumps(d, sort_keys=True) for d in self.dialects.values()}) <= 1


def read_rope_block(
    config: Mapping[str, Any],
    *,
    where: str,
    default_theta: float,
    prefer: Dialect | None = None,
    warnings: list[str],
) -> RopeBlock:
    """Read the rope keys of a config.

    Args:
        config: the parsed config.json.
        where: its path, for messages.
        default_theta: the family's base, used when the file names none.
        prefer: the dialect that counts where both are present and disagree; None: the one that
            transformers 5 takes (`rope_scaling`).
        warnings: gets what the reader had to assume.

    Raises:
        BadInput: a value that no reader could use, its key named; `type` unlike `rope_type`;
            rope parameters nested by layer type.
    """
    dialects: dict[str, dict[str, Any]] = {}
    for name in ("rope_scaling", "rope_parameters"):
        block = config.get(name)
        if block is None:
            continue
        if not isinstance(block, dict):
            raise BadInput(f"{where}: {name} is {block!r}, and has to be an object or null")
        if block and all(isinstance(value, dict) for value in block.values()):
            raise BadInput(
                f"{where}: {name} is nested by layer type ({', '.join(block)}), "
                "which ctxext does not read yet",
            )
        dialects[name] = _normalized(config, block, f"{where}: {name}", warnings)
    if not dialects:
        dialects["rope_scaling"] = _normalized(config, {}, where, warnings)
    elif config.get("rope_scaling", "absent") is None and "rope_theta" in config:
        # A file with `rope_scaling: null` says "not scaled" to every reader of the old dialect.
        dialects["rope_scaling"] = _normalized(config, {}, where, warnings)

    # transformers 5 takes rope_scaling over rope_parameters where both hold an object.
    first: str = prefer or ("rope_scaling" if config.get("rope_scaling") else "rope_parameters")
    chosen = dialects.get(first) or next(iter(dialects.values()))
    theta = chosen.get("rope_theta")
    if theta is None:
        warnings.append(f"{where} has no rope_theta; {default_theta:g}, the family's, is assumed")
    elif not theta > 1:
        raise BadInput(f"{where}: rope_theta is {theta:g}, and has to be greater than 1")
    factor = chosen.get("factor")
    if factor is not None and factor < 1:
        raise BadInput(f"{where}: factor is {factor:g}, and has to be at least 1")
    return RopeBlock(
        rope_type=chosen["rope_type"],
        rope_theta=default_theta if theta is None else theta,
        theta_assumed=theta is None,
        factor=factor,
        original_max_position_embeddings=chosen.get("original_max_position_embeddings"),
        numbers={k: chosen[k] for k in _NUMBERS if k in chosen and k != "factor"},
        short_factor=tuple(chosen.get("short_factor", ())),
        long_factor=tuple(chosen.get("long_factor", ())),
        truncate=chosen.get("truncate", True),
        dialects=dialects,
        preferred=prefer in dialects,
    )


def _normalized(
    config: Mapping[str, Any], block: Mapping[str, Any], where: str, warnings: list[str]
) -> dict[str, Any]:
    """One dialect's block with its type, theta and original window filled in from the top level."""
    rope_type, legacy = block.get("rope_type"), block.get("type")
    if rope_type is not None and legacy is not None and rope_type != legacy:
        raise BadInput(
            f"{where} says rope_type {rope_type!r} and type {legacy!r}, and readers disagree on "
            "which counts",
            "make them equal, or remove one",
        )
    name = rope_type if rope_type is not None else legacy
    if name is None:
        name = "default"
        if block.get("factor") is not None:
            raise BadInput(f"{where} has a factor and no rope_type", 'add "rope_type"')
    if not isinstance(name, str):
        raise BadInput(f"{where}: rope_type is {name!r}, and has to be a string")
    out: dict[str, Any] = {"rope_type": _ALIASES.get(name, name)}
    theta_from = block if block.get("rope_theta") is not None else config
    theta = real(theta_from, "rope_theta", where, warnings)
    if theta is not None:
        out["rope_theta"] = theta
    for key in _NUMBERS:
        number = real(block, key, where, warnings)
        if number is not None:
            out[key] = number
    original = whole(block, "original_max_position_embeddings", where)
    if original is None and out["rope_type"] in ("yarn", "llama3", "longrope"):
        original = whole(config, "original_max_position_embeddings", where)
    if original is not None:
        out["original_max_position_embeddings"] = original
    for key in ("short_factor", "long_factor"):
        factors = block.get(key)
        if factors is None:
            continue
        if not isinstance(factors, list) or not all(
            isinstance(f, int | float) and not isinstance(f, bool) and 0 < f <= sys.float_info.max
            for f in factors
        ):
            raise BadInput(f"{where}: {key} has to be a list of positive numbers")
        out[key] = [float(f) for f in factors]
    if "truncate" in block:
        if not isinstance(block["truncate"], bool):
            raise BadInput(f"{where}: truncate is {block['truncate']!r}, not true or false")
        out["truncate"] = block["truncate"]
    return out
