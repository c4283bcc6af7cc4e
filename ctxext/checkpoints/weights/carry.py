"""Carry a checkpoint's files into another folder: reflinked, hard-linked or copied."""

import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ctxext.checkpoints.folder import CONFIG
from ctxext.checkpoints.live.tokenizer import TOKENIZER, has_tokenizer, is_vocabulary
from ctxext.checkpoints.weights.files import ADAPTER_CONFIG, INDEX, PICKLES, Weights, inside
from ctxext.checkpoints.weights.safetensors_file import printable
from ctxext.errors import BadInput
from ctxext.runs.json_file import dump_json, read_json_object

WeightsMode = Literal["auto", "copy"]
TOKENIZER_CONFIG = "tokenizer_config.json"
GENERATION_CONFIG = "generation_config.json"
# Written anew for what is made, or meaningless for it.
_NOT_CARRIED = {
    CONFIG, "ctxext.json", "README.md", "eval-ppl.json", INDEX, ".gitattributes", ADAPTER_CONFIG,
}  # fmt: skip
_NOT_CARRIED_SUFFIXES = (*PICKLES, ".safetensors", ".gguf", ".onnx", ".h5", ".msgpack", ".lock")
# Of the tokenizer: further chat templates, as transformers saves them, and a tokenizer of its own.
_TOKENIZER_NAMES = (
    "tokenizer", "vocab", "merges", "special_tokens", "added_tokens", "spiece", "chat_template",
)  # fmt: skip
TOKENIZER_FOLDERS = {"additional_chat_templates", "tokenizer"}
_MOST_BYTES = 2**30  # of a side file; the largest tokenizers have 40 MB
_MOST_FILES = 1000  # below a folder of the tokenizer
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
    """Copy tokenizer, chat templates, license and custom files, byte for byte.

    Only regular files of the checkpoint: weights in other formats stay behind, and so do links to
    files elsewhere: what is not of the checkpoint must not come to be published. Of its subfolders
    those of the tokenizer come along; the others are named.
    """
    left: list[str] = []
    for path in sorted(source.iterdir()):
        name = path.name
        if name in _NOT_CARRIED or name.startswith(".") or name.endswith(_NOT_CARRIED_SUFFIXES):
            continue
        if not path.is_dir():
            _carry(source, name, folder, warnings)
        elif name in TOKENIZER_FOLDERS and not path.is_symlink():
            for below in _files_below(path):
                _carry(source, below.relative_to(source).as_posix(), folder, warnings)
        else:
            left.append(printable(name) + "/")
    if left:
        shown = ", ".join(left[:5]) + (f" and {len(left) - 5} more" if len(left) > 5 else "")
        warnings.append(f"subfolders were not carried over: {shown}")


def _files_below(folder: Path) -> list[Path]:
    """List what a folder of the tokenizer holds, without following links to other folders."""
    below = [
        Path(where) / name
        for where, folders, names in os.walk(folder)
        for name in [*names, *(each for each in folders if (Path(where) / each).is_symlink())]
        if not name.startswith(".") and not name.endswith(_NOT_CARRIED_SUFFIXES)
    ]
    return sorted(below)[:_MOST_FILES]


# A full disk of the output, and a file that is there and may not or cannot be read: without it the
# copy would not be the checkpoint.
_ENDS_ALL = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EIO)


def _carry(source: Path, name: str, folder: Path, warnings: list[str]) -> None:
    """Copy one side file of the checkpoint at `source`, or say why it stays behind."""
    shown = printable(name)
    try:
        path = inside(source, name, what="the checkpoint")
        held = path.stat()
        if not stat.S_ISREG(held.st_mode):
            warnings.append(f"{shown} is not a regular file and was not carried over")
        elif held.st_size > _MOST_BYTES:
            warnings.append(f"{shown} is larger than 1 GiB and was not carried over")
        else:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / name)
    except BadInput as error:
        warnings.append(f"{error}; it was not carried over")
    except OSError as error:
        if error.errno in _ENDS_ALL:
            raise
        warnings.append(f"{shown} cannot be read and was not carried over")


def carry_tokenizer(source: Path, folder: Path, warnings: list[str]) -> None:
    """Copy a tokenizer from another checkpoint into `folder`, in place of what is there of one."""
    for path in filter(_is_of_a_tokenizer, sorted(folder.iterdir())):
        path.unlink()
    for path in filter(_is_of_a_tokenizer, sorted(source.iterdir())):
        _carry(source, path.name, folder, warnings)


