"""Find the weight files of a checkpoint, read what is in them, and check that they agree."""

import hashlib
import stat
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ctxext.checkpoints.config import families
from ctxext.checkpoints.weights.safetensors_file import (
    DTYPE_NAMES,
    Header,
    TensorInfo,
    printable,
    read_bytes,
    read_header,
)
from ctxext.errors import BadInput, CtxextError, about_its_path
from ctxext.runs.json_file import read_json_object

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
"""Names of the two matrices that are one where a model is tied; `Weights.embedding` and `head` for
those of any family."""
_EMBEDDING_NAMES = (
    EMBEDDING, "transformer.wte.weight", "wte.weight", "transformer.word_embeddings.weight",
    "word_embeddings.weight", "model.decoder.embed_tokens.weight", "decoder.embed_tokens.weight",
    "gpt_neox.embed_in.weight", "biogpt.embed_tokens.weight", "transformer.tokens_embed.weight",
    "tokens_embed.weight", "transformer.w.weight", "w.weight",
)  # fmt: skip
_HEAD_NAMES = (HEAD, "embed_out.weight", "output_projection.weight")
# Ends of the names that families give to the token embedding and to the head.
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")
_HEADS = ("lm_head.weight", "embed_out.weight")
_MAX_SHARDS = 10_000
_SAMPLE = 64  # bytes of a tensor at each end


@dataclass(frozen=True)
class Weights:
    """A checkpoint's shards by file name, in order, each with its checked header.

    Attributes:
        shared: modules of the model (their paths) whose weight several layers have together; only
            where the model was looked at (`check_tensors`).
    """

    folder: Path
    shards: Mapping[str, Header]
    index: Mapping[str, Any] | None
    shared: tuple[str, ...] = ()

    @property
    def tensors(self) -> dict[str, tuple[str, TensorInfo]]:
        """Every tensor by its name, as (file name, info)."""
        return {
            name: (file, info)
            for file, header in self.shards.items()
            for name, info in header.tensors.items()
        }

    @property
    def embedding(self) -> str:
        """The name of the token embedding; Llama's where it has none that is known."""
        held = self.tensors
        return next((name for name in _EMBEDDING_NAMES if name in held), EMBEDDING)

    @property
    def head(self) -> str:
        """The name of the head, stored or not; `lm_head` where none that is known is stored."""
        held = self.tensors
        return next((name for name in _HEAD_NAMES if name in held), HEAD)

    @property
    def parameters(self) -> int:
        """How many numbers are stored."""
        return sum(info.elements for _, info in self.tensors.values())

    def parameters_once(self, *, tied: bool) -> int:
        """Count `parameters` without a head stored beside the embedding that it is tied to."""
        shapes = {name: tuple(info.shape) for name, (_, info) in self.tensors.items()}
        tables = {shape for name, shape in shapes.items() if name.endswith(_EMBEDDINGS)}
        heads = [
            info.elements
            for name, (_, info) in self.tensors.items()
            if tied and name.endswith(_HEADS) and shapes[name] in tables
        ]
        return self.parameters - sum(heads)

    @property
    def bytes(self) -> int:
        return sum(info.end - info.start for _, info in self.tensors.values())

    @property
    def dtype(self) -> str | None:
        """The dtype of most floats, as configs call it; None where all numbers are of 8 bits or
        integers, as packed weights are: no model computes in those."""
        votes: Counter[str] = Counter()
        for _, info in self.tensors.values():
            if info.dtype in DTYPE_NAMES:
                votes[DTYPE_NAMES[info.dtype]] += info.elements
        return votes.most_common(1)[0][0] if votes else None


def sample_sha256(folder: Path) -> str | None:
    """Hash a sample of a checkpoint's weights: the first and last bytes of every tensor.

    Training, merging and another dtype change it; cutting the same tensors into other files does
    not. None where there are no safetensors.

    Raises:
        BadInput, CtxextError: as `read_weights`.
    """
    if not any(folder.glob("*.safetensors")):
        return None
    weights, digest = read_weights(folder), hashlib.sha256()
    for name, (file, info) in sorted(weights.tensors.items()):
        digest.update(f"{name} {info.dtype} {info.shape} ".encode())
        begin, end = (weights.shards[file].data_start + at for at in (info.start, info.end))
        with (folder / file).open("rb") as source:
            for at in (begin, max(begin, end - _SAMPLE)):
                source.seek(at)
                digest.update(source.read(min(_SAMPLE, end - at)))
    return digest.hexdigest()


def tied_head(config: Mapping[str, Any]) -> bool:
    """Tell whether the head is the embedding, by the config, or its family where it says none."""
    flag = config.get("tie_word_embeddings")
    return config.get("model_type") in families.TIED_WHEN_ABSENT if flag is None else bool(flag)


def inside(folder: Path, name: str, *, what: str) -> Path:
    """Return the path of a file that a checkpoint names, made sure to lie in its folder.

    A symlink may lead out of the folder in one case: from `snapshots/REVISION/` to `blobs/` of the
    same repository in the Hub's cache.

    Raises:
        BadInput: absolute, with `..` or backslash, or a link to somewhere else.
    """
    shown = printable(name)
    parts = PurePosixPath(name).parts
    bad = not parts or name.startswith("/") or ".." in parts or "\\" in name or ":" in parts[0]
    if bad or not name.isprintable():
        raise BadInput(f"{what} names {shown!r}, which is not a file inside {folder}")
    path = folder / name
    try:
        resolved = path.resolve(strict=True)
    except FileNotFoundError:
        return path
    except (OSError, RuntimeError) as error:  # a loop of symlinks
        raise BadInput(f"{what} names {shown!r}, which cannot be followed: {error}") from error
    root = folder.resolve()
    cache = root.parent.parent / "blobs" if root.parent.name == "snapshots" else None
    if not resolved.is_relative_to(root) and not (cache and resolved.is_relative_to(cache)):
        raise BadInput(f"{what} names {shown!r}, a link that leads out of {folder}")
    return path


