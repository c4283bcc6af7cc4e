"""The built-in corpus: the Python standard library's sources, on every machine without a download.

About one module in sixteen is held out, chosen by the hash of its name, so that the split is the
same everywhere and no module is ever on both sides.
"""

import hashlib
import sysconfig
from pathlib import Path

# Left out: tests and generated tables, which are long, repetitive or not program text.
_LEFT_OUT = frozenset(
    ("test", "tests", "idle_test", "encodings", "pydoc_data", "site-packages", "dist-packages")
)
_HELD_OUT_ONE_IN = 16


def is_held_out(name: str) -> bool:
    """Whether the module at this path (relative, with forward slashes) is never trained on."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) % _HELD_OUT_ONE_IN == 0


def python_sources(*, held_out: bool, root: Path | None = None) -> list[tuple[str, str]]:
    """One side of the built-in corpus.

    Args:
        held_out: True for the part that no training of this project reads.
        root: another folder of Python sources, for tests; default: the running interpreter's.

    Returns:
        (name, text) pairs, sorted by name; files that are not UTF-8 are left out.
    """
    documents = []
    for relative, path in python_files(root):
        if is_held_out(relative) != held_out:
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):
            continue
        if text.strip():
            documents.append((relative, text))
    return documents


def python_files(root: Path | None = None) -> list[tuple[str, Path]]:
    """(name, file) of every module of both sides, sorted by name; `root` as above."""
    root = root or Path(sysconfig.get_paths()["stdlib"])
    found = [(path.relative_to(root), path) for path in sorted(root.rglob("*.py"))]
    return [(name.as_posix(), path) for name, path in found if not _LEFT_OUT & {*name.parts}]
