"""Find the folder for what is made once and read often: `CTXEXT_CACHE`, else the user's cache."""

import os
from pathlib import Path

from ctxext.checkpoints.folder import path_of
from ctxext.errors import BadInput

_WAY_OUT = "set CTXEXT_CACHE to a folder that can be written"


def cache_folder() -> Path:
    """Find `$CTXEXT_CACHE`, else `$XDG_CACHE_HOME/ctxext` or `~/.cache/ctxext`; it may not exist.

    Raises:
        BadInput: there is no home folder to have it in.
    """
    given = os.environ.get("CTXEXT_CACHE")
    try:
        if given:
            return path_of(given, "CTXEXT_CACHE")
        return (
            path_of(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "the cache folder") / "ctxext"
        )
    except BadInput as error:
        raise BadInput(str(error), _WAY_OUT) from error


def check_cache_folder() -> None:
    """Check that the cache folder can be written, or made, and do neither.

    Raises:
        BadInput: it cannot; what stands in the way is named.
    """
    folder = cache_folder().absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        what = "is no folder" if not there.is_dir() else "cannot be written to"
        raise BadInput(f"tokens are kept in {folder}, and {there} {what}", _WAY_OUT)
