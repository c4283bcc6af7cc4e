"""Make output folders that are either complete or not there: written beside, then renamed."""

import ctypes
import fcntl
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ctxext.errors import BadInput, CtxextError, about_its_path, is_disk_full

MARK = "ctxext.json"
"""In every folder that ctxext makes; `--overwrite` replaces no other."""
_STAGING = ".ctxext-tmp-"


@about_its_path
def check_output(
    output_dir: Path,
    *,
    overwrite: bool,
    inputs: tuple[Path, ...] = (),
    may_lie_inside: bool = False,
    begun: str | None = None,
) -> None:
    """Refuse, before any work, an output folder that cannot or must not be written.

    Args:
        may_lie_inside: whether a place within an input is fine (measurements of a checkpoint).
        begun: the file by which a run is known that `--resume` can go on with.

    Raises:
        BadInput: a file, non-empty without `overwrite`, the same as, inside or around an input,
            a name too long, or a parent that cannot be written.
    """
    shown = str(output_dir)
    try:
        if output_dir.is_dir() and any(output_dir.iterdir()) and not overwrite:
            can_go_on = begun is not None and (output_dir / begun).exists()
            goes_on = "add --resume to go on with its run, " if can_go_on else ""
            raise BadInput(
                f"--output-dir {shown} exists and is not empty",
                f"{goes_on}choose another, or add --overwrite",
            )
        if output_dir.is_dir() and any(output_dir.iterdir()) and not (output_dir / MARK).exists():
            raise BadInput(
                f"--output-dir {shown} has no {MARK}, so it is not of ctxext and is not replaced",
                "remove it yourself, or choose another",
            )
        if output_dir.exists() and not output_dir.is_dir():
            raise BadInput(f"--output-dir {shown} is a file, not a folder")
        target = output_dir.resolve()
        for given in inputs:
            source = given.resolve()
            if source == target:
                raise BadInput(f"--output-dir {shown} is the input itself", "choose another folder")
            if source.is_relative_to(target):
                raise BadInput(f"--output-dir {shown} contains the input {given}")
            if target.is_relative_to(source) and not may_lie_inside:
                raise BadInput(f"--output-dir {shown} lies inside the input {given}")
        if any(len(os.fsencode(name)) > 200 for name in target.parts):
            raise BadInput("--output-dir has a name of more than 200 bytes, too long to write")
        parent = next(p for p in target.parents if p.exists())
        if not parent.is_dir():
            raise BadInput(f"--output-dir {shown} lies below {parent}, which is a file")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise BadInput(f"--output-dir {shown} cannot be made: no permission to write {parent}")
    except OSError as error:
        raise BadInput(f"--output-dir {shown} cannot be used: {error.strerror}") from error


_STOPPING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def locked(output_dir: Path) -> Iterator[None]:
    """Hold an output folder against a second process; the lock ends with this one, however it ends.

    By hand, because filelock (4.3) leaves the file of its lock where it is, in the user's folder,
    and takes for its own the lock of a file that the holder before has removed.

    Raises:
        BadInput: another process writes there.
    """
    target = output_dir.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    path = target.parent / f".{target.name}.ctxext-lock"
    descriptor = None
    try:
        while descriptor is None or not _is_open_as(path, descriptor):
            # The holder before us may have removed the file between our open and our lock.
            if descriptor is not None:
                os.close(descriptor)
            # A signal waits until we know our file: nobody else would remove it.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            if not _lock(descriptor):
                raise BadInput(
                    f"another ctxext process is writing to {output_dir}",
                    "wait for it, or choose another",
                )
        yield
    finally:
        if descriptor is not None:
            # Asked again: a signal may have come between our open and our lock.
            if _lock(descriptor) and _is_open_as(path, descriptor):
                path.unlink(missing_ok=True)
            os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Take the lock of an open file, or have it already; False when another process holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_open_as(path: Path, descriptor: int) -> bool:
    try:
        return os.fstat(descriptor).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False


@contextmanager
def staged_folder(
    output_dir: Path,
    *,
    overwrite: bool,
    inputs: tuple[Path, ...] = (),
    may_lie_inside: bool = False,
    needed_bytes: int = 0,
) -> Iterator[Path]:
    """Give a temporary folder beside `output_dir`; rename it there when the block ends well.

    On any exception the temporary folder is removed and an older output stays as it was.

    Args:
        output_dir: the folder to make; its parents are made too.
        overwrite: replace a non-empty folder.
        inputs, may_lie_inside: as for `check_output`.
        needed_bytes: refuse at once when the disk has less.

    Raises:
        BadInput: as `check_output` and `locked`.
        CtxextError: the disk is, or gets, full.
    """
    check_output(output_dir, overwrite=overwrite, inputs=inputs, may_lie_inside=may_lie_inside)
    target = output_dir.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--output-dir {output_dir} cannot be made: {error.strerror}") from error
    free = shutil.disk_usage(target.parent).free
    if needed_bytes > free:
        raise CtxextError(
            f"{output_dir} needs {needed_bytes / 2**20:,.0f} MiB and the disk has "
            f"{free / 2**20:,.0f} MiB left"
        )
    with locked(output_dir), beside(target) as staging:
        yield staging


@contextmanager
def beside(target: Path, *, way_out: str = "free some space") -> Iterator[Path]:
    """Give an empty folder beside `target` that takes its place when the block ends well.

    On any exception it is removed, and an older `target` stays as it was. The caller holds the
    lock of `target`, or of a folder around it: what a killed process left beside it is removed.

    Raises:
        CtxextError: the disk is full.
    """
    for leftover in target.parent.glob(f".{_glob_safe(target.name)}{_STAGING}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    staging = target.with_name(f".{target.name}{_STAGING}{secrets.token_hex(4)}")
    try:  # made in here, where a signal in the next moment finds it to remove
        staging.mkdir(parents=True)
        yield staging
        _replace(staging, target)
    except Exception as error:
        if is_disk_full(error):
            raise CtxextError(
                f"the disk is full, so nothing was written to {target}", way_out, path=target
            ) from error
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def write_file(path: Path, text: str) -> None:
    """Replace a file in one step: written beside, flushed to the disk, renamed."""
    beside = path.with_name(f".{path.name}{_STAGING}{os.getpid()}")
    try:
        with beside.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _replace(staging: Path, target: Path) -> None:
    """Put a finished folder in the place of `target`; an old one ends in `staging`, or is gone."""
    if target.exists() and _exchange(staging, target):
        return
    old = None
    if target.exists():
        old = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}{_STAGING}old-"))
        target.rename(old / "old")
    try:
        staging.rename(target)
    except BaseException:  # a signal too
        if old is not None:
            (old / "old").rename(target)
        raise
    finally:
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two folders in one step, so that no kill finds neither; False where that cannot be."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)  # Linux
    if renameat2 is None:
        return False
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(renameat2(here, os.fsencode(first), here, os.fsencode(second), swap) == 0)


def _glob_safe(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
