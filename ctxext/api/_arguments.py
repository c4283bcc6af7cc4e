"""Arguments as people write them in Python: a name or several, 8192 or "8k"."""

from collections.abc import Sequence

from ctxext.errors import BadInput, shown
from ctxext.lengths import parse_length, parse_lengths


def several(names: str | Sequence[str]) -> list[str]:
    """Put one name into a list; several stay as they are."""
    return [names] if isinstance(names, str) else list(names)


def maybe_tokens(length: int | str | None, name: str) -> int | None:
    """Read a length that may be left out, as `tokens`."""
    return None if length is None else tokens(length, name)


def tokens(length: int | str, name: str) -> int:
    """Read a length, as a number of tokens or as the command line takes it (`8k`).

    Raises:
        BadInput: it is neither; `name` is said.
    """
    if isinstance(length, str):
        return parse_length(length, flag=name)
    if isinstance(length, bool) or not isinstance(length, int):
        raise BadInput(
            f"{name} is {shown(length)}, which is no length in tokens", "write 8192 or '8k'"
        )
    return length


def several_lengths(lengths: str | Sequence[int | str], name: str) -> list[int]:
    """Read lengths, sorted and without doubles: `[1024, "8k"]`, or `"1k,8k"`.

    Raises:
        BadInput: as `tokens`.
    """
    if isinstance(lengths, str):
        return parse_lengths(lengths, flag=name)
    return sorted({tokens(length, name) for length in lengths})


def maybe_lengths(lengths: str | Sequence[int | str] | None, name: str) -> list[int] | None:
    """Read lengths that may be left out, as `several_lengths`."""
    return None if lengths is None else several_lengths(lengths, name)
