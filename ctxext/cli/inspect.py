"""The command `ctxext inspect`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ctxext.cli import _options as options
from ctxext.cli._output import out, print_json, say_note, say_warnings, table
from ctxext.lengths import parse_length, show_length

if TYPE_CHECKING:
    from ctxext.api.inspect import InspectResult

_UNKNOWN = "unknown"
_ATTENTION = {
    "full": "full attention",
    "sliding": "sliding attention",
    "chunked": "chunked attention",
    "linear": "no cache of keys (linear attention, state space or none)",
    None: "unknown attention",
}


def command(
    model: options.Model,
    target: Annotated[
        str | None,
        typer.Option("--target", metavar="LENGTH", help="A window to judge against, e.g. 128k."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot", metavar="FILE", help="Draw the rotary wavelengths to a .png or .svg file."
        ),
    ] = None,
    json: options.Json = False,
    original_length: options.OriginalLength = None,
    prefer: options.Prefer = None,
    revision: options.Revision = None,
) -> None:
    """How a checkpoint encodes position, its window, and what is suspicious in its config.

    Reads the config and the headers of the weights; loads nothing, runs none of its code.

    Example: ctxext inspect meta-llama/Llama-3.2-1B --target 256k
    """
    from ctxext.api.inspect import inspect, plot as draw

    wanted = parse_length(target, flag="--target") if target else None
    result = inspect(
        model,
        target=wanted,
        revision=revision,
        original_length=parse_length(original_length, flag="--original-length")
        if original_length
        else None,
        prefer=prefer,
    )
    if plot is not None:
        draw(result, plot, target=wanted)
        say_note(quiet=False)(f"wavelengths drawn: {plot}")
    if json:
        print_json(result)
    else:
        _render(result)
    say_warnings(result.warnings)


def _render(result: "InspectResult") -> None:
    position, rope = result.position, result.position.rope
    window = position.stated_window
    rows = [
        ("model", result.opened.source.name),
        ("architecture", f"{position.architecture} ({position.model_type})"),
        ("parameters", f"{result.parameters:,}" if result.parameters else "unknown"),
        ("dtype", result.dtype or "unknown"),
        ("position encoding", position.encoding or "unknown"),
        (
            "window, trained",
            f"{window.original:,} tokens ({window.source})" if window else _UNKNOWN,
        ),
        ("window, claimed", f"{window.current:,} tokens" if window else _UNKNOWN),
    ]
    if rope is not None:
        block = rope.block
        factor = f", factor {block.factor:g}" if block.factor else ""
        assumed = " (assumed)" if block.theta_assumed else ""
        rows += [
            ("rope", f"{block.rope_type}, theta {block.rope_theta:g}{assumed}{factor}"),
            ("rotary dims", f"{rope.spec.rotary_dim} of head_dim {rope.head_dim}"),
        ]
        if rope.attention_factor is not None and rope.attention_factor != 1:
            rows.append(("attention factor", f"{rope.attention_factor:.6g}"))
    counts: dict[str, int] = {}
    for layer in position.layers:
        name = _ATTENTION[layer.attention]
        if layer.window:
            name += f" over {layer.window:,}"
        counts[name] = counts.get(name, 0) + 1
    rows.append(("layers", ", ".join(f"{n} x {name}" for name, n in counts.items())))
    if result.kv_bytes_per_token is None:
        rows.append(("KV cache", _UNKNOWN))
    elif result.kv_bytes_per_token == 0:
        rows.append(("KV cache", "none that grows with the text"))
    else:
        at = ", ".join(f"{show_length(n)}: {_size(b)}" for n, b in result.kv_bytes_at.items())
        rows += [("KV cache", f"{result.kv_bytes_per_token:,} bytes/token"), ("KV cache at", at)]
    width = max(len(name) for name, _ in rows)
    console = out()
    for name, value in rows:
        console.print(f"{name:<{width}}  ", style="bold", end="")
        console.print(value)
    table(
        "methods",
        ("method", "applies", "needs"),
        [(str(m["name"]), "yes" if m["applies"] else "no", str(m["why"])) for m in result.methods],
    )


def _size(count: int) -> str:
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.4g} {unit}"
        value /= 1024
    return f"{value:.4g} TiB"
