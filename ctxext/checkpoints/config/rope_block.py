"""Read the rope keys of a config.json, in both dialects, into one form.

transformers 5 keeps everything in `rope_parameters`; transformers 4 and most serving engines read
`rope_scaling` beside a top-level `rope_theta`. Files in the world hold one, the other, or both.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from ctxext.checkpoints.config import rope_families
from ctxext.checkpoints.config.families import KNOWN, PLAIN_ROPE
from ctxext.encodings.rope_types import ROPE_TYPES, follows_length, rope_type_facts
from ctxext.errors import BadInput, shown
from ctxext.runs.numbers import real, whole

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
_ORIGINAL = "original_max_position_embeddings"
_NUMBERS = (
    "factor",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "low_freq_factor",
    "high_freq_factor",
    "mscale",
    "mscale_all_dim",
    "short_mscale",
    "long_mscale",
    "partial_rotary_factor",
)
_ALIASES = {"su": "longrope"}
_SAY_IT_AGAIN: Final = ("short_mscale", "long_mscale")
_READ_ELSEWHERE: Final = {
    "attn_factor": "vLLM and SGLang multiply yarn's attention factor by it",
    "extrapolation_factor": "vLLM and SGLang weigh yarn's ramp by it",
    "alpha": "vLLM and SGLang take it in place of dynamic scaling's factor",
    "short_mscale": "vLLM takes it as longrope's attention factor on short texts",
    "long_mscale": "vLLM takes it as longrope's attention factor on long texts",
    "mscale": "DeepSeek's own classes read it",
    "mscale_all_dim": "DeepSeek's own classes read it",
}
_LARGEST_THETA: Final = 3e38  # of a float32
# No factor that anybody computes with is near these, and results stay numbers between them.
_SMALLEST: Final = 1e-6
_LARGEST: Final = 2.0**31


@dataclass(frozen=True)
class RopeBlock:
    """How a checkpoint scales its rotary encoding now.

    Attributes:
        rope_type: `default`, `linear`, `dynamic`, `yarn`, `llama3`, `longrope`, or a name that
            ctxext does not know, as it stands in the file.
        rope_theta: base; `theta_assumed` when the file has none and the family's default is used.
        factor: as written; None when absent or null.
        factor_is_null: whether the key is there with null, which is not the same to transformers.
        original_max_position_embeddings: trained window if the file says it, tokens.
        numbers: the other numeric keys that are present, by name.
        short_factor, long_factor: longrope's lists, each of rotary_dim / 2 numbers.
        truncate: yarn's flag.
        own: keys that only this family's class reads, whatever the rope_type; kept when the rope
            is scaled.
        other_keys: keys of the block that transformers does not read under this rope_type.
        doubts: where the block contradicts itself. transformers goes on, so we read it as it does;
            nothing is written on such a ground.
        dialects: what each dialect present says, normalized, for showing a disagreement.
        preferred: whether the user said which dialect counts.
    """

    rope_type: str
    rope_theta: float
    theta_assumed: bool = False
    factor: float | None = None
    factor_is_null: bool = False
    original_max_position_embeddings: int | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()
    truncate: bool = True
    own: Mapping[str, Any] = field(default_factory=dict)
    other_keys: tuple[str, ...] = ()
    doubts: tuple[BadInput, ...] = ()
    dialects: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    preferred: bool = False

    @property
    def follows_length(self) -> bool:
        """Whether the rotation depends on the length of the sequence at hand."""
        return follows_length(
            {
                "rope_type": self.rope_type,
                "short_factor": self.short_factor,
                "long_factor": self.long_factor,
                "attention_factor": self.numbers.get("attention_factor"),
            }
        )

    @property
    def dialects_agree(self) -> bool:
        """Whether every dialect in the file says the same."""
        return len({json.dumps(d, sort_keys=True) for d in self.dialects.values()}) <= 1


def read_rope_block(
    config: Mapping[str, Any],
    *,
    where: str,
    model_type: str,
    prefer: Dialect | None = None,
    warnings: list[str],
) -> RopeBlock:
    """Read the rope keys of a config as transformers 5 does for this family.

    Args:
        where: its path, for messages.
        model_type: the family, whose class may have defaults and names of its own.
        prefer: the dialect that counts where both are present and disagree; None: the one that
            transformers 5 takes (`rope_scaling`).
        warnings: gets what the reader had to assume, and keys that only some readers know.

    Raises:
        BadInput: a value that no reader could use, its key named.
    """
    blocks = _blocks(config, where)
    # transformers 5 takes rope_scaling over rope_parameters where both hold an object.
    first: str = prefer or ("rope_scaling" if config.get("rope_scaling") else "rope_parameters")
    name = first if first in blocks else next(iter(blocks))
    dialects = {}
    for other, block in blocks.items():
        said = f"{where}: {other}" if block else where
        try:
            dialects[other] = _normalized(config, block, model_type, said, warnings)
        except BadInput as error:
            if other == name:
                raise
            warnings.append(f"{error}; {name} is read in its place")
            dialects[other] = {"unreadable": str(error)}
    chosen, doubts = dialects[name], _doubts(blocks[name], model_type, f"{where}: {name}")
    if prefer is None:
        doubts += _two_thetas(blocks[name], config, model_type, f"{where}: {name}")
    theta = _theta(chosen, blocks[name], config, model_type, where, warnings)
    factor = _factor(chosen, where, doubts)
    return RopeBlock(
        rope_type=chosen["rope_type"],
        rope_theta=theta,
        theta_assumed="rope_theta" not in chosen,
        factor=factor,
        factor_is_null="factor" in chosen and factor is None,
        original_max_position_embeddings=chosen.get(_ORIGINAL),
        numbers={k: chosen[k] for k in _NUMBERS if k in chosen and k != "factor"},
        short_factor=tuple(chosen.get("short_factor", ())),
        long_factor=tuple(chosen.get("long_factor", ())),
        truncate=chosen.get("truncate", True),
        own=_own(blocks[name], model_type),
        other_keys=_other_keys(chosen["rope_type"], blocks[name], model_type, where, warnings),
        doubts=tuple(doubts),
        dialects=dialects,
        preferred=prefer in dialects,
    )


def _factor(block: Mapping[str, Any], where: str, doubts: list[BadInput]) -> float | None:
    """Read how far a block scales; doubt it below 1.

    Raises:
        BadInput: no reader could use it.
    """
    factor: float | None = block.get("factor")
    if factor is not None and not _SMALLEST <= factor < _LARGEST:
        raise BadInput(f"{where}: factor is {factor:g}, and has to be at least 1 and below 2**31")
    if factor is not None and factor < 1:
        doubts.append(BadInput(f"{where}: factor is {factor:g}, and has to be at least 1"))
    return factor


def _blocks(config: Mapping[str, Any], where: str) -> dict[str, Mapping[str, Any]]:
    """Read what each dialect holds; an empty block where the file says that nothing is scaled."""
    blocks: dict[str, Mapping[str, Any]] = {}
    for name in ("rope_scaling", "rope_parameters"):
        block = config.get(name)
        if block is None:
            continue
        if not isinstance(block, dict):
            raise BadInput(f"{where}: {name} is {shown(block)}, and has to be an object or null")
        blocks[name] = block
    absent = config.get("rope_scaling", "absent") is None and "rope_theta" in config
    if not blocks or (absent and "rope_scaling" not in blocks):
        # A file with `rope_scaling: null` says "not scaled" to every reader of the old dialect.
        blocks["rope_scaling"] = {}
    return blocks


def _theta(
    chosen: Mapping[str, Any],
    block: Mapping[str, Any],
    config: Mapping[str, Any],
    model_type: str,
    where: str,
    warnings: list[str],
) -> float:
    """Read the base of the frequencies, the class's own where the file has none."""
    theta = chosen.get("rope_theta")
    if theta is None:
        nulled = "rope_theta" in (block if "rope_theta" in block else config)
        if nulled and model_type in PLAIN_ROPE:
            raise BadInput(
                f"{where}: rope_theta is null, and transformers needs a number there",
                "write the base model's, or remove the key",
            )
        otherwise = rope_families.DEFAULT_THETA_OTHERWISE
        default: float = rope_families.DEFAULT_THETA.get(model_type, otherwise)
        key = rope_families.THETA_KEY.get(model_type, "rope_theta")
        warnings.append(f"{where} has no {key}; {default:g}, the family's, is assumed")
        return default
    if not 1 < theta < _LARGEST_THETA:
        raise BadInput(
            f"{where}: rope_theta is {theta:g}, and has to be greater than 1 and fit in a float32"
        )
    return float(theta)


