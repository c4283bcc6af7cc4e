"""Read and write lengths in tokens as people write them: 8192, 8k, 128K (k = 1024)."""

import re

from ctxext.errors import BadInput, shown

_LENGTH = re.compile(r"([0-9]{1,18})([kKmM]?)")


def parse_length(text: str, *, flag: str = "length", least: int = 1) -> int:
    """Read a number of tokens from `8192`, `8k` or `1M`; k = K = 1024, m = M = 1024 k.

    Raises:
        BadInput: anything else, below `least`, or 2**31 and more; the flag is named.

    >>> parse_length("128k")
    131072
    """
    match = _LENGTH.fullmatch(text)
    if match is None:
        raise BadInput(
            f"{flag} is {shown(text)}, which is no length in tokens", "write 8192 or 8k (k = 1024)"
        )
    tokens = int(match[1]) * {"": 1, "k": 1024, "m": 1024 * 1024}[match[2].lower()]
    if not least <= tokens < 2**31:
        raise BadInput(f"{flag} is {text}, and has to be at least {least} and below 2**31 tokens")
    return tokens


def parse_lengths(text: str, *, flag: str = "lengths", least: int = 1) -> list[int]:
    """Read several lengths with commas between; return them sorted, without doubles."""
    return sorted({parse_length(word.strip(), flag=flag, least=least) for word in text.split(",")})


def show_length(tokens: int) -> str:
    """Write `32k` for whole multiples of 1024 from 1024 up, the plain number otherwise.

    >>> show_length(32768), show_length(5000)
    ('32k', '5000')
    """
    return f"{tokens // 1024}k" if tokens >= 1024 and tokens % 1024 == 0 else str(tokens)


def counted(number: int, noun: str) -> str:
    """Write a number with its noun.

    >>> counted(1, "window"), counted(1200, "window")
    ('1 window', '1,200 windows')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
