"""What was changed in a config, and the log of a training run."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ctxext.checkpoints.config.patch import ABSENT
from ctxext.report.tables.pivot import Table
from ctxext.report.tables.text import shown
from ctxext.runs.rows.training import StepRow

_LINES = 12  # of a log that are shown


def config_table(diff: Mapping[str, Any]) -> Table:
    """Show a config diff: key, before, after; keys inside a block stand on lines of their own."""
    lines = []
    for key, (before, after) in diff.items():
        if isinstance(before, dict | None) and isinstance(after, dict):
            inside = before or {}
            for name in dict.fromkeys([*inside, *after]):
                old, new = inside.get(name, ABSENT), after.get(name, ABSENT)
                if old != new:
                    lines.append([f"{key}.{name}", config_value(old), config_value(new)])
        else:
            lines.append([key, config_value(before), config_value(after)])
    return ["key", "before", "after"], lines


def config_value(value: Any) -> str:
    """Write a value of a config as its file has it."""
    return "absent" if value == ABSENT else json.dumps(value, ensure_ascii=False)


def log_table(log: Sequence[StepRow]) -> Table:
    """Show one line for every so many steps, and the last."""
    step = max(1, len(log) // _LINES)
    return (
        ["step", "loss", "grad norm", "lr", "tokens", "tokens per second"],
        [
            [
                str(line.step),
                shown(line.loss, ".4f"),
                shown(line.grad_norm, ".3f"),
                shown(line.lr, ".2e"),
                shown(line.tokens, ",.0f"),
                shown(line.tokens_per_second, ",.0f"),
            ]
            for line in [*log[:-1:step], *log[-1:]]
        ],
    )