def _normalized(
    config: Mapping[str, Any],
    block: Mapping[str, Any],
    model_type: str,
    where: str,
    warnings: list[str],
) -> dict[str, Any]:
    """Fill in type, theta and original window of a dialect's block from the top level."""
    out: dict[str, Any] = {"rope_type": _rope_type(block, model_type, where)}
    theta_key = rope_families.THETA_KEY.get(model_type, "rope_theta")
    theta = real(block, "rope_theta", where, warnings)
    if theta is None and "rope_theta" not in block:
        theta = real(config, theta_key, where, warnings)
    if theta is not None:
        out["rope_theta"] = theta
    if "factor" in block:
        out["factor"] = None
    for key in _NUMBERS:
        number = real(block, key, where, warnings)
        if number is not None:
            out[key] = number
    if block.get("partial_rotary_factor", 1) is None and out["rope_type"] != "default":
        raise BadInput(f"{where}: partial_rotary_factor is null", "remove it")
    original = _original(config, block, out["rope_type"], model_type, where, warnings)
    if original is not None:
        out[_ORIGINAL] = original
    for key in ("short_factor", "long_factor"):
        if block.get(key) is not None:
            out[key] = _factors(block[key], key, where)
    if "truncate" in block:
        if not isinstance(block["truncate"], bool | None):
            raise BadInput(f"{where}: truncate is {shown(block['truncate'])}, not true or false")
        out["truncate"] = bool(block["truncate"])  # null is false to transformers
    return out


