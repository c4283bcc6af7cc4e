"""How `ctxext inspect` shows what it found: lines of a checkpoint, and its tables."""

import math
from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from ctxext.cli._output import out, table
from ctxext.encodings.turns import aliased
from ctxext.lengths import show_length

if TYPE_CHECKING:
    from ctxext.api.inspect import InspectResult
    from ctxext.api.inspect_difference import DifferenceResult
    from ctxext.runs.rows.inspect import MethodAtTarget, Serving, TargetTable

_UNKNOWN = "unknown"
_ATTENTION = {
    "full": "full attention",
    "sliding": "sliding attention",
    "chunked": "chunked attention",
    "linear": "no cache of the text's keys (linear attention, state space, pictures or none)",
    None: "unknown attention",
}


def show_inspection(result: "InspectResult") -> None:
    """Print what a checkpoint is, which engines read it, and what methods do to it."""
    probe = [("probe", result.probe.said)] if result.probe else []
    _lines([*_said(result), *_rope_lines(result), *_layer_lines(result), *probe])
    table(
        "methods",
        ("method", "applies", "needs"),
        [
            (str(m["name"]), "yes" if m["applies"] else "no", str(m["why"]))
            for m in _of_the_encoding(result)
        ],
    )
    if result.serving:
        show_serving(result.serving, "engines, as it is")
    if result.target is not None:
        _show_target(result.target)


def _of_the_encoding(result: "InspectResult") -> list[Mapping[str, Any]]:
    """Leave out methods that are for other encodings; an unknown encoding has all of them."""
    from ctxext.methods import methods_for

    names = {method.name for method in methods_for(result.position.encoding)}
    return [row for row in result.methods if not names or row["name"] in names]


def show_serving(rows: Sequence["Serving"], title: str) -> None:
    """Print one line for each engine: what it makes of the rope, and how it is started."""
    table(title, ("engine", "reads it", "how, or what goes wrong"), [
        (row.engine, "yes" if row.verdict == "ok" else row.verdict, row.how) for row in rows
    ])  # fmt: skip


def show_difference(result: "DifferenceResult") -> None:
    """Print what differs between two checkpoints, field by field."""
    names = [each.opened.source.name for each in (result.first, result.second)]
    if not result.differences:
        out().print(f"{names[0]} and {names[1]} encode position alike")
        return
    rows = [(key, _shown(a), _shown(b)) for key, (a, b) in result.differences.items()]
    table("differences", ("", *names), rows)
    if result.same_rope:
        out().print("every rotary pair turns alike in both")


def _shown(value: Any) -> str:
    """Write a value of either checkpoint; lists of numbers by their ends."""
    if value is None:
        return "-"
    if isinstance(value, list):
        return f"{len(value)} numbers, {value[0]:g} to {value[-1]:g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _lines(rows: Sequence[tuple[str, str]]) -> None:
    """Print names and values below each other."""
    width = max(len(name) for name, _ in rows)
    console = out()
    for name, value in rows:
        console.print(f"{name:<{width}}  ", style="bold", end="")
        lines = [value]
        if console.is_terminal and not value.startswith("ctxext "):  # a command stays in one piece
            lines = wrap(value, max(20, console.width - width - 2), break_on_hyphens=False)
        console.print(f"\n{'':<{width}}  ".join(lines))


def _said(result: "InspectResult") -> list[tuple[str, str]]:
    """List what the config says of the checkpoint as a whole."""
    position, window = result.position, result.position.stated_window
    return [
        ("model", result.opened.source.name),
        ("architecture", f"{position.architecture} ({position.model_type})"),
        ("parameters", f"{result.parameters:,}" if result.parameters else _UNKNOWN),
        ("dtype", result.dtype or _UNKNOWN),
        ("position encoding", position.encoding or _UNKNOWN),
        (
            "window, trained",
            f"{window.original:,} tokens ({window.source})" if window else _UNKNOWN,
        ),
        ("window, claimed", f"{window.current:,} tokens" if window else _UNKNOWN),
    ]


def _rope_lines(result: "InspectResult") -> list[tuple[str, str]]:
    """List what is known of the rotary pairs, or of the table or slopes that are in their place."""
    rope, bands = result.position.rope, result.bands
    if result.table is not None:
        before = (
            f", {result.table['offset']} of them before position 0"
            if result.table["offset"]
            else ""
        )
        return [("position table", f"{result.table['rows']:,} rows{before}")]
    if slopes := result.slopes:
        least, most = min(slopes), max(slopes)
        return [("ALiBi slopes", f"{len(slopes)} heads, {least:.3g} to {most:.3g} logits a token")]
    if rope is None:
        return []
    block = rope.block
    factor = f", factor {block.factor:g}" if block.factor else ""
    assumed = " (assumed)" if block.theta_assumed else ""
    rows = [
        ("rope", f"{block.rope_type}, theta {block.rope_theta:g}{assumed}{factor}"),
        ("rotary dims", f"{rope.spec.rotary_dim} of head_dim {rope.head_dim}"),
    ]
    if rope.attention_factor is not None and rope.attention_factor != 1:
        rows.append(("attention factor", f"{rope.attention_factor:.6g}"))
    if bands is not None:
        from ctxext.checkpoints.config.still import stands_still

        fold = aliased(rope.inv_freq or [])
        alias = f", {fold} alias" if fold else ""
        said = f"{bands.complete} complete a turn in the trained window, {len(bands.slow)} never do"
        if stands_still(result.position):
            said = "none turns"
        rows.append(("rotary pairs", f"{bands.complete + len(bands.slow)}: {said}{alias}"))
    return rows


