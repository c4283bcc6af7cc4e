"""Read a peft LoRA adapter, checked tensor by tensor against what can be merged exactly.

Merged: LoRA, rsLoRA, DoRA, `lora_bias`, rank and alpha patterns, any initialisation that leaves the
base alone, on linear layers, embeddings and the head, and whole tensors (`modules_to_save`).
Everything else is refused by its name. Whether it fits a base is asked in `adapter_fit.py`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ctxext.checkpoints.config.patterns import ByPattern
from ctxext.checkpoints.weights.files import ADAPTER_CONFIG
from ctxext.checkpoints.weights.low_rank import BiasUpdate, LowRank
from ctxext.checkpoints.weights.row_scales import RowScales
from ctxext.checkpoints.weights.safetensors_file import Header, printable, read_header
from ctxext.errors import BadInput, about_its_path
from ctxext.runs.json_file import read_json_object

CONFIG, TENSORS = ADAPTER_CONFIG, "adapter_model.safetensors"
ROPE_KEY = "ctxext.rope_sha256"
"""In the metadata of the adapter's safetensors: the rotation it was trained under."""
_PREFIX = "base_model.model."
# These say that the stored matrices are not the whole difference to the base, or not LoRA's.
_REFUSED_FLAGS = (
    "layer_replication", "target_parameters", "use_qalora", "use_bdlora", "arrow_config",
    "alora_invocation_tokens", "kasa_config", "monteclora_config", "velora_config",
)  # fmt: skip
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")  # initialisations
# Whose layers keep their matrices as (in, out), their heads apart: `Conv1D` in transformers.
_CONV1D = ("gpt2", "imagegpt", "openai-gpt")
_FLOATS = ("BF16", "F16", "F32", "F64")


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter, read and checked.

    Attributes:
        file, header: of its tensors.
        config: its adapter_config.json.
        low_rank: base tensor name -> low-rank update.
        replaced: base tensor name -> key of the tensor that replaces it (norms, embeddings).
        biases: base tensor name -> update of a bias.
        copies: base tensor name -> key of the base's own matrix, which peft saves beside LoRA on
            embeddings and heads; where it is not what the base has, the adapter saw another.
        scaled: base tensor name -> what its rows are multiplied by (`--train temperature`).
    """

    file: Path
    config: Mapping[str, Any]
    header: Header
    low_rank: Mapping[str, LowRank]
    replaced: Mapping[str, str]
    biases: Mapping[str, BiasUpdate] = field(default_factory=dict)
    copies: Mapping[str, str] = field(default_factory=dict)
    scaled: Mapping[str, RowScales] = field(default_factory=dict)

    def changes(self, name: str) -> bool:
        """Tell whether a tensor of the base becomes another."""
        return any(
            name in changes for changes in (self.low_rank, self.replaced, self.biases, self.scaled)
        )

    @property
    def base_name(self) -> str | None:
        """The base as the adapter remembers it."""
        name = self.config.get("base_model_name_or_path")
        return name if isinstance(name, str) and name else None


@about_its_path
def read_adapter(folder: Path) -> Adapter:
    """Read an adapter folder.

    Raises:
        BadInput: not an adapter, not plain LoRA, or with tensors that would be left out.
        CtxextError: corrupt tensors.
    """
    if not folder.is_dir():
        raise BadInput(f"{folder} is no folder", "give the adapter's folder")
    if not (folder / CONFIG).exists():
        below = sorted(path.parent for path in folder.glob(f"*/{CONFIG}"))
        raise BadInput(
            f"{folder} has no {CONFIG}, so it is no peft adapter",
            f"there is one in {below[0]}" if below else "give the folder that has it",
        )
    config, _ = read_json_object(folder / CONFIG)
    if str(config.get("peft_type")).upper() != "LORA":
        raise BadInput(
            f"{folder.name} is a {printable(str(config.get('peft_type')))} adapter; "
            "only LoRA can be merged here"
        )
    _check_method(printable(folder.name), config)
    _check_types(printable(folder.name), config)
    if not (folder / TENSORS).exists():
        pickled = (folder / "adapter_model.bin").exists()
        raise BadInput(
            f"{folder} has no {TENSORS}" + (", only a pickle" if pickled else ""),
            "load it with peft and save it again (save_pretrained), which writes safetensors"
            if pickled
            else "find the whole adapter",
        )
    header = read_header(folder / TENSORS)
    for key, info in header.tensors.items():
        if info.dtype not in _FLOATS:
            raise BadInput(
                f"{printable(folder.name)}: tensor {printable(key)!r} has dtype {info.dtype}, "
                "and adapters are merged from floats of 16 bits or more"
            )
    if not header.tensors:
        raise BadInput(f"{folder / TENSORS} holds no tensors")
    return _sorted(printable(folder.name), config, folder / TENSORS, header)


def for_family(adapter: Adapter, model_type: str) -> Adapter:
    """Turn the updates of layers that a base keeps as (in, out).

    `fan_in_fan_out` in the adapter's config decides nothing: peft sets it to what the last layer
    that it wrapped needs, and passes over it where it does not fit a layer.
    """
    if model_type not in _CONV1D:
        return adapter
    low_rank = {
        name: replace(update, transposed=name != "lm_head.weight")
        for name, update in adapter.low_rank.items()
    }
    return replace(adapter, low_rank=low_rank)


def _check_method(name: str, config: Mapping[str, Any]) -> None:
    """Refuse an adapter that, by its config, cannot be merged exactly."""
    for flag in _REFUSED_FLAGS:
        if config.get(flag):
            raise BadInput(f"{name} uses {flag}, which ctxext cannot merge")
    if config.get("trainable_token_indices"):
        raise BadInput(
            f"{name} trains single rows of the embedding (trainable_token_indices), which ctxext "
            "cannot merge, tied or not",
            "merge it with peft (merge_and_unload), which keeps a tied head tied",
        )
    if config.get("bias", "none") != "none":
        shown = printable(str(config["bias"]))
        raise BadInput(f"{name} trains biases ({shown}), which are not merged here")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
        raise BadInput(
            f"{name} was initialised with {printable(start)}, which also changes the base weights",
            "convert it to a plain LoRA with peft first",
        )


def _check_types(name: str, config: Mapping[str, Any]) -> None:
    """Check that the keys that are read later hold what peft writes there."""
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


_TENSOR = re.compile(
    r"(.+)\.(?:lora_([AB])\.weight|lora_embedding_([AB])|(lora_magnitude_vector)|(lora_B\.bias))"
)


def _sorted(name: str, config: Mapping[str, Any], file: Path, header: Header) -> Adapter:
    """Sort tensors into low-rank updates, whole replacements and biases; refuse any other."""
    modules: dict[str, dict[str, str]] = {}
    replaced: dict[str, str] = {}
    copies: dict[str, str] = {}
    dora, has_bias = bool(config.get("use_dora")), bool(config.get("lora_bias"))
    for key in header.tensors:
        if not key.startswith(_PREFIX):
            raise BadInput(f"{name}: tensor {printable(key)!r} is not named as peft names them")
        path = key.removeprefix(_PREFIX)
        match = _TENSOR.fullmatch(path)
        if match and (not match[4] or dora) and (not match[5] or has_bias):
            role = match[2] or match[4] or match[5] or f"embedding_{match[3]}"
            modules.setdefault(match[1], {})[role] = key
        elif "lora_" in path:
            raise BadInput(f"{name}: tensor {printable(key)!r} is not plain LoRA")
        elif path.endswith(".base_layer.weight"):
            copies[path.removesuffix(".base_layer.weight") + ".weight"] = key
        else:
            replaced[path] = key
    scales = _Scales(name, config)
    low_rank, biases = {}, {}
    for module, key_of in modules.items():
        update = _low_rank(name, config, module, key_of, header, scales)
        low_rank[f"{module}.weight"] = update
        if has_bias and "embedding_A" not in key_of:  # peft has no such bias
            if "lora_B.bias" not in key_of:
                raise BadInput(f"{name}: {printable(module)} has no lora_B.bias (lora_bias)")
            biases[f"{module}.bias"] = BiasUpdate(key_of["lora_B.bias"], update.scale)
    return Adapter(file, config, header, low_rank, replaced, biases, copies)


def _low_rank(
    name: str,
    config: Mapping[str, Any],
    module: str,
    key_of: Mapping[str, str],
    header: Header,
    scales: "_Scales",
) -> LowRank:
    """Make the update of one module from its tensors (`key_of`: role -> key)."""
    embedding = bool(key_of.keys() & {"embedding_A", "embedding_B"})
    a, b = ("embedding_A", "embedding_B") if embedding else ("A", "B")
    if not {a, b} <= key_of.keys() or (embedding and key_of.keys() & {"A", "B"}):
        raise BadInput(f"{name}: {printable(module)} has only one of lora_A and lora_B")
    magnitude = key_of.get("lora_magnitude_vector")
    if config.get("use_dora") and magnitude is None:
        raise BadInput(f"{name}: {printable(module)} has no lora_magnitude_vector (use_dora)")
    return LowRank(
        key_of[a],
        key_of[b],
        scales.of(module, header.tensors[key_of[a]].shape),
        magnitude,
        transposed=embedding,  # a row for each input; of layers `for_family` says it
    )


class _Scales:
    """alpha / rank of each module (alpha / sqrt(rank) with rsLoRA), its pattern entries counted."""

    def __init__(self, name: str, config: Mapping[str, Any]) -> None:
        self._name, self._config = name, config
        self._ranks, self._alphas = (
            ByPattern(config.get(key) or {}, where=f"{name}: {key} in {CONFIG}")
            for key in ("rank_pattern", "alpha_pattern")
        )

    def of(self, module: str, shape_of_a: tuple[int, ...]) -> float:
        rank = self._ranks.value_for(module, self._config.get("r"))
        alpha = self._alphas.value_for(module, self._config.get("lora_alpha"))
        numbers = isinstance(rank, int) and isinstance(alpha, int | float)
        if not numbers or isinstance(rank, bool) or isinstance(alpha, bool):
            raise BadInput(f"{self._name}: {CONFIG} has no usable r or lora_alpha")
        if not 1 <= rank < 2**31 or not abs(alpha) < 2**31:
            raise BadInput(f"{self._name}: {CONFIG} has no usable r or lora_alpha")
        if not shape_of_a or shape_of_a[0] != rank:
            raise BadInput(
                f"{self._name}: lora_A of {printable(module)} has shape {list(shape_of_a)}, and "
                f"{CONFIG} says rank {rank}"
            )
        return float(alpha / rank**0.5 if self._config.get("use_rslora") else alpha / rank)