def _doubts(block: Mapping[str, Any], model_type: str, where: str) -> list[BadInput]:
    """Doubt a block with two types, or none; transformers takes rope_type, or default."""
    rope_type, legacy = block.get("rope_type"), block.get("type")
    two = rope_type is not None and legacy is not None and rope_type != legacy
    # mrope and default are one, as are su and longrope: transformers saves both names.
    if two and _meant(legacy, model_type) != _meant(rope_type, model_type):
        return [
            BadInput(
                f"{where} says rope_type {shown(rope_type)} and type {shown(legacy)}, and readers "
                "disagree on which counts",
                "make them equal, or remove one",
            )
        ]
    if rope_type is None and legacy is None and block.get("factor") is not None:
        return [BadInput(f"{where} has a factor and no rope_type", 'add "rope_type"')]
    return []


def _two_thetas(
    block: Mapping[str, Any], config: Mapping[str, Any], model_type: str, where: str
) -> list[BadInput]:
    """Doubt a block whose base is not the one beside it: transformers 5 takes the block's."""
    key = rope_families.THETA_KEY.get(model_type, "rope_theta")
    inside, beside = real(block, "rope_theta", where, []), real(config, key, where, [])
    if None in (inside, beside) or inside == beside:
        return []
    return [
        BadInput(
            f"{where} says rope_theta {inside:g}, and {key} beside it is {beside:g}: transformers "
            "5 takes the first, transformers 4 and most engines the second",
            "make them equal, or remove one",
        )
    ]


def _meant(name: object, model_type: str) -> object:
    """Give the one name of a type that has several, whatever else stands there as it is."""
    return _one_name(name, model_type) if isinstance(name, str) else name


def _one_name(name: str, model_type: str) -> str:
    if name == "mrope" and "mrope_section" in rope_families.OWN_KEYS.get(model_type, frozenset()):
        return "default"  # positions of images are of three kinds; the frequencies are plain
    return _ALIASES.get(name, name)


