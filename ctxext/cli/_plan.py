"""The tables of `ctxext finetune --dry-run`."""

from ctxext.api.finetune_plan import FinetunePlan
from ctxext.cli._output import out, table
from ctxext.lengths import show_length
from ctxext.progress import show_duration


def show_plan(plan: FinetunePlan) -> None:
    """Print memory by part, what each switch buys, and the sentence that decides."""
    memory, machine = plan.memory, plan.machine
    rows = [[name, _size(size)] for name, size in memory.parts().items() if size]
    rows.append(["peak (the last two do not coincide)", _size(memory.peak)])
    if memory.host:
        beside = f", of {_size(machine.host)} for each device" if machine.host else ""
        rows.append(["layer inputs in host memory", _size(memory.host) + beside])
    row = show_length(plan.largest.seq_length)
    table(f"memory of one process, rows of {row}, {plan.dtype}", ["part", "size"], rows)
    table(
        "what one more switch does",
        ["switch", "peak", "longest row that fits", "arithmetic"],
        [
            [
                switch.name or "as it is",
                _size(switch.peak),
                show_length(switch.longest) if switch.longest else "none",
                f"{switch.arithmetic:.2f} x",
            ]
            for switch in plan.switches
        ],
    )
    if len(plan.stints) > 1:
        table(
            "stage by stage; memory above is that of the largest",
            ["stage", "rows of", "steps", "tokens", "about"],
            [
                [
                    stint.name, show_length(stint.seq_length), str(stint.steps),
                    f"{stint.tokens:,}", show_duration(stint.seconds),
                ]
                for stint in plan.stints
            ],
        )  # fmt: skip
    verdict = "fits into" if plan.fits else "does NOT fit into"
    per_step = f" of {plan.largest.rows_per_step} rows of {row}" if len(plan.stints) == 1 else ""
    validation = ""
    if plan.validation_seconds:
        validation = f", of which validation takes {show_duration(plan.validation_seconds)}"
    sentences = [
        f"{plan.steps} steps{per_step}: {plan.tokens:,} tokens, "
        f"{plan.trained:,} of {plan.parameters:,} parameters trained, "
        f"{memory.recomputed} of {plan.layers} layers recomputed",
        f"about {show_duration(plan.seconds)}{validation}, {plan.tokens_per_second:,.0f} tokens/s "
        f"({plan.speed_source})",
        f"{verdict} {machine.name}, {_size(machine.memory)}"
        + (" each" if machine.devices > 1 else ""),
    ]
    if machine.is_host:
        sentences.append(
            "the peak counts tensors; glibc keeps freed blocks besides, unless "
            f"{plan.memory_assumes} is in the environment"
        )
    if plan.window is not None and plan.longest > plan.window:
        way = "extend further (--target)" if plan.extends else "add --method yarn --target LENGTH"
        sentences.append(f"rows longer than {show_length(plan.window)} need a longer window: {way}")
    for sentence in sentences:
        out().print(sentence)


def _size(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
