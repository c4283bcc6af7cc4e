"""Find the local folder of MODEL on the command line: a folder, or a repository of the Hub."""

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ctxext.checkpoints.config.rope_block import ROPE_KEYS
from ctxext.checkpoints.hub import HubSilent, asking_hub, hub_failures, not_fetched
from ctxext.checkpoints.weights.files import ADAPTER_CONFIG, adapter_alone
from ctxext.checkpoints.weights.safetensors_file import printable
from ctxext.errors import EMPTY, BadInput, CtxextError, about_its_path, shown
from ctxext.runs.json_file import read_json_object

CONFIG = "config.json"
_CONFIG_BYTES = 16 * 1024 * 1024
_SMALL_FILES = [
    "*.json", "*.txt", "*.jinja", "*.md", "LICENSE*", "NOTICE*", "*.py",
    "*.model", "*.tiktoken", "*.spm", "*.codes", "*.vocab", "*.bpe", "*.tokenizer",
]  # fmt: skip


@dataclass(frozen=True)
class Source:
    """Where a checkpoint is, and what it may be called in public.

    Attributes:
        folder: local, holds config.json.
        name: the repository id, or the folder's own name: never an absolute path.
        revision: commit sha of a repository; None for a folder.
        weights_local: whether the weight files are in `folder` too.
    """

    folder: Path
    name: str
    revision: str | None = None
    weights_local: bool = True


def find_checkpoint(model: str, *, revision: str | None = None, weights: bool = True) -> Source:
    """Resolve MODEL to a folder, downloading from the Hub when it is a repository id.

    Args:
        model: a folder's path, or a repository id like `org/name`.
        revision: branch, tag or sha of a repository.
        weights: False fetches only the small files.

    Raises:
        BadInput: nothing there, no config.json in it, or the Hub says no.
        CtxextError: the network failed.
    """
    path = path_of(model, "MODEL")
    if path.exists():
        return _in_folder(path, model, revision)
    check_repo_id(model)
    return _from_hub(model, revision, weights)


@about_its_path
def _in_folder(path: Path, model: str, revision: str | None) -> Source:
    if not path.is_dir():
        raise BadInput(f"{model} is a file", "give the checkpoint's folder, or a Hub repository id")
    if revision is not None:
        raise BadInput(f"--revision is for the Hub, and {model} is a folder")
    if not (path / CONFIG).exists() and (path / ADAPTER_CONFIG).exists():
        raise adapter_alone(model)
    if not (path / CONFIG).exists():
        names = sorted(file.name for file in path.iterdir())
        listed = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
        raise BadInput(f"{model} has no {CONFIG}; it holds: {listed or 'nothing'}")
    return Source(path, path.resolve().name)


def find_tokenizer(given: str) -> Source:
    """Resolve `--tokenizer` to a folder with a tokenizer, fetched when it is a repository id.

    Raises:
        BadInput: nothing there, or the Hub says no.
        CtxextError: the network failed.
    """
    path = path_of(given, "--tokenizer")
    if path.is_dir():
        return Source(path, path.resolve().name)
    if path.exists():
        raise BadInput(f"--tokenizer {given} is a file", "give the folder that it lies in")
    check_repo_id(given)
    return _from_hub(given, None, weights=False)


def path_of(given: str, what: str) -> Path:
    """Read a path as typed, with `~` for a home folder.

    Raises:
        BadInput: nothing was typed, nobody has that home, or no file system can have such a name.
    """
    if not given:  # which would be the current folder
        raise BadInput(f"{what} is empty", EMPTY)
    try:
        path = Path(given).expanduser()
        path.exists()  # raises for a NUL in it, before 3.12
    except (RuntimeError, ValueError) as error:
        raise BadInput(f"{what} {shown(given)} is no path: {error}") from error
    except OSError as error:  # a name longer than file systems allow
        raise BadInput(f"{what} {shown(given)} cannot be looked up: {error.strerror}") from error
    return path


def check_repo_id(name: str) -> None:
    """Refuse what can be no repository of the Hub, by the Hub client's own rules.

    Raises:
        BadInput: it says why.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        said, _, _ = " ".join(str(error).split()).partition(". Use `")  # an argument of Python's
        why = said.removesuffix(".").removesuffix(f": '{name}'")
        raise BadInput(
            f"{printable(name)} does not exist, and is no Hub repository id either: {why[:200]}"
        ) from error


def _from_hub(repo_id: str, revision: str | None, weights: bool) -> Source:
    """Fetch a repository into the Hub's cache as far as it is not there.

    Raises:
        BadInput: there is no such repository or revision for this user, or no model in it.
        CtxextError: the Hub is out of reach.
    """
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        folder = _fetched(repo_id, revision, weights)
    except GatedRepoError as error:
        raise BadInput(
            f"{repo_id} is gated", "accept its terms on the Hub, then `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise BadInput(f"{repo_id} has no revision {revision}") from error
    except RepositoryNotFoundError as error:
        raise BadInput(
            f"{repo_id} is neither a folder here nor a repository that you can read on the Hub",
            "check the spelling; for a private one, `hf auth login`",
        ) from error
    except LocalEntryNotFoundError as error:
        raise CtxextError(
            f"{repo_id} is neither a folder here nor in the cache, and the Hub is out of reach",
            "check the path, the network and HF_HUB_OFFLINE",
        ) from error
    except hub_failures() as error:
        raise not_fetched(repo_id, error) from error
    if not (folder / CONFIG).exists() and (folder / ADAPTER_CONFIG).exists():
        raise adapter_alone(repo_id)
    if not (folder / CONFIG).exists():
        raise BadInput(f"{repo_id} has no {CONFIG}")
    return Source(folder, repo_id, folder.name, weights_local=weights)


def _fetched(repo_id: str, revision: str | None, weights: bool) -> Path:
    """Fetch a repository and return its folder in the Hub's cache, or raise as huggingface_hub."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    everything = [*_SMALL_FILES, *(["*.safetensors"] if weights else [])]

    def cached() -> str | None:
        with suppress(LocalEntryNotFoundError):
            return str(
                snapshot_download(
                    repo_id, revision=revision, allow_patterns=everything, local_files_only=True
                )
            )
        return None

    # A cached sha needs no network; asking it first spares 20 s of retries when offline.
    pinned = revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision) is not None
    if pinned and (folder := cached()) is not None:
        return Path(folder)
    try:
        with asking_hub(small=True):
            small = snapshot_download(repo_id, revision=revision, allow_patterns=_SMALL_FILES)
        if not weights:
            return Path(small)
        with asking_hub():  # which may take any time, but not in silence
            return Path(
                snapshot_download(repo_id, revision=Path(small).name, allow_patterns=everything)
            )
    except HubSilent:
        if (folder := cached()) is None:  # as where there is no network
            raise
        return Path(folder)


def read_config(source: Source) -> tuple[dict[str, object], list[str]]:
    """Read the config.json, with warnings about it; see `read_json_object` for errors."""
    path = source.folder / CONFIG
    return read_json_object(path, refuse_twice=ROPE_KEYS, most_bytes=_CONFIG_BYTES)
