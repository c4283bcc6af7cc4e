"""Carry a checkpoint's files into another folder: reflinked, hard-linked or copied."""

import errno
import fcntl
import os
import shutil
import stat
from pathlib import Path
from typing import Any, Literal

from ctxext.checkpoints.folder import CONFIG
from ctxext.checkpoints.json_file import dump_json, read_json_object
from ctxext.checkpoints.safetensors_file import printable
from ctxext.checkpoints.weights import ADAPTER_CONFIG, INDEX, PICKLES, Weights, inside
from ctxext.errors import BadInput

WeightsMode = Literal["auto", "copy"]
TOKENIZER_CONFIG = "tokenizer_config.json"
GENERATION_CONFIG = "generation_config.json"
# Written anew for what is made, or meaningless for it.
_NOT_CARRIED = {
    CONFIG, "ctxext.json", "README.md", "eval-ppl.json", INDEX, ".gitattributes", ADAPTER_CONFIG,
}  # fmt: skip
_NOT_CARRIED_SUFFIXES = (*PICKLES, ".safetensors", ".gguf", ".onnx", ".h5", ".msgpack", ".lock")
_FICLONE = 0x40049409  # linux/fs.h: share the blocks, copy on write


def link_or_copy(source: Path, target: Path, mode: WeightsMode) -> Literal["linked", "copied"]:
    """Give `target` the content of `source` at no cost where the file system can.

    Tried in turn: a reflink (later edits stay apart), a hard link (the same file under two
    names), a copy. Symlinks, as in the Hub's cache, are followed first.
    """
    source = source.resolve()
    if mode == "auto":
        if _reflink(source, target):
            return "linked"
        try:
            os.link(source, target)
            return "linked"
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
                raise
    shutil.copyfile(source, target)
    return "copied"


def _reflink(source: Path, target: Path) -> bool:
    with source.open("rb") as old, target.open("wb") as new:
        try:
            fcntl.ioctl(new.fileno(), _FICLONE, old.fileno())
            return True
        except OSError:
            pass
    target.unlink()
    return False


def carry_weights(weights: Weights, folder: Path, mode: WeightsMode) -> Literal["linked", "copied"]:
    """Put every shard, and the index, of a checkpoint into `folder`."""
    how: Literal["linked", "copied"] = "linked"
    for file in weights.shards:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        if link_or_copy(weights.folder / file, folder / file, mode) == "copied":
            how = "copied"
    if weights.index is not None:
        shutil.copyfile(weights.folder / INDEX, folder / INDEX)
    return how


def carry_side_files(source: Path, folder: Path, warnings: list[str]) -> None:
    """Copy tokenizer, chat template, license and custom files, byte for byte.

    Only regular files at the top of the checkpoint; weights in other formats stay behind, and so
    do links to files elsewhere: what is not of the checkpoint must not come to be published.
    """
    for path in sorted(source.iterdir()):
        name = path.name
        if name in _NOT_CARRIED or name.startswith(".") or name.endswith(_NOT_CARRIED_SUFFIXES):
            continue
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                continue
            inside(source, name, what="the checkpoint")
        except BadInput as error:
            warnings.append(f"{error}; it was not carried over")
            continue
        except OSError:
            warnings.append(f"{printable(name)} cannot be read and was not carried over")
            continue
        shutil.copyfile(path, folder / name)


def patch_tokenizer(source: Path, folder: Path, target: int, warnings: list[str]) -> dict[str, Any]:
    """Mend a tokenizer_config.json, carried from `source` to `folder`, for a longer window.

    `model_max_length` is raised: it caps vLLM. The class name that transformers 5 writes is
    replaced by the one that transformers 4 knows too.

    Returns:
        {"tokenizer_config.KEY": (before, after)} for what changed.
    """
    path = folder / TOKENIZER_CONFIG
    if not path.exists():
        warnings.append("the checkpoint has no tokenizer_config.json")
        return {}
    tokenizer, found = read_json_object(source / TOKENIZER_CONFIG)
    warnings += found
    changes: dict[str, Any] = {}
    before = tokenizer.get("model_max_length")
    if isinstance(before, str):
        warnings.append(f"{TOKENIZER_CONFIG}: model_max_length is a string, and was left alone")
    if isinstance(before, int | float) and not isinstance(before, bool) and before < target:
        changes["model_max_length"] = target
    if tokenizer.get("tokenizer_class") == "TokenizersBackend":
        changes["tokenizer_class"] = "PreTrainedTokenizerFast"
    if changes:
        path.write_text(dump_json({**tokenizer, **changes}), encoding="utf-8")
    return {f"tokenizer_config.{key}": (tokenizer[key], new) for key, new in changes.items()}


def raise_generation_length(
    source: Path, folder: Path, old_window: int, target: int
) -> dict[str, Any]:
    """Raise `max_length` of a carried generation_config.json where it was the old window."""
    path = folder / GENERATION_CONFIG
    if not path.exists():
        return {}
    generation, _ = read_json_object(source / GENERATION_CONFIG)
    if generation.get("max_length") != old_window or old_window >= target:
        return {}
    path.write_text(dump_json({**generation, "max_length": target}), encoding="utf-8")
    return {"generation_config.max_length": (old_window, target)}


def base_license(source: Path) -> dict[str, str]:
    """License fields of a checkpoint's README front matter, for the card of what is made of it."""
    readme = source / "README.md"
    try:
        lines = readme.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    if not lines or lines[0].strip() != "---":
        return {}
    found: dict[str, str] = {}
    for line in lines[1:200]:
        if line.strip() == "---":
            break
        key, _, value = line.partition(":")
        if key in ("license", "license_name", "license_link") and value.strip():
            found[key] = value.strip().strip("\"'")
    return found


def listing(folder: Path) -> list[str]:
    """Names of all files below a folder, with forward slashes, sorted."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