def read_tensor(weights: Weights, name: str) -> bytearray:
    """Read the bytes of one stored tensor."""
    file, info = weights.tensors[name]
    with (weights.folder / file).open("rb") as source:
        return read_bytes(source, weights.shards[file], info)


@about_its_path
def read_weights(folder: Path) -> Weights:
    """Find the safetensors of a checkpoint folder, read every header, and check the index.

    Which files count is what transformers says: a single file before an index, and of the shards
    those that the index names; `stale_weights` tells of the others.

    Raises:
        BadInput: no safetensors, only pickles, or an index that points outside the folder.
        CtxextError: a corrupt shard, or an index and shards that do not agree (the first five).
    """
    if (folder / SINGLE).exists():
        path = inside(folder, SINGLE, what="the checkpoint")
        return Weights(folder, {SINGLE: read_header(path)}, None)
    if (folder / INDEX).exists():
        return _sharded(folder)
    present = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    if ADAPTER_CONFIG in present:
        raise adapter_alone(folder)
    if any(name.endswith(PICKLES) for name in present):
        raise BadInput(
            f"{folder} has its weights as pickles only, and loading a pickle can run code",
            "convert them to safetensors first (transformers: save_pretrained)",
        )
    raise BadInput(f"{folder} has no {SINGLE} and no {INDEX}")


def adapter_alone(model: Path | str) -> BadInput:
    """Write the error for an adapter where a whole model is asked for."""
    return BadInput(
        f"{model} is an adapter, not a whole model",
        f"merge it first: ctxext merge {model} --base ITS_BASE --output-dir MERGED",
    )


def stale_weights(folder: Path) -> list[str]:
    """Warn of weights that are not read: shards that no index names, or beside one file."""
    warnings = []
    shards = {p.name for p in folder.glob("model-*-of-*.safetensors")}
    if (folder / SINGLE).exists():
        stale = sorted(shards | ({INDEX} if (folder / INDEX).exists() else set()))
        if stale:
            warnings.append(
                f"{SINGLE} alone is read, as transformers does, and not what lies beside it: "
                f"{_first(stale)}"
            )
    elif (folder / INDEX).exists():
        try:
            weight_map = read_json_object(folder / INDEX)[0].get("weight_map")
        except BadInput:  # which who reads the weights will say
            weight_map = None
        named = weight_map.values() if isinstance(weight_map, dict) else shards
        stale = sorted(shards - {name for name in named if isinstance(name, str)})
        if stale:
            warnings.append(
                f"shards that {INDEX} does not name are not read, as in transformers: "
                f"{_first(stale)}"
            )
    return warnings


def stray_adapter(folder: Path) -> list[str]:
    """Warn of an adapter beside the weights, which transformers would apply unasked."""
    if not (folder / ADAPTER_CONFIG).exists():
        return []
    return [
        f"an adapter lies beside the weights ({ADAPTER_CONFIG}); it is neither applied nor carried "
        "over: ctxext merge makes one checkpoint of the two"
    ]


def _sharded(folder: Path) -> Weights:
    index, _ = read_json_object(folder / INDEX, refuse_twice=("weight_map",))
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BadInput(f"{folder / INDEX} has no weight_map")
    if not all(isinstance(v, str) for v in weight_map.values()):
        raise BadInput(f"{folder / INDEX}: weight_map has a value that is not a file name")
    files = list(dict.fromkeys(weight_map.values()))
    if len(files) > _MAX_SHARDS:
        raise BadInput(f"{folder / INDEX} names {len(files)} shards; no checkpoint has so many")
    paths = {file: inside(folder, file, what=INDEX) for file in files}
    missing = [file for file, path in paths.items() if not path.exists()]
    if missing:
        raise CtxextError(f"{folder} lacks shards that its index names: {_first(missing)}")
    for file, path in paths.items():
        if not stat.S_ISREG(path.stat().st_mode):
            raise BadInput(f"{INDEX} names {printable(file)!r}, which is not a regular file")
    shards = {file: read_header(path) for file, path in paths.items()}
    listed: dict[str, set[str]] = {file: set() for file in files}
    for name, file in weight_map.items():
        listed[file].add(name)
    for file, header in shards.items():
        held = set(header.tensors)
        absent, unlisted = listed[file] - held, held - listed[file]
        if absent:
            raise CtxextError(
                f"shard {printable(file)} lacks tensors of the index: {_first(absent)}"
            )
        if unlisted:
            raise CtxextError(
                f"shard {printable(file)} has tensors not in the index: {_first(unlisted)}"
            )
    weights = Weights(folder, shards, index)
    metadata = index.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    if total is not None and total != weights.bytes:
        raise CtxextError(
            f"{INDEX} says total_size {total}, and the shards hold {weights.bytes} bytes",
            "fetch the checkpoint again, or correct metadata.total_size",
        )
    return weights


def _first(names: list[str] | set[str]) -> str:
    shown = ", ".join(printable(name) for name in sorted(names)[:5])
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")
