"""The rope keys of a config.json, in both dialects, read into one form.

transformers 5 keeps everything in `rope_parameters`; transformers 4 and most serving engines read
`rope_scaling` beside a top-level `rope_theta`. Files in the world hold one, the other, or both.
"""

import hashlib
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ctxext.checkpoints.numbers import real, whole
from ctxext.encodings.rope import RopeSpec, inv_freq_of
from ctxext.errors import BadInput
from ctxext.methods import METHODS

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


def frequencies(
    block: RopeBlock, spec: RopeSpec, max_position_embeddings: int, where: str
) -> tuple[list[float], float] | None:
    """What a reader of this block computes, at the longest length the block is made for.

    Args:
        block: as read from a file.
        spec: rotary dims and *original* window; its `rope_theta` is not used, the block's is.
        max_position_embeddings: the config's, tokens.

    Returns:
        (inv_freq, attention_factor): (rotary_dim / 2,) radians per token, float64; None for a
        `rope_type` that ctxext does not know.

    Raises:
        BadInput: a key that this `rope_type` needs is missing, or a list has the wrong length.
    """
    spec = RopeSpec(spec.rotary_dim, block.rope_theta, spec.original_max_position_embeddings)
    window = spec.original_max_position_embeddings
    if block.rope_type == "default":
        return inv_freq_of(spec), 1.0
    if block.rope_type == "longrope":
        return _longrope(block, spec, max_position_embeddings, where)
    if block.rope_type not in METHODS or block.rope_type == "ntk":
        return None
    factor = block.factor
    if factor is None:
        if block.rope_type != "yarn" or block.original_max_position_embeddings is None:
            raise BadInput(f"{where}: rope_type {block.rope_type} needs a factor")
        factor = max_position_embeddings / window
    known = METHODS[block.rope_type].parameters
    parameters: dict[str, Any] = {k: v for k, v in block.numbers.items() if k in known}
    if "truncate" in known:
        parameters["truncate"] = block.truncate
    # The exact factor of the file counts, so the target may be a fraction of a token here.
    target: Any = window * factor
    extension = METHODS[block.rope_type](spec, target, **parameters)
    return extension.inv_freq, extension.attention_factor


def _longrope(
    block: RopeBlock, spec: RopeSpec, max_position_embeddings: int, where: str
) -> tuple[list[float], float]:
    """inv_freq of the long set, and sqrt(1 + ln s / ln L); LongRoPE, arXiv:2402.13753."""
    pairs = spec.rotary_dim // 2
    for name, factors in (("short_factor", block.short_factor), ("long_factor", block.long_factor)):
        if len(factors) != pairs:
            raise BadInput(
                f"{where}: {name} has {len(factors)} numbers, and {pairs} are needed "
                f"(one for each of {pairs} rotary pairs)"
            )
    window = spec.original_max_position_embeddings
    factor = block.factor or max_position_embeddings / window
    attention = block.numbers.get("attention_factor")
    if attention is None:
        attention = math.sqrt(1 + math.log(factor) / math.log(window)) if factor > 1 else 1.0
    return [f / s for f, s in zip(inv_freq_of(spec), block.long_factor, strict=True)], attention


def rope_hash(block: RopeBlock, spec: RopeSpec, max_position_embeddings: int, where: str) -> str:
    """sha256, as hex, of how a checkpoint rotates: two that rotate alike have the same.

    An adapter carries the hash of the encoding it was trained under, and a merge compares. What
    is hashed is the effect (`inv_freq` and attention factor to nine digits), so a default written
    out or left out, and either dialect, make no difference.
    """
    content: dict[str, Any] = {"rope_type": block.rope_type, "rotary_dim": spec.rotary_dim}
    effect = frequencies(block, spec, max_position_embeddings, where)
    if effect is None:
        content["numbers"] = dict(block.numbers) | {"factor": block.factor}
        content["rope_theta"] = f"{block.rope_theta:.9e}"
    else:
        content["inv_freq"] = [f"{f:.9e}" for f in effect[0]]
        content["attention_factor"] = f"{effect[1]:.9e}"
    if block.rope_type == "dynamic":  # the same at the target can differ on the way there
        content["window"] = max_position_embeddings
    if block.rope_type == "longrope":
        content["short_factor"] = [f"{f:.9e}" for f in block.short_factor]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
