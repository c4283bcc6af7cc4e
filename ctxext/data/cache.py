"""Where what is made once and read often is kept: `CTXEXT_CACHE`, else the user's cache folder."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$CTXEXT_CACHE`, else `$XDG_CACHE_HOME/ctxext`, else `~/.cache/ctxext`; it may not exist."""
    own = os.environ.get("CTXEXT_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ctxext"
