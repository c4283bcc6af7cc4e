"""Read JSON that somebody else wrote: every way it can be broken has its own sentence."""

import json
import math
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ctxext.errors import BadInput, about_its_path

_MAX_BYTES = 64 * 1024 * 1024
_DEEPEST = 64  # objects and lists inside each other; what writes them again recurses


@about_its_path
def read_json_object(
    path: Path, *, refuse_twice: tuple[str, ...] = (), most_bytes: int = _MAX_BYTES
) -> tuple[dict[str, Any], list[str]]:
    """Read a JSON object; a UTF-8 byte order mark is accepted.

    Args:
        refuse_twice: keys that may not stand twice in one object; others that do only warn, and
            the last one counts, as in every JSON reader.
        most_bytes: a larger file is not read; a value takes up to thirty times its text in memory.

    Returns:
        The object, and warnings.

    Raises:
        BadInput: missing, not UTF-8, not JSON (with line and column), not an object, too large
            or too deep, or a key of `refuse_twice` given twice.
    """
    text, warnings = read_text(path, most_bytes), list[str]()

    def without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for key, value in pairs:
            if key in seen:
                if key in refuse_twice:
                    raise BadInput(
                        f"{path} has the key '{key}' twice, and readers disagree on which counts",
                        "remove one of them",
                    )
                warnings.append(f"{path.name} has the key '{key}' twice; the last one counts")
            seen[key] = value
        return seen

    try:
        value = json.loads(text, object_pairs_hook=without_doubles)
    except json.JSONDecodeError as error:
        what = "is empty" if not text.strip() else f"is not valid JSON: {error.msg}"
        raise BadInput(f"{path} {what} (line {error.lineno}, column {error.colno})") from error
    except RecursionError as error:
        raise BadInput(f"{path} is nested too deeply to be read") from error
    except ValueError as error:  # Python's own limit
        raise BadInput(f"{path} holds a number of more than 4300 digits") from error
    if not isinstance(value, dict):
        what = {list: "a list", type(None): "null", str: "a string"}.get(type(value), "a number")
        raise BadInput(f"{path} holds {what}, not a JSON object")
    if too_deep(value):
        raise BadInput(f"{path} is nested too deeply to be read")
    return value, warnings


def read_text(path: Path, most_bytes: int) -> str:
    """Read what a file holds, without a byte order mark.

    Raises:
        BadInput: as `read_json_object`, before anything is parsed.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for without end
            raise BadInput(f"{path} is not a regular file")
        if status.st_size > most_bytes:
            raise BadInput(f"{path} is larger than {most_bytes >> 20} MiB, which no such file is")
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise BadInput(f"{path} does not exist") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error
    if text.startswith("version https://git-lfs.github.com"):
        raise BadInput(f"{path} is a Git LFS pointer, not the file itself", "run `git lfs pull`")
    return text


def too_deep(value: Any) -> bool:
    """Tell whether more objects and lists stand inside each other than any reader wants."""
    level: list[Any] = [value] if isinstance(value, dict | list) else []
    for _ in range(_DEEPEST):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def finite(value: Any) -> Any:
    """Replace infinities and NaN in a document, which JSON does not have, by null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


_NUMBERS = re.compile(r"\[\n\s+(-?\d[^\[\]{}\"]*?)\n\s*\]")


def dump_measured(value: Any) -> str:
    """Write JSON as `dump_json`, each list of numbers on one line: some hold hundreds."""
    return _NUMBERS.sub(lambda numbers: f"[{' '.join(numbers[1].split())}]", dump_json(value))


def dump_json(value: Any) -> str:
    """Write JSON as ctxext does: two spaces, key order kept, non-ASCII as it is."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    # Half a surrogate pair is no text; the escape that JSON has for it is what the backslash gives.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
