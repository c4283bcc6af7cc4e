"""Decide what embedding and head become when an adapter is merged: one matrix, or two."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ctxext.checkpoints.weights.adapter import Adapter
from ctxext.checkpoints.weights.files import Weights, read_tensor

if TYPE_CHECKING:
    import torch

_ROWS = 4096  # compared at a time


@dataclass(frozen=True)
class Plan:
    """What a merge makes of embedding and head.

    Attributes:
        adapter: as it is applied: what it trained as one matrix stands under each stored name.
        adds_head: write a head that the base does not store: it starts as the embedding.
        tied: what the output's config has to say; None = as the base's.
    """

    adapter: Adapter
    adds_head: bool
    tied: bool | None
    warnings: tuple[str, ...]


def plan_head(base: Weights, adapter: Adapter, updates: Any, *, tied: bool) -> Plan:
    """Decide what embedding and head become; everything else is where its name says.

    In training they are one matrix only where the adapter says so (`ensure_weight_tying`) or holds
    equal changes of both. Else a change of one leaves the other alone, as in the model that was
    trained, whatever peft's own merge makes of a tied pair; then they are no longer tied.

    Args:
        updates: the adapter's tensors, opened.
        tied: what the base's config says.
    """
    warnings: list[str] = []
    adapter = _on_its_base(base, adapter, updates, warnings)
    pair = embedding, head = base.embedding, base.head
    has_head, known = head in base.tensors, embedding in base.tensors
    if has_head and tied and known:
        same = read_tensor(base, head) == read_tensor(base, embedding)
        warnings.append(
            "the base says tie_word_embeddings and also holds an lm_head; the two are "
            + ("equal" if same else "different, so the flag is set to false")
        )
        if not same:
            return Plan(adapter, False, False, tuple(warnings))
    elif not has_head and not tied:
        warnings.append("the base has no lm_head, so tie_word_embeddings is set to true")
    elif has_head or not known:
        return Plan(adapter, False, None, tuple(warnings))
    changed = [name for name in pair if adapter.changes(name)]
    together = _trained_together(changed, pair, adapter, updates)
    if together is not None:
        stored = [embedding, head] if has_head else [embedding]
        return Plan(
            _renamed(adapter, pair, together, stored) if changed else adapter,
            False,
            None if tied else True,
            tuple(warnings),
        )
    how = "embedding and head were trained apart"
    if len(changed) == 1:
        how = f"only one of embedding and head was trained ({changed[0]})"
    warnings.append(f"{how}, so they are no longer tied")
    return Plan(adapter, not has_head, False, tuple(warnings))


def _trained_together(
    changed: list[str], pair: tuple[str, str], adapter: Adapter, updates: Any
) -> str | None:
    """Name the tensor whose change is the one matrix's ("" = none is); None = two matrices."""
    if not changed:
        return ""
    if len(changed) == 1:
        (name,) = changed
        update = adapter.low_rank.get(name)
        apart = update is not None and update.magnitude is not None  # DoRA has one for each
        return name if adapter.config.get("ensure_weight_tying") and not apart else None
    read = updates.get_tensor
    replaced = [adapter.replaced.get(name) for name in changed]
    factors = [adapter.low_rank.get(name) for name in changed]
    if all(replaced) and not any(factors):
        return pair[0] if bool((read(replaced[0]) == read(replaced[1])).all()) else None
    embedding, head = factors
    if any(replaced) or embedding is None or head is None or embedding.scale != head.scale:
        return None
    if embedding.magnitude or head.magnitude:
        return None
    # B A of the head is the transpose of that of the embedding.
    pairs = [(read(embedding.a).T, read(head.b)), (read(embedding.b).T, read(head.a))]
    same = all(x.shape == y.shape and bool((x == y).all()) for x, y in pairs)
    return pair[0] if same else None


def _renamed(adapter: Adapter, pair: tuple[str, str], name: str, stored: list[str]) -> Adapter:
    """Put the adapter's change of `name` under every name that is stored."""

    def of(entries: Mapping[str, Any]) -> dict[str, Any]:
        others = {key: value for key, value in entries.items() if key not in pair}
        return others | (dict.fromkeys(stored, entries[name]) if name in entries else {})

    return replace(adapter, replaced=of(adapter.replaced), low_rank=of(adapter.low_rank))


def _on_its_base(base: Weights, adapter: Adapter, updates: Any, warnings: list[str]) -> Adapter:
    """Drop an adapter's whole matrices that are the base's own; other ones replace the base's.

    peft saves the matrix beside LoRA on an embedding or a head, and where it is told to save
    embeddings it does so whether they were trained or not.
    """
    replaced = {
        name: key
        for name, key in adapter.replaced.items()
        if name not in (base.embedding, base.head) or not _is_the_bases(base, name, key, updates)
    }
    for name, key in adapter.copies.items():
        if not _is_the_bases(base, name, key, updates):
            replaced[name] = key
            warnings.append(
                f"the adapter holds the {name} that it was trained on, which is not the base's; "
                "the adapter's counts, as in peft"
            )
    return replace(adapter, replaced=replaced, copies={})


def _is_the_bases(base: Weights, name: str, key: str, updates: Any) -> bool:
    """Tell whether an adapter's tensor is the base's, perhaps rounded to the adapter's dtype."""
    from safetensors import safe_open

    stored = name if name in base.tensors else base.embedding
    if stored not in base.tensors:
        return False
    file, info = base.tensors[stored]
    with safe_open(base.folder / file, framework="pt") as opened:
        theirs, ours = updates.get_slice(key), opened.get_slice(stored)
        for at in range(0, info.shape[0] if info.shape else 0, _ROWS):
            rows: torch.Tensor = theirs[at : at + _ROWS]
            if not bool((ours[at : at + _ROWS].to(rows.dtype) == rows).all()):
                return False
    return True
