"""`ctxext inspect A B`: what differs between two checkpoints in how they encode position."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ctxext.api._arguments import checked
from ctxext.api.inspect import InspectResult, inspect
from ctxext.checkpoints.config.detect import Position
from ctxext.checkpoints.config.layouts import Layer
from ctxext.checkpoints.config.rope_block import Dialect
from ctxext.checkpoints.config.rotation import Rope
from ctxext.checkpoints.live.tokenizer import TOKENIZER
from ctxext.checkpoints.weights.carry import TOKENIZER_CONFIG, fixed_lengths
from ctxext.runs.json_file import read_json_object

_ABSENT: Final = None


@dataclass(frozen=True)
class DifferenceResult:
    """What differs between two checkpoints; `to_dict` is the JSON document.

    Attributes:
        differences: by field, what the first and the second say; None where one says nothing.
        same_rope: whether every pair turns alike in both, at every length; None where one has no
            rope that is known.
        warnings: what breaks where the two are mixed.
    """

    first: InspectResult
    second: InspectResult
    differences: Mapping[str, tuple[Any, Any]]
    same_rope: bool | None
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": "ctxext.inspect-difference/1",
            "models": [each.opened.source.name for each in (self.first, self.second)],
            "differences": [
                {"field": field, "first": first, "second": second}
                for field, (first, second) in self.differences.items()
            ],
            "same_rope": self.same_rope,
            "first": self.first.to_dict(),
            "second": self.second.to_dict(),
            "warnings": list(self.warnings),
        }


@checked
def inspect_difference(
    first: str,
    second: str,
    *,
    target: int | str | None = None,
    revision: str | None = None,
    original_length: int | str | None = None,
    prefer: Dialect | None = None,
) -> DifferenceResult:
    """Compare rope, windows, layers, tokenizer lengths and KV cache of two checkpoints.

    Args:
        first, second: folders or Hub repository ids.
        target, revision, original_length, prefer: of both, as for `inspect`.

    Raises:
        BadInput, CtxextError: as `inspect`.
    """
    results = [
        inspect(
            model, target=target, revision=revision, original_length=original_length, prefer=prefer
        )
        for model in (first, second)
    ]
    facts = [_facts(result) for result in results]
    keys = list(dict.fromkeys([*facts[0], *facts[1]]))
    pairs = {key: (facts[0].get(key, _ABSENT), facts[1].get(key, _ABSENT)) for key in keys}
    ropes = [result.position.rope for result in results]
    same = None if None in ropes else ropes[0].sha256 == ropes[1].sha256  # type: ignore[union-attr]
    return DifferenceResult(
        first=results[0],
        second=results[1],
        differences={key: pair for key, pair in pairs.items() if pair[0] != pair[1]},
        same_rope=same,
        warnings=tuple(_warnings(results[0].position, results[1].position, same)),
    )


def _facts(result: InspectResult) -> dict[str, Any]:
    """List what is compared, by the name that a reader sees."""
    position, window = result.position, result.position.stated_window
    facts: dict[str, Any] = {
        "architecture": position.architecture,
        "model_type": position.model_type,
        "parameters": result.parameters,
        "dtype": result.dtype,
        "position encoding": position.encoding,
        "window, trained": window.original if window else None,
        "window, claimed": window.current if window else None,
        "max_position_embeddings": window.max_position_embeddings if window else None,
    }
    if position.rope is not None:
        facts |= _rope_facts(position.rope)
    return (
        facts
        | _layer_facts(position.layers)
        | _tokenizer_facts(result)
        | {"KV cache, bytes a token": result.kv_bytes_per_token}
        | {f"KV cache at {length}, bytes": size for length, size in result.kv_bytes_at.items()}
    )


def _rope_facts(rope: Rope) -> dict[str, Any]:
    block = rope.block
    numbers = {f"rope, {key}": value for key, value in block.numbers.items()}
    lists = {"short_factor": block.short_factor, "long_factor": block.long_factor}
    return {
        "rope_type": block.rope_type,
        "rope_theta": block.rope_theta,
        "rope_theta, trained": rope.spec.rope_theta,
        **numbers,
        "rope, factor": block.factor,
        "rope, original_max_position_embeddings": block.original_max_position_embeddings,
        "rope, truncate": block.truncate,
        "attention factor": rope.attention_factor,
        **{f"rope, {key}": list(value) for key, value in lists.items() if value},
        "head_dim": rope.head_dim,
        "rotary_dim": rope.spec.rotary_dim,
    }


def _layer_facts(layers: tuple[Layer, ...]) -> dict[str, Any]:
    """Count layers, and each kind of them by attention, window and position."""
    kinds: dict[str, int] = {}
    for layer in layers:
        over = f" over {layer.window}" if layer.window else ""
        kind = f"{layer.attention or 'unknown'}{over}, {layer.position_encoding or 'unknown'}"
        kinds[kind] = kinds.get(kind, 0) + 1
    return {"layers": len(layers), **{f"layers, {kind}": n for kind, n in kinds.items()}}


def _tokenizer_facts(result: InspectResult) -> dict[str, Any]:
    folder, facts = result.opened.source.folder, {}
    if (path := folder / TOKENIZER_CONFIG).exists():
        length = read_json_object(path)[0].get("model_max_length")
        facts["tokenizer, model_max_length"] = length
    if (path := folder / TOKENIZER).exists():
        cut, padded = fixed_lengths(read_json_object(path)[0])
        facts |= {"tokenizer, truncation": cut, "tokenizer, padding": padded}
    return facts


def _warnings(first: Position, second: Position, same_rope: bool | None) -> list[str]:
    """Say what breaks where weights of the two are mixed."""
    if first.encoding != second.encoding:
        return [
            f"position is told in two ways ({first.encoding or 'unknown'} and "
            f"{second.encoding or 'unknown'}): neither weights nor adapters of one fit the other"
        ]
    if first.rope is None or second.rope is None or same_rope:
        return []
    one, other = first.rope, second.rope
    if one.spec.rotary_dim != other.spec.rotary_dim:
        return [
            f"{one.spec.rotary_dim} and {other.spec.rotary_dim} dims of a head turn: neither "
            "weights nor adapters of one fit the other"
        ]
    way_out = (
        "what was trained moves as a difference of weights (task arithmetic) only between "
        "checkpoints of one rope"
    )
    if one.block.rope_theta != other.block.rope_theta:
        return [
            f"rope_theta differs ({one.block.rope_theta:g} and {other.block.rope_theta:g}): "
            "theta is a part of what the weights learned, so a merge of the two is broken, and an "
            f"adapter of one is wrong on the other: {way_out}"
        ]
    return [
        f"the ropes differ ({one.block.rope_type} and {other.block.rope_type}): extend both by the "
        "same method, parameters and window before merging or before an adapter is moved "
        f"(ctxext extend, ctxext merge --base): {way_out}"
    ]
