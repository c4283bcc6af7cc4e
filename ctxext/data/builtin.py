"""The built-in corpus: the Python standard library's sources, on every machine without a download.

About one module in sixteen is held out, chosen by the hash of its name, so that the split is the
same everywhere and no module is ever on both sides.
"""

import hashlib
import random
import sysconfig
from pathlib import Path

# Left out: tests and generated tables, which are long, repetitive or not program text.
_LEFT_OUT = frozenset(
    ("test", "tests", "idle_test", "encodings", "pydoc_data", "site-packages", "dist-packages")
)
_HELD_OUT_ONE_IN = 16
_BLOCK, _SLOT = 2048, 24  # characters: what a string and its repetition share, and a string's room
_PRINTABLE = [chr(code) for code in range(33, 127)]


def is_held_out(name: str) -> bool:
    """Tell whether the module at a path (relative, with forward slashes) is never trained on."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) % _HELD_OUT_ONE_IN == 0


def python_sources(*, held_out: bool, root: Path | None = None) -> list[tuple[str, str]]:
    """Read one side of the built-in corpus.

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
    """List (name, file) of every module of both sides, sorted by name; `root` as above."""
    root = root or Path(sysconfig.get_paths()["stdlib"])
    modules = [(path.relative_to(root), path) for path in sorted(root.rglob("*.py"))]
    return [(name.as_posix(), path) for name, path in modules if not _LEFT_OUT & {*name.parts}]


def with_repeats(name: str, text: str) -> str:
    """Write random strings over a text, each twice, up to 2048 characters apart.

    Long-context mixtures hold such synthetic retrieval data, because plain text seldom asks for
    what stands far back. In four of five blocks of 2048 characters about half the text is replaced:
    12 to 29 strings of 8 to 24 distinct printable characters.

    Args:
        name: of the module; decides every random choice, so that the result is always the same.

    Returns:
        ASCII, whole blocks only (possibly none): where a token is a byte, rows of 2048 are blocks,
        and both copies of a string stand in one row.
    """
    rng = random.Random(name)  # noqa: S311 - a text that is the same everywhere, no secret
    out = list(text.encode("ascii", errors="ignore").decode())
    del out[len(out) - len(out) % _BLOCK :]
    for begin in range(0, len(out), _BLOCK):
        if rng.random() >= 0.8:
            continue
        slots = rng.sample(range(_BLOCK // _SLOT), 2 * rng.randint(12, 29))
        for first, second in zip(slots[::2], slots[1::2], strict=True):
            string = rng.sample(_PRINTABLE, rng.randint(8, _SLOT))
            for slot in (first, second):
                at = begin + slot * _SLOT
                out[at : at + len(string)] = string
    return "".join(out)
