"""A peft LoRA adapter on disk, checked tensor by tensor against what can be merged exactly.

Merged: LoRA, rsLoRA, DoRA, `lora_bias`, rank and alpha patterns, any initialisation that leaves the
base alone, and whole tensors (`modules_to_save`). Everything else is refused by its name.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ctxext.checkpoints.json_file import read_json_object
from ctxext.checkpoints.low_rank import BiasUpdate, LowRank
from ctxext.checkpoints.safetensors_file import Header, printable, read_header
from ctxext.checkpoints.weights import Weights
from ctxext.errors import BadInput

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
ROPE_KEY = "ctxext.rope_sha256"
"""In the metadata of the adapter's safetensors: the rotation it was trained under."""
_PREFIX = "base_model.model."
# These say that the stored matrices are not the whole difference to the base, or not LoRA's.
_REFUSED_FLAGS = (
    "layer_replication", "target_parameters", "trainable_token_indices", "use_qalora", "use_bdlora",
    "arrow_config", "alora_invocation_tokens", "kasa_config", "monteclora_config", "velora_config",
)  # fmt: skip
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")  # initialisations


@dataclass(frozen=True)
class Adapter:
    """A checked adapter.

    Attributes:
        file: its tensors.
        config: its adapter_config.json.
        header: of its tensors.
        low_rank: base tensor name -> low-rank update.
        replaced: base tensor name -> key of the tensor that replaces it (norms, embeddings).
        biases: base tensor name -> update of a bias.
    """

    file: Path
    config: Mapping[str, Any]
    header: Header
    low_rank: Mapping[str, LowRank]
    replaced: Mapping[str, str]
    biases: Mapping[str, BiasUpdate] = field(default_factory=dict)

    @property
    def transposed(self) -> bool:
        """Whether the adapted layers keep their matrices as (in, out)."""
        return bool(self.config.get("fan_in_fan_out"))

    @property
    def base_name(self) -> str | None:
        """The base as the adapter remembers it."""
        name = self.config.get("base_model_name_or_path")
        return name if isinstance(name, str) and name else None


def read_adapter(folder: Path) -> Adapter:
    """Read an adapter folder.

    Raises:
        BadInput: not an adapter, not plain LoRA, or with tensors that would be left out.
        CtxextError: corrupt tensors.
    """
    if not folder.is_dir():
        raise BadInput(f"{folder} is no folder", "give the adapter's folder")
    if not (folder / CONFIG).exists():
        raise BadInput(f"{folder} has no {CONFIG}, so it is no peft adapter")
    config, _ = read_json_object(folder / CONFIG)
    if str(config.get("peft_type")).upper() != "LORA":
        raise BadInput(
            f"{folder.name} is a {printable(str(config.get('peft_type')))} adapter; "
            "only LoRA can be merged here"
        )
    for flag in _REFUSED_FLAGS:
        if config.get(flag):
            raise BadInput(f"{folder.name} uses {flag}, which ctxext cannot merge")
    if config.get("bias", "none") != "none":
        raise BadInput(f"{folder.name} trains biases ({config['bias']}), which are not merged here")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
        raise BadInput(
            f"{folder.name} was initialised with {start}, which also changes the base weights",
            "convert it to a plain LoRA with peft first",
        )
    _check_types(folder.name, config)
    if not (folder / TENSORS).exists():
        other = "a pickle" if (folder / "adapter_model.bin").exists() else "nothing"
        raise BadInput(f"{folder} has no {TENSORS} (found {other})")
    header = read_header(folder / TENSORS)
    low_rank, replaced, biases = _sort(folder.name, config, header)
    if config.get("modules_to_save") and not replaced:
        raise BadInput(
            f"{folder.name} says it trained {', '.join(config['modules_to_save'])} and does not "
            "hold them",
            "merging without them gives another model; find the whole adapter",
        )
    return Adapter(folder / TENSORS, config, header, low_rank, replaced, biases)


def _check_types(name: str, config: Mapping[str, Any]) -> None:
    """The keys that are read later hold what peft writes there."""
    for key in ("modules_to_save", "target_modules"):
        value = config.get(key)
        names = [value] if isinstance(value, str) and key == "target_modules" else value
        if names is not None and not (
            isinstance(names, list) and all(isinstance(n, str) for n in names)
        ):
            raise BadInput(f"{name}: {key} in {CONFIG} is not a list of names")
    for key in ("rank_pattern", "alpha_pattern"):
        patterns = config.get(key) or {}
        if not isinstance(patterns, dict):
            raise BadInput(f"{name}: {key} in {CONFIG} is not an object")
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise BadInput(
                    f"{name}: {key} in {CONFIG} has {printable(pattern)!r}, no regular expression"
                ) from error


