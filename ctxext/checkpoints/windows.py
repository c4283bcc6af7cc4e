"""The window of a checkpoint: trained, and claimed now."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ctxext.checkpoints.numbers import whole
from ctxext.checkpoints.rope_block import RopeBlock
from ctxext.errors import BadInput


@dataclass(frozen=True)
class Window:
    """Tokens: trained (`original`), claimed now (`current`), and which key said so."""

    original: int
    current: int
    source: str


@dataclass(frozen=True)
class Origin:
    """What an earlier `ctxext extend` wrote down: the base before any scaling."""

    window: int
    rope_theta: float


def claimed_window(config: Mapping[str, Any], where: str) -> tuple[int, str]:
    for key in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx"):
        value = whole(config, key, where)
        if value is not None:
            return value, key
    raise BadInput(
        f"{where} has no max_position_embeddings, so its window is unknown",
        "add the key, as the base model's card gives it",
    )


def believed(
    origin: Origin | None, block: RopeBlock, current: int, where: str, warnings: list[str]
) -> Origin | None:
    """What a `ctxext.json` says of the base, unless the config beside it contradicts: it may stem
    from another checkpoint, and an extension only ever makes window and base larger."""
    if origin is None:
        return None
    said = ""
    if origin.window > current:
        said = f"a trained window of {origin.window} tokens, and {where} claims {current}"
    elif block.rope_type == "default" and origin.rope_theta > block.rope_theta:
        said = f"an original rope_theta of {origin.rope_theta:g}, above {block.rope_theta:g} now"
    if said:
        warnings.append(f"ctxext.json says {said}: it is not believed")
    return None if said else origin


def read_windows(
    block: RopeBlock,
    current: int,
    source: str,
    original_length: int | None,
    origin: Origin | None,
    where: str,
    warnings: list[str],
) -> Window:
    """Trained and claimed window of a rotary checkpoint, whatever scaling it already has."""
    stated = block.original_max_position_embeddings
    factor = block.factor or 1.0
    if (
        stated is not None
        and stated > current
        and block.rope_type in ("linear", "yarn", "llama3", "longrope")
    ):
        raise BadInput(
            f"{where}: original_max_position_embeddings {stated} is larger than "
            f"max_position_embeddings {current}"
        )
    if block.rope_type == "dynamic":  # max_position_embeddings is the original, by its formula
        original, claimed, said = current, round(current * factor), source
    elif stated is not None and block.rope_type != "default":
        original, claimed, said = stated, current, "original_max_position_embeddings"
    elif origin is not None:
        original, claimed, said = origin.window, current, "ctxext.json"
    elif block.rope_type in ("linear", "yarn", "llama3") and factor > 1:
        if factor > current:
            raise BadInput(f"{where}: factor is {factor:g}, and the window is {current} tokens")
        original, claimed, said = round(current / factor), current, f"{source} / factor"
        warnings.append(
            f"{where} does not say its original window: {current} / {factor:g} = {original} is "
            "assumed (correct it with --original-length)"
        )
    else:
        original, claimed, said = current, current, source
    if claimed >= 2**31:
        raise BadInput(f"{where}: {original} x factor {factor:g} is beyond 2**31 tokens")
    if original_length is not None:
        original, said = original_length, "--original-length"
        claimed = max(claimed, original)
    return Window(original, claimed, said)
