"""Record what was made of what, by which numbers, in ctxext.json: no secrets, no absolute paths."""

import hashlib
import importlib.metadata
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctxext.checkpoints.config.detect import Position
from ctxext.checkpoints.config.windows import Origin
from ctxext.checkpoints.folder import CONFIG, Source
from ctxext.checkpoints.weights.files import INDEX
from ctxext.checkpoints.weights.front_matter import read_front_matter
from ctxext.errors import CtxextError
from ctxext.masking import masked
from ctxext.runs.build import from_document
from ctxext.runs.checked import Broken, read_checked
from ctxext.runs.fields import MOST_TOKENS, bounded
from ctxext.runs.json_file import dump_json
from ctxext.runs.output import MARK, write_file
from ctxext.runs.rows.record import RunRecord

SCHEMA = "ctxext.run/1"
_LIBRARIES = ("torch", "transformers", "accelerate", "peft", "datasets", "safetensors")


@dataclass(frozen=True)
class _Original:
    """The unscaled base that a record's rope tells of."""

    window: int = bounded(least=1, most=MOST_TOKENS)
    rope_theta: float = bounded(above=1)


@dataclass(frozen=True)
class _Rope:
    """What is believed of a record's rope."""

    original: _Original | None = None


def sha256_of(path: Path) -> str | None:
    """Compute the SHA-256 of a file, in hex; None when there is no file."""
    if not path.is_file():
        return None
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """List the versions of ctxext, Python and the libraries that decide results, if installed."""
    installed = {"python": platform.python_version()}
    for name in ("ctxext", *_LIBRARIES):
        try:
            installed[name] = _version(importlib.metadata.distribution(name))
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def _version(installed: importlib.metadata.Distribution) -> str:
    """Read a version from the line that says it: the whole file is a mail, and slow to parse."""
    said = re.search(r"^Version: (\S+)$", installed.read_text("METADATA") or "", re.MULTILINE)
    return said[1] if said else installed.version


def base_record(source: Source) -> dict[str, Any]:
    """Describe the checkpoint that something was made of."""
    return {
        "id": source.name,
        "revision": source.revision,
        "config_sha256": sha256_of(source.folder / CONFIG),
        "index_sha256": sha256_of(source.folder / INDEX),
    }


def base_terms(folder: Path) -> dict[str, Any]:
    """Tell what holds of everything that is made of a checkpoint.

    License and languages, as recorded or by its own card; and what of an attention factor is in
    its weights, if any.
    """
    recorded, card = read_record(folder) or RunRecord(), read_front_matter(folder)
    folded = recorded.folded_attention_factor
    return {
        "license": dict(recorded.license or card.license),
        "language": list(recorded.language or card.language),
        **folded_terms(folded),
    }


def folded_terms(factor: float | None) -> dict[str, float]:
    """Write down what of an attention factor is in the weights; nothing where none is."""
    return {} if factor is None else {"folded_attention_factor": factor}


def rope_record(position: Position) -> dict[str, Any] | None:
    """Describe a checkpoint's encoding: its hash, and the unscaled base it can be extended from."""
    if position.rope is None:
        return None
    return {
        "sha256": position.rope.sha256,
        "original": {
            "window": position.window.original,
            "rope_theta": position.rope.spec.rope_theta,
        },
    }


def command_line(arguments: Sequence[str] | None = None) -> str:
    """Write the command as typed, secrets masked and absolute paths cut to their last part."""
    out = []
    previous = ""
    for argument in arguments if arguments is not None else sys.argv:
        shown = masked(argument)
        if previous == "--token":
            shown = "***"
        flag, equals, value = shown.partition("=")
        if flag == "--token" and equals:
            shown = "--token=***"
        elif equals and Path(value).is_absolute():
            shown = f"{flag}={Path(value).name}"
        elif Path(shown).is_absolute():
            shown = Path(shown).name
        out.append(shown)
        previous = argument
    return " ".join(out)


def record(kind: str, *, base: Source, position: Position, **parts: Any) -> dict[str, Any]:
    """Make a ctxext.json document.

    Args:
        kind: what made the folder: `extend`, `finetune`, `stage` (of a fine-tuning), `merge`,
            `adapter`, `base`.
        base: the checkpoint it was made of.
        position: of the checkpoint in the folder, as it is now.
        parts: further keys (method, parameters, training, ...), JSON values.
    """
    window = position.stated_window
    return {
        "schema": SCHEMA,
        "kind": kind,
        "versions": versions(),
        "base": base_record(base),
        "model_type": position.model_type,
        "window": {"original": window.original, "target": window.current} if window else None,
        "rope": rope_record(position),
        **parts,
        "command": command_line(),
    }


def write_record(folder: Path, document: Mapping[str, Any]) -> None:
    """Write `ctxext.json` into a folder, in one step."""
    write_file(folder / MARK, dump_json(document))


def read_record(folder: Path) -> RunRecord | None:
    """Read the folder's ctxext.json; None where there is none.

    Its `rope` is looked at by `origin_of` and `check_record` only.

    Raises:
        BadInput: broken, or of another schema than this version reads.
    """
    path = folder / MARK
    if not path.exists():
        return None
    hint = f"restore it, or remove {MARK}: the config counts then"
    return read_checked(path, SCHEMA, RunRecord.from_dict, hint=hint)


def origin_of(folder: Path, warnings: list[str] | None = None) -> Origin | None:
    """Return the unscaled base that an earlier `ctxext extend` recorded, if one did.

    Args:
        warnings: gets why a record is not believed.

    Raises:
        BadInput: as `read_record`.
    """
    record = read_record(folder)
    if record is None:
        return None
    recorded = record.document.get("rope")
    if recorded is None:
        return None if record.window is None else Origin(record.window.original)
    try:
        original = from_document(_Rope, recorded).original
    except Broken as error:
        if warnings is not None:
            warnings.append(f"{MARK} is not believed: in rope, {error}")
        return None
    return None if original is None else Origin(original.window, original.rope_theta)


def check_record(position: Position, recorded: RunRecord) -> None:
    """Check that the config beside a record still rotates as the record says.

    Raises:
        CtxextError: it was edited since, so what is written down about it is not true.
    """
    rope = recorded.document.get("rope")
    written = rope.get("sha256") if isinstance(rope, dict) else rope
    now = position.rope.sha256 if position.rope else None
    if written != now:
        raise CtxextError(
            "config.json was changed after ctxext wrote it: its rope is not the recorded one",
            "make the checkpoint again with ctxext extend",
        )
