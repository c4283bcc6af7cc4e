"""Check that a written config rotates as its method says, read by us and by transformers."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxext.checkpoints.config.decoder_config import decoder_config
from ctxext.checkpoints.config.detect import Position, detect, reads_alike_in_transformers_4
from ctxext.checkpoints.folder import CONFIG, Source
from ctxext.errors import CtxextError
from ctxext.methods import Extension
from ctxext.runs.json_file import read_json_object

if TYPE_CHECKING:
    import torch

# What float32 costs transformers: the rounding of the exponent times ln(theta), below 1e-6, and
# for llama3's blend up to 6e-6. A cast to bfloat16 costs 4e-3.
FLOAT32_TOLERANCE = 1e-5


def check_written(folder: Path, extension: Extension, original: int) -> None:
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
    if not reads_alike_in_transformers_4(config, rope):
        raise CtxextError("the two rope dialects of the written config.json disagree")


def check_in_transformers(folder: Path, extension: Extension, target: int) -> float:
    """Build the checkpoint's rotary module in transformers and compare its frequencies.

    Returns:
        The largest relative difference of a frequency; float32 rounding leaves about 1e-6.

    Raises:
        CtxextError: it is larger than that, or the attention factor differs.
    """
    import torch
    from transformers import AutoModelForCausalLM

    config = decoder_config(Source(folder, folder.name))
    # The rotary module depends on nothing that is made small here.
    config.num_hidden_layers, config.vocab_size, config.intermediate_size = 1, 8, 8
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:1]
    config.pad_token_id = config.bos_token_id = config.eos_token_id = None
    rotary = rotary_module(AutoModelForCausalLM.from_config(config, dtype=torch.float32))
    with torch.no_grad():  # dynamic scaling shows itself only when asked for a long position
        rotary(torch.zeros(1, 1, 1), torch.tensor([[target - 1]]))
    return compare_rotary(rotary, extension.inv_freq, extension.attention_factor)


def rotary_module(model: Any) -> "torch.nn.Module":
    """Find the one module of a decoder that holds `inv_freq`.

    Raises:
        CtxextError: there is none, or more than one.
    """
    modules = [m for m in model.modules() if hasattr(m, "inv_freq")]
    if len(modules) != 1:
        raise CtxextError(f"{type(model).__name__} has {len(modules)} rotary modules, expected one")
    module: torch.nn.Module = modules[0]
    return module


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
    modules = [m for m in model.modules() if hasattr(m, "inv_freq")]
    if not modules:
        raise CtxextError(f"{where} has no rotary module, and its config says that it rotates")
    for module in modules:
        _check_float32(module, where)
        if rope.block.follows_length:
            if not type(module).__module__.startswith("transformers."):
                continue  # a checkpoint's own code: how it is asked is not known
            live, factor = _rotation_at(module, position.window.current)
            reset_rotary(module)
            # What a turn of more than half a circle was cannot be told from its end.
            wanted = [math.remainder(f, 2 * math.pi) for f in rope.inv_freq]
        else:
            live = module.inv_freq.detach().cpu().tolist()
            wanted, factor = rope.inv_freq, float(getattr(module, "attention_scaling", 1.0))
        _compare(f"inv_freq in {where}", live, wanted, rope.rounding)
        _compare(
            f"attention factor in {where}", [factor], [rope.attention_factor], FLOAT32_TOLERANCE
        )


def _rotation_at(rotary: Any, length: int) -> tuple[list[float], float]:
    """Ask for (angle of every pair at position 1, attention factor) in a sequence of `length`."""
    import torch

    place = rotary.inv_freq.device
    ids = torch.tensor([[1, max(1, length - 1)]], device=place)
    with torch.no_grad():
        cos, sin = rotary(torch.zeros(1, 2, 1, device=place), ids)
    x, y = cos[0, 0].double().cpu(), sin[0, 0].double().cpu()
    pairs = len(x) // 2
    # The two dims of a pair stand half a head apart, or side by side.
    apart = torch.equal(x[:pairs], x[pairs:])
    x, y = (x[:pairs], y[:pairs]) if apart else (x[::2], y[::2])
    return torch.atan2(y, x).tolist(), float(torch.hypot(x, y).mean())


def reset_rotary(module: Any) -> None:
    """Forget the longest sequence seen: dynamic scaling would keep its base for shorter ones."""
    if hasattr(module, "original_inv_freq") and hasattr(module, "max_seq_len_cached"):
        module.register_buffer("inv_freq", module.original_inv_freq.clone(), persistent=False)
        module.max_seq_len_cached = module.original_max_seq_len


def compare_rotary(
    module: Any, inv_freq: Sequence[float], attention_factor: float, *, where: str = "transformers"
) -> float:
    """Compare a live rotary module with a method; return a frequency's largest relative error.

    Raises:
        CtxextError: not float32 (bfloat16 cannot tell positions apart), or different numbers.
    """
    _check_float32(module, where)
    live = module.inv_freq.detach().cpu().tolist()
    worst = _compare(f"inv_freq in {where}", live, inv_freq, FLOAT32_TOLERANCE)
    factor = float(getattr(module, "attention_scaling", 1.0))
    _compare(f"attention factor in {where}", [factor], [attention_factor], FLOAT32_TOLERANCE)
    return worst


def _check_float32(module: Any, where: str) -> None:
    import torch

    if module.inv_freq.dtype != torch.float32:
        raise CtxextError(f"inv_freq in {where} is {module.inv_freq.dtype}, and has to be float32")


def _compare(what: str, got: Sequence[float], want: Sequence[float], tolerance: float) -> float:
    if len(got) != len(want):
        raise CtxextError(f"{what} has {len(got)} values, expected {len(want)}")
    differences = [abs(g - w) / abs(w) for g, w in zip(got, want, strict=True)]
    worst = max(differences)
    if not (math.isfinite(worst) and worst <= tolerance):
        pair = differences.index(worst)
        raise CtxextError(f"{what} is {got[pair]!r} at pair {pair}, and has to be {want[pair]!r}")
    return worst
