"""What the keys of a ctxext.json promise to whoever reads one: report, card, merge, resume."""

from typing import Any

from ctxext.runs.checked import (
    Shape,
    Wrong,
    checked,
    commit,
    count,
    flag,
    mapping,
    maybe,
    measured,
    name,
    rows,
    section,
    sha256,
    text,
    texts_by_name,
    tokens,
    word,
    words,
)


def _changes(value: Any) -> dict[str, list[Any]]:
    """A config diff: key -> [before, after]."""
    changes = mapping(value)
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in changes.values()):
        raise Wrong
    return changes


_BASE: Shape = {
    "id": maybe(name),
    "revision": maybe(commit),
    "config_sha256": maybe(sha256),
    "index_sha256": maybe(sha256),
}
_LORA: Shape = {
    "rank": maybe(count), "alpha": measured, "targets": words, "train_norms": flag,
    "train_embeddings": flag,
}  # fmt: skip
_TRAIN: Shape = {
    "seq_length": maybe(count), "batch_size": maybe(count),
    "gradient_accumulation": maybe(count), "lr": measured, "schedule": word, "seed": word,
}  # fmt: skip
_STAGE: Shape = {
    "steps": count, "tokens": count, "final_loss": measured, "window": maybe(tokens),
    "method": maybe(name), "seq_length": maybe(tokens), "lr": measured,
}  # fmt: skip


def _training(value: Any) -> dict[str, Any]:
    """A summary of training; that of the embedded base has stages of another kind."""
    training = checked(value, _TRAINING)
    if training["recipe"] is not None:
        training["stages"] = rows(_STAGE)(training.get("stages") or [])
    return training


_TRAINING: Shape = {
    "steps": count,
    "tokens": count,
    "final_loss": measured,
    "recipe": maybe(section({"lora": maybe(section(_LORA)), "train": maybe(section(_TRAIN))})),
    "data": maybe(section({"source": text})),
}
RECORD: Shape = {
    "kind": maybe(name),
    "versions": texts_by_name,
    "base": maybe(section(_BASE)),
    "extended_from": maybe(section(_BASE)),
    "window": maybe(section({"original": tokens, "target": tokens})),
    "method": maybe(name),
    "license": texts_by_name,
    "config_diff": maybe(_changes),
    "training": maybe(_training),
    "command": text,
    "extend_command": text,
}
