"""Read the factors of rotary pairs from a file, as searches and checkpoints leave them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ctxext.errors import BadInput, about_its_path, shown
from ctxext.methods import Method
from ctxext.runs.json_file import read_json_object, read_text

_KEYS: Final = ("long_factor", "short_factor", "attention_factor")
_BLOCKS: Final = ("rope_scaling", "rope_parameters")
_FLAG: Final = "--factors"
_MOST_BYTES: Final = 1 << 20


@about_its_path
def read_factors(path: Path) -> dict[str, Any]:
    """Read `long_factor`, and `short_factor` and `attention_factor` where they are.

    The file is a JSON object with these keys; a config.json with a rope block that has them; or, as
    LongRoPE's search writes `result_final.csv`, one number of `long_factor` a line.

    Returns:
        Parameters of a method; what the numbers are is for the method to check.

    Raises:
        BadInput: none of these.
    """
    text = read_text(path, _MOST_BYTES)
    if not text.lstrip().startswith(("{", "[")):
        return {"long_factor": _numbers(text, path)}
    document, _ = read_json_object(path, most_bytes=_MOST_BYTES)
    blocks = [document, *(document.get(key) for key in _BLOCKS)]
    for block in blocks:
        if isinstance(block, dict) and block.get("long_factor") is not None:
            return {key: block[key] for key in _KEYS if block.get(key) is not None}
    raise BadInput(
        f"{_FLAG} {path} has no long_factor, neither at its top nor in rope_scaling or "
        "rope_parameters"
    )


def _numbers(text: str, path: Path) -> list[float]:
    """Read one number a line; empty lines and lines that begin with # are passed over."""
    numbers = []
    for number, line in enumerate(text.splitlines(), 1):
        word = line.strip()
        if not word or word.startswith("#"):
            continue
        try:
            numbers.append(float(word))
        except ValueError as error:
            raise BadInput(
                f"{_FLAG} {path}: line {number} is {shown(word, 40)}, and has to be one number"
            ) from error
    if not numbers:
        raise BadInput(f"{_FLAG} {path} holds no number")
    return numbers


def with_factors(
    method: Method, parameters: Mapping[str, Any], factors: Path | None
) -> dict[str, Any]:
    """Add the factors of a file, if one is given, to a method's parameters.

    Raises:
        BadInput: the method takes no factors, or they are given twice; as `read_factors`.
    """
    if factors is None:
        if "long_factor" in method.required and parameters.get("long_factor") is None:
            raise BadInput(
                f"method {method.name} needs the factor of every rotary pair",
                f"give {_FLAG} FILE, or long_factor as a parameter in Python and recipes",
            )
        return dict(parameters)
    if "long_factor" not in method.parameters:
        raise BadInput(
            f"{_FLAG} gives the factor of each pair, and method {method.name} computes them",
            "use --method longrope",
        )
    read = read_factors(factors)
    twice = sorted(set(read) & set(parameters) - {"attention_factor"})
    if twice:
        raise BadInput(f"--factors {factors} has a {twice[0]}, and one is given too", "give one")
    return {**read, **parameters}