_PART = re.compile(r"(.+)\.(?:lora_([AB])\.weight|(lora_magnitude_vector)|(lora_B\.bias))")


def _sort(
    name: str, config: Mapping[str, Any], header: Header
) -> tuple[dict[str, LowRank], dict[str, str], dict[str, BiasUpdate]]:
    """Low-rank updates, whole replacements, biases; a tensor that is none of them is refused."""
    parts: dict[str, dict[str, str]] = {}
    replaced: dict[str, str] = {}
    dora, has_bias = bool(config.get("use_dora")), bool(config.get("lora_bias"))
    for key in header.tensors:
        if not key.startswith(_PREFIX):
            raise BadInput(f"{name}: tensor {printable(key)!r} is not named as peft names them")
        path = key.removeprefix(_PREFIX)
        match = _PART.fullmatch(path)
        if match and (not match[3] or dora) and (not match[4] or has_bias):
            parts.setdefault(match[1], {})[match[2] or match[3] or match[4]] = key
        elif "lora_" in path:
            raise BadInput(f"{name}: tensor {printable(key)!r} is not plain LoRA")
        else:
            replaced[path] = key
    low_rank, biases = {}, {}
    for module, own in parts.items():
        if not {"A", "B"} <= set(own):
            raise BadInput(f"{name}: {printable(module)} has only one of lora_A and lora_B")
        magnitude = own.get("lora_magnitude_vector")
        if dora and magnitude is None:
            raise BadInput(f"{name}: {printable(module)} has no lora_magnitude_vector (use_dora)")
        if has_bias and "lora_B.bias" not in own:
            raise BadInput(f"{name}: {printable(module)} has no lora_B.bias (lora_bias)")
        scale = _scale(name, config, module, header.tensors[own["A"]].shape)
        low_rank[f"{module}.weight"] = LowRank(own["A"], own["B"], scale, magnitude)
        if has_bias:
            biases[f"{module}.bias"] = BiasUpdate(own["lora_B.bias"], scale)
    return low_rank, replaced, biases


def _scale(name: str, config: Mapping[str, Any], module: str, shape_of_a: tuple[int, ...]) -> float:
    """alpha / rank of one module (alpha / sqrt(rank) with rsLoRA), its pattern entries counted."""
    rank = _by_pattern(config.get("rank_pattern"), module, config.get("r"))
    alpha = _by_pattern(config.get("alpha_pattern"), module, config.get("lora_alpha"))
    numbers = isinstance(rank, int) and isinstance(alpha, int | float)
    if not numbers or isinstance(rank, bool) or rank < 1 or not abs(alpha) < 2**31:
        raise BadInput(f"{name}: {CONFIG} has no usable r or lora_alpha")
    if not shape_of_a or shape_of_a[0] != rank:
        raise BadInput(
            f"{name}: lora_A of {printable(module)} has shape {list(shape_of_a)}, and "
            f"{CONFIG} says rank {rank}"
        )
    return float(alpha / rank**0.5 if config.get("use_rslora") else alpha / rank)


def _by_pattern(patterns: Any, module: str, otherwise: Any) -> Any:
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return otherwise


def check_fits(adapter: Adapter, base: Weights) -> None:
    """Every tensor of the adapter has its place, of the right shape, in the base.

    Raises:
        BadInput: one has not; it is named.
    """
    own, tensors = adapter.header.tensors, base.tensors
    for name, update in adapter.low_rank.items():
        if name not in tensors:
            raise BadInput(f"the adapter changes {printable(name)!r}, which the base does not have")
        a, b = own[update.a].shape, own[update.b].shape
        want = (b[0], a[1]) if len(a) == len(b) == 2 and a[0] == b[1] else None
        if want and adapter.transposed:
            want = want[::-1]
        if want != tensors[name][1].shape:
            raise BadInput(
                f"the adapter's {printable(update.b)!r} {list(b)} x {list(a)} does not fit "
                f"{printable(name)!r} {list(tensors[name][1].shape)} of the base"
            )
        m = None if update.magnitude is None else own[update.magnitude].shape
        if m not in (None, (b[0],)):
            raise BadInput(
                f"the adapter's {printable(str(update.magnitude))!r} has shape {list(m or ())}, "
                f"and {printable(name)!r} has {b[0]} outputs"
            )
    for name, bias in adapter.biases.items():
        if name not in tensors or own[bias.key].shape != tensors[name][1].shape:
            raise BadInput(f"the adapter's {printable(bias.key)!r} has no bias in the base")
    for name, key in adapter.replaced.items():
        if name == "lm_head.weight" and name not in tensors:
            continue  # tied in the base; the merge decides
        if name not in tensors or own[key].shape != tensors[name][1].shape:
            raise BadInput(f"the adapter's {printable(key)!r} has no place in the base")
