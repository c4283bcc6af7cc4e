"""Check that an adapter belongs on a base: each tensor has its place, and none is missing."""

from collections.abc import Iterator

from ctxext.checkpoints.weights.adapter import CONFIG, Adapter
from ctxext.checkpoints.weights.files import Weights
from ctxext.checkpoints.weights.safetensors_file import printable
from ctxext.errors import BadInput

_ELSEWHERE = "give the checkpoint that it was trained on with --base"
_NARROWED = ("layers_to_transform", "layers_pattern", "exclude_modules")
Shapes = dict[str, tuple[int, ...]]


def check_fits(adapter: Adapter, base: Weights, *, tied: bool) -> list[str]:
    """Check that every tensor of the adapter has its place, of the right shape, in the base.

    Args:
        tied: whether the base's config ties the head to the embedding.

    Returns:
        Warnings: matrices that the adapter says it adapts and holds no update of.

    Raises:
        BadInput: a tensor has no place, or a whole one that was trained is missing; it is named.
    """
    shapes = {name: info.shape for name, (_, info) in base.tensors.items()}
    embedding, head = base.embedding, base.head
    together = bool(adapter.config.get("ensure_weight_tying")) and (tied or head not in shapes)
    if embedding in shapes:  # a head that is not stored
        shapes.setdefault(head, shapes[embedding])
    _check_low_rank(adapter, shapes, base)
    _check_whole(adapter, shapes, base)
    saved = dict(_saved(adapter, shapes))
    twins = {head: embedding, embedding: head} if together else {}
    for name, entry in saved.items():
        # One matrix in training may be held under one of its two names.
        if name not in adapter.replaced and twins.get(name) not in adapter.replaced:
            raise BadInput(
                f"the adapter says it trained {printable(entry)} (modules_to_save in {CONFIG}) "
                f"and does not hold {printable(name)!r}",
                "merging without it gives another model; find the whole adapter",
            )
    lost: dict[str, list[str]] = {}
    for name, entry in _targeted(adapter, shapes):
        if name not in adapter.low_rank and name not in saved:
            lost.setdefault(entry, []).append(name)
    return [
        f"the adapter says it adapts {printable(entry)} (target_modules in {CONFIG}) and holds no "
        f"update of {printable(names[0])}"
        + (f" and {len(names) - 1} more like it" if len(names) > 1 else "")
        + ": they stay as in the base"
        for entry, names in lost.items()
    ]


def _check_low_rank(adapter: Adapter, shapes: Shapes, base: Weights) -> None:
    tensors = adapter.header.tensors
    for name, update in adapter.low_rank.items():
        if name not in shapes:
            why = ": it is tied to an embedding of another name" if name == base.head else ""
            raise BadInput(
                f"the adapter changes {printable(name)!r}, which the base does not have{why}",
                _ELSEWHERE,
            )
        a, b = tensors[update.a].shape, tensors[update.b].shape
        want = (b[0], a[1]) if len(a) == len(b) == 2 and a[0] == b[1] else None
        if want and update.transposed:
            want = want[::-1]
        if want != shapes[name]:
            raise BadInput(
                f"the adapter's {printable(update.b)!r} {list(b)} x {list(a)} does not fit "
                f"{printable(name)!r} {list(shapes[name])} of the base",
                _way_out(base, name, want or (), shapes[name]),
            )
        m = None if update.magnitude is None else tensors[update.magnitude].shape
        if m not in (None, (b[0],)):
            raise BadInput(
                f"the adapter's {printable(str(update.magnitude))!r} has shape {list(m or ())}, "
                f"and {printable(name)!r} has {b[0]} outputs"
            )


def _check_whole(adapter: Adapter, shapes: Shapes, base: Weights) -> None:
    """Check tensors as large as the base's: replacements, biases, and the copies that peft adds."""
    biases = {name: bias.key for name, bias in adapter.biases.items()}
    for name, key in (*adapter.replaced.items(), *adapter.copies.items(), *biases.items()):
        if name not in shapes:
            raise BadInput(
                f"the adapter's {printable(key)!r} has no place in the base, which has no "
                f"{printable(name)!r}",
                _ELSEWHERE,
            )
        shape = adapter.header.tensors[key].shape
        if shape != shapes[name]:
            raise BadInput(
                f"the adapter's {printable(key)!r} has shape {list(shape)}, and "
                f"{printable(name)!r} of the base has {list(shapes[name])}",
                _way_out(base, name, shape, shapes[name]),
            )


def _way_out(base: Weights, name: str, shape: tuple[int, ...], stored: tuple[int, ...]) -> str:
    if name in (base.embedding, base.head) and shape and shape[1:] == stored[1:]:
        return (
            f"the vocabulary had {shape[0]} tokens in training and has {stored[0]} in the base: "
            "resize the base's in the same way (transformers: resize_token_embeddings), and give "
            "that with --base"
        )
    return _ELSEWHERE


def _saved(adapter: Adapter, shapes: Shapes) -> Iterator[tuple[str, str]]:
    """Yield (tensor, entry) for all that `modules_to_save` means, by the ends of names as peft."""
    entries = tuple(adapter.config.get("modules_to_save") or ())
    for name in shapes if entries else ():
        if name.endswith(".inv_freq"):  # a buffer that old checkpoints hold
            continue
        parts = name.split(".")[:-1]
        for end in range(1, len(parts) + 1):
            module = ".".join(parts[:end])
            if module.endswith(entries):
                yield name, next(entry for entry in entries if module.endswith(entry))
                break


def _targeted(adapter: Adapter, shapes: Shapes) -> Iterator[tuple[str, str]]:
    """Yield (tensor, entry) for every matrix that `target_modules` means, if it is a list of names.

    Experts are left out: stored one by one, they are a single module in transformers 5.
    """
    targets = adapter.config.get("target_modules")
    if not isinstance(targets, list) or any(
        adapter.config.get(key) not in (None, [], "") for key in _NARROWED
    ):
        return
    entries = set(targets)
    for name, shape in shapes.items():
        module, _, last = name.rpartition(".")
        if len(shape) != 2 or last != "weight" or ".experts." in name:
            continue
        parts = module.split(".")
        for start in range(len(parts)):
            if (entry := ".".join(parts[start:])) in entries:
                yield name, entry
                break
