"""Options that mean the same in every command, declared once."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ctxext.checkpoints.config.dtype import DtypeWord
from ctxext.checkpoints.config.rope_block import Dialect
from ctxext.errors import BadInput, shown
from ctxext.lengths import parse_lengths

READ = "What is read"
TRAINED = "What is trained"
MEMORY = "Memory"
DEVICE = "Device and speed"
OUTPUT = "Output"
DANGEROUS = "Dangerous options"
"""Panels of `--help`; what is used most has none, and stands first."""


def word_option(flag: str, text: str, panel: str | None = None) -> Any:
    """Make an option typed as a `Literal` and parsed as text; what is called checks it."""
    return typer.Option(flag, parser=str, metavar="NAME", help=text, rich_help_panel=panel)


def at_most(most: int) -> Callable[[int | None], int | None]:
    """Make a callback that refuses larger numbers; typer's `max` would take half of the help."""

    def check(value: int | None) -> int | None:
        if value is not None and value > most:
            raise typer.BadParameter(f"{value} is more than {most}")
        return value

    return check


Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="Checkpoint folder, or a Hub repository id.", show_default=False
    ),
]
Models = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL", help="Checkpoint folders or Hub repository ids.", show_default=False
    ),
]
Names = Annotated[
    str | None,
    typer.Option(
        "--names",
        metavar="NAMES",
        help="What tables call the models, with commas. [default: by what made them]",
    ),
]
OutputDir = Annotated[
    Path | None,
    typer.Option(
        "--output-dir", "-o", metavar="DIR", help="Folder to write; complete or not there at all."
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace an earlier output of ctxext.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
FIELD = "Field or column with the text (.jsonl, .parquet)."
Field = Annotated[str, typer.Option("--field", metavar="NAME", help=FIELD, rich_help_panel=READ)]
Revision = Annotated[
    str | None,
    typer.Option(
        "--revision",
        metavar="NAME",
        help="Branch, tag or sha of a Hub repository. [default: main]",
        rich_help_panel=READ,
    ),
]
Tokenizer = Annotated[
    str | None,
    typer.Option(
        "--tokenizer",
        metavar="NAME",
        help="Folder or repository with the tokenizer to use. [default: MODEL's]",
        rich_help_panel=READ,
    ),
]
MOST_SEED = 2**32 - 1  # numpy's limit
Seed = Annotated[
    int,
    typer.Option(
        "--seed",
        metavar="N",
        min=0,
        callback=at_most(MOST_SEED),
        help="Seed of everything random.",
    ),
]
Dtype = Annotated[
    DtypeWord,
    word_option("--dtype", "auto (as stored), bfloat16, float16 or float32.", OUTPUT),
]
ComputeDtype = Annotated[
    DtypeWord,
    word_option(
        "--dtype",
        "auto (bfloat16 on a GPU, float32 on a CPU), bfloat16, float16 or float32.",
        DEVICE,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="NAME",
        help="auto, cpu, cuda, cuda:N or mps.",
        rich_help_panel=DEVICE,
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done; write nothing.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set one key; may be given several times."),
]
PrefillChunk = Annotated[
    str | None,
    typer.Option(
        "--prefill-chunk",
        metavar="LENGTH",
        help="Read texts in chunks of so many tokens: bounded memory. [default: all at once]",
        rich_help_panel=MEMORY,
    ),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run Python code that the checkpoint brings.",
        rich_help_panel=DANGEROUS,
    ),
]
OriginalLength = Annotated[
    str | None,
    typer.Option(
        "--original-length",
        metavar="LENGTH",
        help="Trained window, where the config is wrong about it. [default: the config's]",
        rich_help_panel=READ,
    ),
]
Prefer = Annotated[
    Dialect | None,
    word_option(
        "--prefer", "rope_scaling or rope_parameters: which counts where they disagree.", READ
    ),
]


def lengths(text: str | None) -> list[int] | None:
    """Read `--lengths`; None stays None.

    Raises:
        BadInput: a length is none, or below 2 tokens.
    """
    return None if text is None else parse_lengths(text, flag="--lengths", least=2)


def names(text: str | None) -> list[str] | None:
    """Read `--names`; None stays None."""
    return None if text is None else [name.strip() for name in text.split(",")]


def parse_set(pairs: list[str] | None) -> dict[str, Any]:
    """Parse `key=value` pairs; values are YAML scalars, so 16 is a number and true a truth value.

    Raises:
        BadInput: no `=`, an empty key, the same key twice, or a value that is not one scalar.
    """
    out: dict[str, Any] = {}
    for pair in pairs or []:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise BadInput(f"--set {pair!r} is not KEY=VALUE", "e.g. --set beta_fast=16")
        if key in out:
            raise BadInput(f"--set {key} is given twice")
        out[key] = parse_scalar(text, flag=f"--set {key}")
    return out


def parse_scalar(text: str, *, flag: str) -> Any:
    """Parse one YAML scalar, with `1e-4` read as the number that everybody means."""
    from ctxext.runs.recipe.reader import read_yaml

    try:
        value = read_yaml(text, flag)
    except BadInput as error:
        raise BadInput(f"{flag}: {shown(text)} is no value that YAML can read") from error
    if isinstance(value, dict):
        raise BadInput(f"{flag}: {shown(text)} is not a single value")
    # Python's words for them, which have no dot.
    if isinstance(value, str) and value.lower().lstrip("+-") in ("nan", "inf", "infinity"):
        return float(value)
    return value
