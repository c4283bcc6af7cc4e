"""Check that a written config rotates as its method says, read by us and by transformers."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ctxext.checkpoints.config.decoder_config import decoder_config
from ctxext.checkpoints.config.detect import Position, detect, reads_alike_in_transformers_4
from ctxext.checkpoints.config.rope_forms import form_of
from ctxext.checkpoints.config.windows import states_window
from ctxext.checkpoints.folder import CONFIG, Source
from ctxext.checkpoints.live.rotary import LiveRope, live_ropes, one_live_rope
from ctxext.errors import CtxextError
from ctxext.methods import RopeExtension
from ctxext.runs.json_file import read_json_object

# What float32 costs transformers: the rounding of the exponent times ln(theta), below 1e-6, and
# for llama3's blend up to 6e-6. A cast to bfloat16 costs 4e-3.
FLOAT32_TOLERANCE = 1e-5


def check_written(folder: Path, extension: RopeExtension, original: int) -> None:
    """Read a written config.json back, in both dialects, and compare with the method's numbers.

    Raises:
        CtxextError: they differ, so the file would not give the encoding that was asked for.
    """
    config, _ = read_json_object(folder / CONFIG)
    position = detect(config, where=CONFIG, original_length=original)
    rope = position.rope
    if rope is None or rope.inv_freq is None or rope.attention_factor is None:
        raise CtxextError("the written config.json has no rope that can be read back")
    _compare("config.json read back", rope.inv_freq, extension.inv_freq, 1e-12)
    _compare("its attention factor", [rope.attention_factor], [extension.attention_factor], 1e-12)
    flat = form_of(position.model_type).flat_too  # others are not in transformers 4
    if flat and not reads_alike_in_transformers_4(config, rope):
        raise CtxextError("the two rope dialects of the written config.json disagree")


def check_window(folder: Path, planned: Position) -> None:
    """Read a written config.json back, and compare its encoding and window with the plan's.

    Raises:
        CtxextError: they differ.
    """
    config, _ = read_json_object(folder / CONFIG)
    window = planned.window
    position = detect(config, where=CONFIG, original_length=window.original)
    read = position.window
    stated = states_window(config, position.model_type)
    if position.encoding != planned.encoding or (stated and read.current != window.current):
        raise CtxextError(
            f"the written config.json says {position.encoding} and {read.current} tokens, and was "
            f"to say {planned.encoding} and {window.current}"
        )


def check_in_transformers(folder: Path, extension: RopeExtension, target: int) -> float:
    """Build the checkpoint's rotary module in transformers and compare its frequencies.

    Returns:
        The largest relative difference of a frequency; float32 rounding leaves about 1e-6.

    Raises:
        CtxextError: it is larger than that, or the attention factor differs.
    """
    import torch

    from ctxext.checkpoints.live.small import small_decoder

    source = Source(folder, folder.name)
    position = detect(read_json_object(folder / CONFIG)[0], where=CONFIG)
    model = small_decoder(decoder_config(source), position, torch.float32)
    rope = one_live_rope(model, position.model_type)
    rope.at(target)  # dynamic scaling shows itself only when asked for a long position
    _check_float32(rope, "transformers")
    wanted, live = extension.inv_freq, rope.inv_freq.detach().cpu().tolist()
    worst = _compare("inv_freq in transformers", live, wanted, FLOAT32_TOLERANCE)
    factors = [rope.attention_factor], [extension.attention_factor]
    _compare("attention factor in transformers", *factors, FLOAT32_TOLERANCE)
    return worst


def check_live_rope(model: Any, position: Position, *, where: str) -> None:
    """Check that a live model rotates as `detect` read its config, at the window claimed there.

    Types whose frequencies follow the length at hand are asked for a position at the end of the
    window, and set back afterwards.

    Raises:
        CtxextError: not float32 (bfloat16 cannot tell positions apart), or different numbers.
    """
    rope = position.rope
    if rope is None or rope.inv_freq is None or rope.attention_factor is None:
        return
    ropes = live_ropes(model, position.model_type)
    if not ropes:
        raise CtxextError(f"{where} has no rotary module, and its config says that it rotates")
    for each in ropes:
        _check_float32(each, where)
        if rope.block.follows_length:
            if not type(each.module).__module__.startswith("transformers."):
                continue  # a checkpoint's own code: how it is asked is not known
            live, factor = each.at(position.window.current)
            each.reset()
            # What a turn of more than half a circle was cannot be told from its end.
            wanted = [math.remainder(f, 2 * math.pi) for f in rope.inv_freq]
        else:
            live = each.inv_freq.detach().cpu().tolist()
            wanted, factor = rope.inv_freq, each.attention_factor
        _compare(f"inv_freq in {where}", live, wanted, rope.rounding)
        _compare(
            f"attention factor in {where}", [factor], [rope.attention_factor], FLOAT32_TOLERANCE
        )


def _check_float32(rope: LiveRope, where: str) -> None:
    import torch

    if rope.inv_freq.dtype != torch.float32:
        raise CtxextError(f"inv_freq in {where} is {rope.inv_freq.dtype}, and has to be float32")


def _compare(what: str, got: Sequence[float], want: Sequence[float], tolerance: float) -> float:
    if len(got) != len(want):
        raise CtxextError(f"{what} has {len(got)} values, expected {len(want)}")
    differences = [abs(g - w) / abs(w) for g, w in zip(got, want, strict=True)]
    worst = max(differences)
    if not (math.isfinite(worst) and worst <= tolerance):
        pair = differences.index(worst)
        raise CtxextError(f"{what} is {got[pair]!r} at pair {pair}, and has to be {want[pair]!r}")
    return worst