def _is_of_a_tokenizer(path: Path) -> bool:
    named = path.name.startswith(_TOKENIZER_NAMES) or is_vocabulary(path.name)
    return named and not path.is_dir()


def patch_tokenizer(source: Path, folder: Path, target: int, warnings: list[str]) -> dict[str, Any]:
    """Mend a tokenizer, carried from `source` to `folder`, for a longer window.

    `model_max_length` is raised: it caps vLLM. So is a length at which tokenizer.json cuts every
    text: TGI and others that use the file as it is obey it. The class name that transformers 5
    writes is replaced by the one that transformers 4 knows too.

    Returns:
        {"FILE.KEY": (before, after)} for what changed, FILE without its ending.
    """
    changed = _patch_tokenizer_config(source, folder, target, warnings)
    return changed | _patch_cut(source, folder, target, warnings)


def _patch_tokenizer_config(
    source: Path, folder: Path, target: int, warnings: list[str]
) -> dict[str, Any]:
    path = folder / TOKENIZER_CONFIG
    if not path.exists():
        if has_tokenizer(folder):
            warnings.append("the checkpoint has no tokenizer_config.json")
        return {}
    tokenizer, doubled = read_json_object(source / TOKENIZER_CONFIG)
    warnings += doubled
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


def _patch_cut(source: Path, folder: Path, target: int, warnings: list[str]) -> dict[str, Any]:
    path = folder / TOKENIZER
    if not path.exists():
        return {}
    tokenizer, doubled = read_json_object(source / TOKENIZER)
    warnings += doubled
    cut, _ = fixed_lengths(tokenizer)
    if (padded := padded_to(tokenizer)) is not None:
        warnings.append(f"{TOKENIZER} pads every text to {padded} (padding), and was left so")
    if cut is None or cut >= target:
        return {}
    truncation = {**tokenizer["truncation"], "max_length": target}
    path.write_text(dump_json({**tokenizer, "truncation": truncation}), encoding="utf-8")
    return {"tokenizer.truncation.max_length": (cut, target)}


def fixed_lengths(tokenizer: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Read the lengths that a tokenizer.json cuts and pads every text to; None = it does not.

    Calibration and training scripts leave them behind.
    """
    truncation, padding = tokenizer.get("truncation"), tokenizer.get("padding")
    cut = truncation.get("max_length") if isinstance(truncation, dict) else None
    strategy = padding.get("strategy") if isinstance(padding, dict) else None
    padded = strategy.get("Fixed") if isinstance(strategy, dict) else None
    return _length(cut), _length(padded)


def padded_to(tokenizer: Mapping[str, Any]) -> str | None:
    """Say what a tokenizer.json pads every text to: `64 tokens`, or a multiple of so many."""
    _, fixed = fixed_lengths(tokenizer)
    padding = tokenizer.get("padding")
    step = _length(padding.get("pad_to_multiple_of")) if isinstance(padding, dict) else None
    if fixed is not None:
        return f"{fixed} tokens"
    return f"a multiple of {step} tokens" if step is not None and step > 1 else None


def _length(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


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


def restore_lengths(
    folder: Path, restored: Mapping[str, tuple[Any, tuple[int, ...] | None]]
) -> dict[str, tuple[Any, Any]]:
    """Set lengths in carried files back to what they were before an extension.

    Args:
        restored: {"FILE.KEY": (before, values)}; a value that is none of them is left, unless
            that is None.

    Returns:
        {"FILE.KEY": (what it was, what it is now)} for what changed.
    """
    changed: dict[str, tuple[Any, Any]] = {}
    for name, (before, values) in restored.items():
        file, *keys, last = name.split(".")
        path = folder / f"{file}.json"
        if not path.exists():
            continue
        document, _ = read_json_object(path)
        place: Any = document
        for key in keys:
            place = place.get(key) if isinstance(place, dict) else None
        if not isinstance(place, dict) or last not in place or place[last] == before:
            continue
        if values is None or place[last] in values:
            changed[name] = (place[last], before)
            place[last] = before
            path.write_text(dump_json(document), encoding="utf-8")
    return changed


def listing(folder: Path) -> list[str]:
    """List the names of all files below a folder, with forward slashes, sorted."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