def _rope_type(block: Mapping[str, Any], model_type: str, where: str) -> str:
    name = block.get("rope_type", block.get("type"))
    if name is None:
        for key in ("rope_type", "type"):
            if key in block:
                raise BadInput(f"{where}: {key} is null", "remove it, or write the type")
        return "default"
    if not isinstance(name, str):
        raise BadInput(f"{where}: rope_type is {shown(name)}, and has to be a string")
    if not name.isprintable() or len(name) > 100:
        raise BadInput(f"{where}: rope_type is {name[:40]!r}, which is no name")
    if name != "default" and model_type in rope_families.LONGROPE_ONLY:
        if name not in rope_families.LONGROPE_NAMES:
            raise BadInput(
                f"{where}: rope_type is {name[:40]!r}, and {model_type} takes longrope only in "
                "transformers"
            )
        return "longrope"
    return _one_name(name, model_type)


def _original(
    config: Mapping[str, Any],
    block: Mapping[str, Any],
    rope_type: str,
    model_type: str,
    where: str,
    warnings: list[str],
) -> int | None:
    """Read the trained window as stated; of two the top level's counts, as in transformers."""
    inside, above = whole(block, _ORIGINAL, where), whole(config, _ORIGINAL, where)
    if not rope_type_facts(rope_type).states_original:
        return inside or above
    if _ORIGINAL not in config:
        above = rope_families.ORIGINAL_WHEN_ABSENT.get(model_type)
    elif above is None:
        raise BadInput(
            f"{where}: {_ORIGINAL} is null at the top level, where transformers looks first",
            "remove it there",
        )
    if above is None:
        if _ORIGINAL in block and inside is None:
            raise BadInput(f"{where}: {_ORIGINAL} is null", "write the trained window")
        return inside
    if inside not in (None, above):
        warnings.append(
            f"{where} has {_ORIGINAL} {inside}, and the top level (or its default) {above}: "
            "transformers takes the second, vLLM the first"
        )
    return above


def _factors(factors: Any, key: str, where: str) -> list[float]:
    if not isinstance(factors, list) or not all(
        isinstance(f, int | float) and not isinstance(f, bool) and _SMALLEST <= f < _LARGEST
        for f in factors
    ):
        raise BadInput(f"{where}: {key} has to be a list of positive numbers below 2**31")
    return [float(f) for f in factors]


def _own(block: Mapping[str, Any], model_type: str) -> dict[str, Any]:
    keys = rope_families.OWN_KEYS.get(model_type, frozenset())
    return {key: value for key, value in block.items() if key in keys}


def _other_keys(
    rope_type: str, block: Mapping[str, Any], model_type: str, where: str, warnings: list[str]
) -> tuple[str, ...]:
    """List keys that transformers does not read here; those of other readers get a warning each."""
    if rope_type not in ROPE_TYPES:
        return ()
    read = ROPE_TYPES[rope_type].keys | rope_families.OWN_KEYS.get(model_type, frozenset())
    always = {"rope_type", "type", "rope_theta", "partial_rotary_factor", _ORIGINAL}
    others = tuple(key for key in block if key not in read | always)
    said = block.get("attention_factor")
    if said is not None:  # the same once more, for who reads it there
        others = tuple(k for k in others if k not in _SAY_IT_AGAIN or block[k] != said)
    if model_type not in KNOWN:  # whose code may read them
        return others
    for key in others:
        if key in _READ_ELSEWHERE:
            warnings.append(
                f"{where}: {key} is read by some only: {_READ_ELSEWHERE[key]}, and transformers "
                f"ignores it for {model_type} under {rope_type}"
            )
    rest = [shown(key, 40) for key in others if key not in _READ_ELSEWHERE]
    if rest:
        warnings.append(
            f"{where}: transformers does not read {', '.join(rest[:8])} under rope_type {rope_type}"
        )
    if "mscale" in read:
        pair = [key for key in ("mscale", "mscale_all_dim") if block.get(key)]
        if len(pair) == 2 and block.get("attention_factor") is None:
            warnings.append(
                f"{where}: mscale and mscale_all_dim give the attention factor in transformers; "
                "older vLLM, MLX and llama.cpp take yarn's default"
            )
        elif pair:
            warnings.append(
                f"{where}: {' and '.join(pair)} decide nothing in transformers "
                "(both are needed, and no attention_factor); DeepSeek's own classes read them"
            )
    return others
