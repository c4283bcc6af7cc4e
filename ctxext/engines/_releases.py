"""Compare releases by their numbers: 4.9 comes before 4.51."""


def numbers_of(release: str) -> list[int]:
    """Split `4.51` into its numbers, by which releases are ordered."""
    return [int(number) for number in release.split(".")]


def before(release: str, other: str) -> bool:
    """Tell whether a release came before another."""
    return numbers_of(release) < numbers_of(other)
