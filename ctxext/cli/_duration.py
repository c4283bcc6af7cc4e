"""Durations as people read them."""


def show_duration(seconds: float) -> str:
    """Write seconds as `80 s`, `45 min` or `2.5 h`.

    >>> show_duration(80), show_duration(2700), show_duration(9000)
    ('80 s', '45 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
