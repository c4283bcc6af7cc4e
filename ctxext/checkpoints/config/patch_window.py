"""Make the new config of a checkpoint whose method writes no rope: its window, as a value."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from ctxext.checkpoints.config.decoder_part import stated_part, with_decoder_part
from ctxext.checkpoints.config.detect import Position
from ctxext.checkpoints.config.extendable import not_by_this
from ctxext.checkpoints.config.patch import Patch, patch_sliding_window, plan_patch
from ctxext.checkpoints.config.patch_scores import plan_scores
from ctxext.checkpoints.config.tables import rows_in_window
from ctxext.checkpoints.config.windows import RECORDED, Window, raise_window, states_window
from ctxext.encodings.kinds import ROTARY, PositionEncoding
from ctxext.errors import BadInput
from ctxext.methods import Extension, Method, ScoreExtension, SlopesExtension, TableExtension
from ctxext.runs.numbers import real

SLOPE_FACTOR: Final = "alibi_slope_factor"
_CAUTIONS: Final[dict[PositionEncoding, str]] = {
    "alibi": "ALiBi reads on past its window with a perplexity that stays flat while text from far "
    "away may be hardly used: measure it with eval-retrieval",
    "sinusoidal": "positions beyond the trained ones are new to the model, and what it reads gets "
    "worse soon: train it at the target (ctxext finetune --seq-length)",
    "none": "without positions attention spreads over more tokens than it was trained on: measure "
    "it with eval-ppl and eval-retrieval",
}

_UNMEASURED: Final = (
    "c = {} is no measurement: --calibrate TEXT finds the c that reads a text of yours best"
)


def plan_extended(
    config: Mapping[str, Any],
    position: Position,
    method: Method,
    target: int,
    *,
    parameters: Mapping[str, Any],
    sliding_window: int | str | None = "keep",
    where: str = "config.json",
) -> Patch:
    """Compute the config of the extended checkpoint, whatever the method writes.

    Args:
        config, position: of the base.
        target, parameters: as for `ctxext.methods`.
        sliding_window: `"keep"`; None switches it off; a number of tokens replaces it.

    Raises:
        BadInput: as `plan_patch`; the family or its encoding cannot be extended this way, or was
            already.
    """
    if method.of_rope:
        return plan_patch(
            config, position, method=method.name, target=target, parameters=parameters,
            sliding_window=sliding_window, where=where,
        )  # fmt: skip
    if method.makes is ScoreExtension and position.encoding in ROTARY:
        patch = plan_scores(config, position, method, target, parameters, where)
    else:
        patch = _plan_window(config, position, method, target, parameters, sliding_window, where)
    if isinstance(patch.extension, ScoreExtension) and not parameters:
        said = _UNMEASURED.format(patch.extension.parameters["c"])
        patch = replace(patch, warnings=(*patch.warnings, said))
    return patch


def _plan_window(
    config: Mapping[str, Any],
    position: Position,
    method: Method,
    target: int,
    parameters: Mapping[str, Any],
    sliding_window: int | str | None,
    where: str,
) -> Patch:
    """Compute the config where no rope is written; what else is written the extension says."""
    reason = not_by_this(position, method, where)
    if reason is not None:
        raise reason
    if position.doubts:
        raise position.doubts[0]
    if position.spec is None:
        raise BadInput(f"{where}: what this {position.model_type} was trained with is unknown")
    window, warnings = position.window, list[str]()
    if target == window.original:
        return _nothing(config, window, method, warnings)
    if (reason := second_table(position, method, where)) is not None:
        raise reason
    new = dict(stated_part(config, position.part))
    if sliding_window != "keep" and not any(x.attention == "sliding" for x in position.layers):
        raise BadInput(
            f"--sliding-window: no layer of this {position.model_type} slides", "leave it out"
        )
    patch_sliding_window(new, position, target, sliding_window, warnings)
    extension = method(position.spec, target, **parameters)
    warnings += extension.notes
    if target < window.current:
        warnings.append(
            f"the target of {target} tokens is shorter than the {window.current} that the "
            "checkpoint claims to read already"
        )
    if position.encoding in _CAUTIONS:
        warnings.append(_CAUTIONS[position.encoding])
    _write(new, extension, position, warnings)
    whole = with_decoder_part(config, position.part, new)
    return Patch(whole, extension, method.name, window.original, target, tuple(warnings))


def slope_factor(config: Mapping[str, Any], where: str) -> float:
    """Read by what ctxext's own decoder divides ALiBi's slopes; 1 where the config says nothing.

    Raises:
        BadInput: no number above 0.
    """
    factor = real(config, SLOPE_FACTOR, where, [])
    if factor is not None and not factor > 0:
        raise BadInput(f"{where}: {SLOPE_FACTOR} is {factor:g}, and has to be above 0")
    return 1.0 if factor is None else factor


def second_table(position: Position, method: Method, where: str) -> BadInput | None:
    """Give the reason why a method makes no rows of rows that a method made; None = it does not."""
    window = position.stated_window
    if method.makes is not TableExtension or window is None or window.source != RECORDED:
        return None
    return extended_table(where, window.current) if window.current > window.original else None


def extended_table(where: str, reached: int) -> BadInput:
    """Write the error for a table that was extended already: its trained rows are gone."""
    return BadInput(
        f"{where}: its table of positions was extended to {reached} rows already, and the trained "
        "rows are not in it",
        "extend the checkpoint that it was made of",
    )


def _nothing(
    config: Mapping[str, Any], window: Window, method: Method, warnings: list[str]
) -> Patch:
    """Make the patch for a target that is the trained window.

    Raises:
        BadInput: the checkpoint was extended before.
    """
    if window.current > window.original:
        raise BadInput(
            f"--target {window.original} is the original window of a checkpoint that already "
            f"claims {window.current}",
            "use its base for that",
        )
    warnings.append(f"factor 1: {window.original} tokens is the window already: nothing changes")
    return Patch(dict(config), None, method.name, window.original, window.original, tuple(warnings))


def _write(
    config: dict[str, Any], extension: Extension, position: Position, warnings: list[str]
) -> None:
    """Put the window, and what an extension says in the config, where the class reads it."""
    before = rows_in_window(config, position.model_type)
    if states_window(config, position.model_type):
        said = position.window.max_position_embeddings + before
        raise_window(config, position.model_type, said, extension.max_position_embeddings + before)
    else:
        warnings.append(
            f"no key of the config of this {position.model_type} states a window, so none is "
            "raised: ctxext.json says it, and the tokenizer's model_max_length"
        )
    if isinstance(extension, SlopesExtension):
        config[SLOPE_FACTOR] = slope_factor(config, "config.json") * extension.factor
    if "dtype" in config and "torch_dtype" not in config:
        config["torch_dtype"] = config["dtype"]  # its name in transformers 4
