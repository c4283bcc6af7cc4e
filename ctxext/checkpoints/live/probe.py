"""Ask a shrunk random copy of a checkpoint's model whether its rope is what the config says."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ctxext.checkpoints.config import families
from ctxext.checkpoints.config.decoder_config import decoder_config, said_of
from ctxext.checkpoints.config.detect import Position
from ctxext.checkpoints.folder import Source
from ctxext.checkpoints.live.check import check_live_rope
from ctxext.checkpoints.live.quiet import quiet_transformers
from ctxext.checkpoints.live.small import small_decoder
from ctxext.encodings.kinds import ROTARY
from ctxext.errors import CtxextError

if TYPE_CHECKING:
    pass

_TOKENS: Final = 32
_FASTER: Final = 0.01  # of the base: every pair but the first turns faster


@dataclass(frozen=True)
class Probe:
    """What a random model of the checkpoint's class does.

    Attributes:
        moves: whether its states change with the base of its rope; None = its config has no rope.
        agrees: whether that, and its frequencies, are what was read in the config.
        said: one sentence.
    """

    moves: bool | None
    agrees: bool
    said: str


def probe(source: Source, position: Position) -> Probe:
    """Build the checkpoint's class small and random, change its base, and see what moves.

    The frequencies of the live module are compared with those that were read; then the same
    weights run under another `rope_theta`. No code and no weight of the checkpoint is used.

    Raises:
        BadInput: transformers makes no model of the config.
    """
    import torch

    with quiet_transformers(), said_of(source):
        config = decoder_config(source)
        torch.manual_seed(0)
        model = small_decoder(config, position, torch.float32).eval()
        _open_gates(model)
        other = _with_another_base(config, position, model)
        moves = None if other is None else not _alike(model, other)
    turns = position.encoding in ROTARY and position.model_type not in families.ROTARY_IN_CODE
    if bool(moves) != turns:
        does = "change" if moves else "do not change"
        said = f"the config was read as '{position.encoding or 'unknown'}', and the states of a "
        return Probe(moves, False, f"{said}random model {does} with rope_theta")
    if not turns:
        return Probe(moves, True, "a random model does not turn by any key of the config either")
    try:
        check_live_rope(model, position, where="a random model")
    except CtxextError as error:
        return Probe(moves, False, str(error))
    said = "a random model of the class turns by the frequencies read, and its states change with "
    return Probe(moves, True, f"{said}rope_theta")


def _with_another_base(config: Any, position: Position, model: Any) -> Any:
    """Make a model of the same weights and another base; None where the config has no base."""
    import torch

    changed = copy.deepcopy(config.get_text_config(decoder=True))
    blocks = [block for block in _blocks(changed) if block.get("rope_theta")]
    for block in blocks:
        block["rope_theta"] = float(block["rope_theta"]) * _FASTER
    by_layer = getattr(changed, "layer_rope_theta", None)
    if isinstance(by_layer, list):
        changed.layer_rope_theta = [theta * _FASTER if theta else theta for theta in by_layer]
    if not blocks:
        return None
    other = small_decoder(changed, position, torch.float32).eval()
    other.load_state_dict(model.state_dict())
    return other


def _blocks(config: Any) -> Iterator[dict[str, Any]]:
    """Go through the rope blocks of a config of transformers, one or one for each layer type."""
    block = getattr(config, "rope_parameters", None)
    if not isinstance(block, dict):
        return
    inner = [value for value in block.values() if isinstance(value, dict)]
    yield from inner or [block]


def _open_gates(model: Any) -> None:
    """Fill parameters that begin at zero: behind a closed gate nothing would be seen to move."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02)


def _alike(model: Any, other: Any) -> bool:
    import torch

    ids = torch.arange(_TOKENS)[None] % 8
    with torch.no_grad():
        before, after = (m(input_ids=ids).last_hidden_state for m in (model, other))
    return torch.allclose(before, after, atol=1e-6, rtol=1e-5)