def _layer_lines(result: "InspectResult") -> list[tuple[str, str]]:
    """List kinds of layers, and the bytes that they keep."""
    counts: dict[str, int] = {}
    for layer in result.position.layers:
        name = _ATTENTION[layer.attention]
        if layer.window:
            name += f" over {layer.window:,}"
        counts[name] = counts.get(name, 0) + 1
    rows = [("layers", ", ".join(f"{n} x {name}" for name, n in counts.items()))]
    if result.kv_bytes_per_token is None:
        rows.append(("KV cache", _UNKNOWN))
    elif result.kv_bytes_per_token == 0:
        rows.append(("KV cache", "none that grows with the text"))
    else:
        at = ", ".join(f"{show_length(n)}: {_size(b)}" for n, b in result.kv_bytes_at.items())
        rows += [("KV cache", f"{result.kv_bytes_per_token:,} bytes/token"), ("KV cache at", at)]
    return rows


def _show_target(target: "TargetTable") -> None:
    """Print what methods do to the pairs at a target, what it keeps in memory, and what to do."""
    if any(row.reason is None for row in target.methods):  # else one reason holds for all
        _show_methods_at(target)
    lines = []
    if target.kv_cache:
        sizes = ", ".join(f"{name} {_size(size)}" for name, size in target.kv_cache.items())
        lines.append((f"KV cache at {show_length(target.tokens)}", sizes))
    if target.now:
        bound = (
            "stays positive: the base is large enough for it"
            if target.first_negative is None
            else f"turns negative at {target.first_negative:,} tokens: the base is small for more"
        )
        lines.append(("sum of cosines", f"{bound} (arXiv:2405.14591)"))
    lines.append(("recommended", target.recommendation.reason))
    if target.recommendation.command:
        lines.append(("", target.recommendation.command))
    out().print()
    _lines(lines)


def _show_methods_at(target: "TargetTable") -> None:
    """Print one row for each method: what it does to each band of pairs, or why it does not."""
    if not target.pairs:
        rows_of = [
            (row.name, "no" if row.reason else "yes", row.reason or row.training)
            for row in target.methods
        ]
        table(f"at {target.tokens:,} tokens", ("method", "applies", "needs, or why not"), rows_of)
        return
    factor = f", {target.factor:g} times the trained window" if target.factor else ""
    heads = [f"{name} pairs ({target.pairs[name]})" for name in target.pairs]
    rows = [_method_row(row, target) for row in target.methods]
    if target.now:
        spans = [_span(target.now.get(name)) for name in target.pairs]
        rows.insert(0, ("as it is", *spans, "", "", ""))
    table(
        f"at {target.tokens:,} tokens{factor}: how many times more slowly pairs turn",
        ("method", *heads, "rope_theta", "attention factor", "run rightly by, or why not"),
        rows,
    )


def _method_row(row: "MethodAtTarget", target: "TargetTable") -> tuple[str, ...]:
    spans = [_span(row.slowed.get(name)) for name in target.pairs]
    if row.reason is not None:
        return row.name, *("" for _ in spans), "", "", row.reason
    theta = "" if row.rope_theta is None else f"{row.rope_theta:,.0f}"
    attention = "" if row.attention_factor is None else f"{row.attention_factor:.4g}"
    return row.name, *spans, theta, attention, _listed(row.engines, row.engines_not)


def _listed(right: Sequence[str], wrong: Sequence[str]) -> str:
    """Name the engines that run a method rightly, by the shorter list."""
    if not wrong:
        return f"all {len(right)}"
    if not right:
        return "none"
    return ", ".join(right) if len(right) <= len(wrong) else f"all but {', '.join(wrong)}"


def _span(factors: tuple[float, float] | None) -> str:
    """Write the smallest and the largest factor of a band, once where they are the same."""
    if factors is None:
        return ""
    low, high = ("stop" if factor == math.inf else f"{factor:.3g}" for factor in factors)
    return low if low == high else f"{low} to {high}"


def _size(count: int) -> str:
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.4g} {unit}"
        value /= 1024
    return f"{value:.4g} TiB"
