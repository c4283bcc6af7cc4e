"""`ctxext inspect`: how a checkpoint encodes position, and what is suspicious about it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any

from ctxext.api._arguments import checked, maybe_tokens
from ctxext.api._serving import Written, serving
from ctxext.api.extension_plan import refuse_folded
from ctxext.api.inspect_target import target_table
from ctxext.checkpoints.config import families
from ctxext.checkpoints.config.decoder_part import stated_part
from ctxext.checkpoints.config.detect import Position, reads_alike_in_transformers_4
from ctxext.checkpoints.config.extendable import not_by_this
from ctxext.checkpoints.config.kv_cache import kv_bytes
from ctxext.checkpoints.config.patch_window import second_table, slope_factor
from ctxext.checkpoints.config.quantised import quantised_by
from ctxext.checkpoints.config.rope_block import Dialect
from ctxext.checkpoints.config.sliding import window_words
from ctxext.checkpoints.config.still import stands_still
from ctxext.checkpoints.config.windows import Window, stated_lengths
from ctxext.checkpoints.folder import CONFIG
from ctxext.checkpoints.live.probe import Probe, probe as ask_a_random_model
from ctxext.checkpoints.live.tokenizer import TOKENIZER, missing_tokenizer
from ctxext.checkpoints.opened import Opened, open_checkpoint
from ctxext.checkpoints.provenance import read_record
from ctxext.checkpoints.weights.carry import TOKENIZER_CONFIG, fixed_lengths, padded_to
from ctxext.checkpoints.weights.files import Weights, read_weights, tied_head
from ctxext.checkpoints.weights.parted_head import has_parted_head, parted_note
from ctxext.checkpoints.weights.safetensors_file import dtype_bytes, printable
from ctxext.encodings.alibi import AlibiSpec, slopes_of
from ctxext.encodings.kinds import ROTARY
from ctxext.encodings.learned import TableSpec
from ctxext.encodings.rope import inv_freq_of, wavelengths
from ctxext.encodings.rope_types import rope_type_facts
from ctxext.encodings.turns import Bands, aliased, bands_of
from ctxext.engines.notes import engine_notes
from ctxext.errors import BadInput
from ctxext.methods import METHODS, name_of_scaling
from ctxext.runs.json_file import finite, read_json_object
from ctxext.runs.rows.inspect import Recommendation, Serving, TargetTable


@dataclass(frozen=True)
class InspectResult:
    """What `ctxext inspect` found; `to_dict` is its JSON document.

    Attributes:
        serving: what each engine makes of the rope, and how it is started; empty without one.
        target: what methods do at a target, where one was given.
        probe: what a small random model of its class does, where that was asked for.
    """

    opened: Opened
    parameters: int | None
    dtype: str | None
    kv_bytes_per_token: int | None
    kv_bytes_at: Mapping[int, int]
    methods: tuple[Mapping[str, Any], ...]
    warnings: tuple[str, ...]
    serving: tuple[Serving, ...] = ()
    target: TargetTable | None = None
    probe: Probe | None = None

    @property
    def bands(self) -> Bands | None:
        """The pairs of the trained rope by how often they turn in the trained window."""
        rope, window = self.position.rope, self.position.stated_window
        if rope is None or window is None:
            return None
        return bands_of(inv_freq_of(rope.spec), window.original)

    @property
    def table(self) -> dict[str, int] | None:
        """The learned table: `rows` in all, of which `offset` stand before position 0."""
        spec, window = self.position.spec, self.position.stated_window
        if not isinstance(spec, TableSpec) or window is None:
            return None
        return {"rows": spec.offset + window.max_position_embeddings, "offset": spec.offset}

    @property
    def slopes(self) -> list[float] | None:
        """ALiBi's slope of each head, logits per token."""
        spec = self.position.spec
        if not isinstance(spec, AlibiSpec):
            return None
        factor = slope_factor(self.opened.config, f"{self.opened.source.name}/{CONFIG}")
        return [slope / factor for slope in slopes_of(spec)]

    @property
    def position(self) -> Position:
        return self.opened.position

    def to_dict(self) -> dict[str, Any]:
        position, rope = self.position, self.position.rope
        window, bands = position.stated_window, self.bands
        return {
            "schema": "ctxext.inspect/1",
            "model": self.opened.source.name,
            "revision": self.opened.source.revision,
            "architecture": position.architecture,
            "model_type": position.model_type,
            "parameters": self.parameters,
            "dtype": self.dtype,
            "position_encoding": position.encoding,
            "window": {
                "original": window.original if window else None,
                "current": window.current if window else None,
                "source": window.source if window else None,
            },
            "rope": None
            if rope is None
            else {
                "rope_type": rope.block.rope_type,
                "rope_theta": rope.block.rope_theta,
                "factor": rope.block.factor,
                "attention_factor": rope.attention_factor,
                "head_dim": rope.head_dim,
                "rotary_dim": rope.spec.rotary_dim,
                "inv_freq": rope.inv_freq,
                "wavelengths": wavelengths(rope.inv_freq) if rope.inv_freq else None,
                "pairs": None
                if bands is None
                else {
                    "complete_a_turn": bands.complete,
                    "never_complete_a_turn": len(bands.slow),
                    "alias": aliased(rope.inv_freq) if rope.inv_freq else None,
                },
                "sha256": rope.sha256,
                "dialects": {name: dict(d) for name, d in rope.block.dialects.items()},
            },
            "table": self.table,
            "slopes": self.slopes,
            "layers": [
                {
                    "index": layer.index,
                    "position_encoding": layer.position_encoding,
                    "attention": layer.attention,
                    "window": layer.window,
                }
                for layer in position.layers
            ],
            "kv_cache": {
                "bytes_per_token": self.kv_bytes_per_token,
                "bytes_at": {str(length): size for length, size in self.kv_bytes_at.items()},
            },
            "methods": [dict(m) for m in self.methods],
            "serving": [row.to_dict() for row in self.serving],
            "target": finite(self.target.to_dict()) if self.target else None,
            "probe": asdict(self.probe) if self.probe else None,
            "warnings": list(self.warnings),
        }


@checked
def inspect(
    model: str,
    *,
    target: int | str | None = None,
    revision: str | None = None,
    original_length: int | str | None = None,
    prefer: Dialect | None = None,
    probe: bool = False,
) -> InspectResult:
    """Read a checkpoint's config and weight headers; loads no weights and runs no model code.

    Args:
        model: folder or Hub repository id (of which only the small files are fetched).
        target: a window in tokens to judge against, e.g. sliding attention.
        original_length: the trained window, where the config is known to be wrong.
        prefer: which rope dialect counts where the two disagree.
        probe: also build transformers' class small and random, and see by what it turns.

    Raises:
        BadInput: as `find_checkpoint`, `detect` and `read_weights`; `probe`, and transformers makes
            no model of the config.
        CtxextError: corrupt weights.
    """
    target = maybe_tokens(target, "target")
    original_length = maybe_tokens(original_length, "original_length")
    opened = open_checkpoint(
        model, revision=revision, original_length=original_length, prefer=prefer, weights=False
    )
    position = opened.position
    warnings = list(opened.warnings)
    weights = _weights(opened, warnings)
    dtype = position.dtype or (weights.dtype if weights else None)
    element = dtype_bytes(dtype)
    if dtype is None and weights is not None:
        warnings.append(
            "the config says no dtype and the weights hold no float wider than 8 bits, so the "
            "bytes of the KV cache are unknown"
        )
    lengths = {4096, 32768, 131072, *([target] if target else [])}
    if (window := position.stated_window) is not None:
        lengths |= {window.original, window.current}
    per_token = None if element is None else kv_bytes(position, 1, element)
    at = {
        length: size
        for length in sorted(lengths)
        if element is not None and (size := kv_bytes(position, length, element)) is not None
    }
    warnings += [*_own_code(opened), *_suspicions(opened, target)]
    probed = ask_a_random_model(opened.source, position) if probe else None
    if probed is not None and not probed.agrees:
        warnings.append(f"the probe disagrees with what was read: {probed.said}")
    return InspectResult(
        opened=opened,
        parameters=_parameters(weights, opened, warnings) if weights else None,
        dtype=dtype,
        kv_bytes_per_token=per_token,
        kv_bytes_at=at,
        methods=tuple(_methods(position, target)),
        warnings=tuple(dict.fromkeys(warnings)),
        serving=_serving(opened, model),
        target=_target(opened, target, quote(model)) if target else None,
        probe=probed,
    )


def _serving(opened: Opened, model: str) -> tuple[Serving, ...]:
    """Say what engines make of the rope; nothing of a checkpoint without one."""
    written = Written.of(opened.config, opened.position)
    window, local = opened.position.stated_window, not opened.source.revision
    return serving(written, window.current, quote(model), local=local) if window else ()


def _weights(opened: Opened, warnings: list[str]) -> Weights | None:
    if not opened.source.weights_local:
        return None
    try:
        weights = read_weights(opened.source.folder)
    except BadInput as error:
        if any(opened.source.folder.glob("*.safetensors*")):
            raise
        warnings.append(str(error))
        return None
    if method := quantised_by(opened.config, weights.tensors):
        warnings.append(
            f"the weights are quantised ({method}): parameters counts the numbers that are stored"
        )
    for name in weights.shards:
        if (opened.source.folder / name).stat().st_nlink > 1:
            warnings.append(
                f"{name} is hard-linked: editing it in place changes its other name too"
            )
            break
    return weights


def _parameters(weights: Weights, opened: Opened, warnings: list[str]) -> int:
    """Count the numbers that make the model; a head beside its equal counts once."""
    parted = has_parted_head(weights, opened.config)
    if parted:
        warnings.append(f"{parted_note(weights)} (set the flag to false)")
    return weights.parameters_once(tied=tied_head(opened.config) and not parted)


def _methods(position: Position, target: int | None) -> list[dict[str, Any]]:
    rows = []
    for name, method in sorted(METHODS.items()):
        reason = not_by_this(position, method, CONFIG) or second_table(position, method, CONFIG)
        applies, why = reason is None, method.training if reason is None else str(reason)
        notes = []
        if applies:
            window = position.stated_window
            length = target or (window.original * 4 if window else 0)
            notes = engine_notes(name, {}, length, position.model_type)
        rows.append({"name": name, "applies": applies, "why": why, "engines": notes})
    return rows


def _own_code(opened: Opened) -> list[str]:
    """Say that a checkpoint of a known family brings a class of its own beside transformers'."""
    names = opened.config.get("auto_map")
    own = names.get("AutoModelForCausalLM") if isinstance(names, dict) else None
    if not isinstance(own, str) or opened.position.model_type not in families.KNOWN:
        return []
    return [
        f"auto_map names code of the checkpoint's own ({printable(own, 80)}), which engines with "
        "trust_remote_code run: it may differ from transformers' class, which is described here"
    ]


def _suspicions(opened: Opened, target: int | None) -> list[str]:
    position, doubts = opened.position, []
    rope, window = position.rope, position.stated_window
    if window is None:
        others = stated_lengths(stated_part(opened.config, position.part))
        said = ", ".join(f"{key} says {length}" for key, length in others.items())
        what = f"that ctxext reads states a window, so it is unknown; {said}"
        doubts.append(
            f"no key of the config {what if others else 'states a window, so it is unknown'}"
        )
        return doubts
    sliding = [x for x in position.layers if x.attention == "sliding" and x.window]
    reach = max((x.window or 0 for x in sliding), default=0)
    wanted = target or window.current
    if sliding and reach < wanted:
        doubts.append(
            f"{window_words(position, reach)}, less than {wanted}: rope scaling cannot help there "
            "(extend needs --sliding-window off or N)"
        )
    if rope is not None and position.encoding in ROTARY:
        if not rope.block.dialects_agree:
            doubts.append(
                "rope_scaling and rope_parameters disagree: transformers 4 and most engines read "
                "rope_scaling, transformers 5 takes rope_scaling where it is an object and "
                "rope_parameters where it is null, vLLM and llama.cpp prefer rope_parameters"
            )
        elif not reads_alike_in_transformers_4(opened.config, rope):
            doubts.append(
                "only transformers 5 reads this config rightly: there is no rope_theta or "
                "rope_scaling for transformers 4 and older engines (ctxext extend writes both)"
            )
        if rope.inv_freq is None:
            doubts.append(f"rope_type '{rope.block.rope_type}' is not known to ctxext")
        if stands_still(position):
            doubts.append(
                "no pair of its rope turns within the window: attention is told no positions (as "
                "after --method drop); --method temperature sharpens it beyond the trained window"
            )
        elif rope.scaled and window.current > window.original:
            doubts.append(_scaling_words(window, rope.block.rope_type))
    claims_more = families.trained_shorter(position.model_type, window.original)
    if claims_more:
        doubts.append(claims_more)
    elif window.original & (window.original - 1):
        doubts.append(
            f"a window of {window.original} is not a power of two; if it includes room for an "
            "answer, give the trained one with --original-length"
        )
    doubts += missing_tokenizer(opened.source)
    return doubts + tokenizer_suspicions(opened.source.folder, window.current)


def _scaling_words(window: Window, rope_type: str) -> str:
    """Say how far an earlier scaling reaches, and whether the config says so where engines look."""
    scaling = name_of_scaling(rope_type)
    claim = f"{window.original} trained, {window.current} claimed by {scaling} scaling"
    said = window.max_position_embeddings
    if said == window.current:
        return f"max_position_embeddings was already raised: {claim}"
    if rope_type_facts(rope_type).keeps_window:
        return f"already scaled: {claim}"
    return (
        f"already scaled: {claim}, and max_position_embeddings says {said}, where many engines stop"
    )


def tokenizer_suspicions(folder: Path, window: int) -> list[str]:
    """Say what in a checkpoint's tokenizer files keeps a reader from its window, in tokens."""
    return _length_suspicion(folder, window) + _cut_suspicion(folder, window)


def _length_suspicion(folder: Path, window: int) -> list[str]:
    path = folder / TOKENIZER_CONFIG
    if not path.exists():
        return []
    tokenizer, _ = read_json_object(path)
    length = tokenizer.get("model_max_length")
    if isinstance(length, bool) or not isinstance(length, int | float) or length > 1e20:
        return []
    if length == window:
        return []
    return [f"the tokenizer's model_max_length is {length:g}, and the window is {window}"]


def _cut_suspicion(folder: Path, window: int) -> list[str]:
    """Name lengths in tokenizer.json that its readers (TGI, TEI) enforce unasked."""
    path = folder / TOKENIZER
    if not path.exists():
        return []
    tokenizer = read_json_object(path)[0]
    cut, _ = fixed_lengths(tokenizer)
    doubts = []
    if cut is not None and cut <= window:
        doubts.append(
            f"{TOKENIZER} cuts every text at {cut} tokens (truncation), in readers that use it "
            "as it is; extend lifts it to the target"
        )
    if (padded := padded_to(tokenizer)) is not None:
        doubts.append(f"{TOKENIZER} pads every text to {padded} (padding)")
    return doubts


def _target(opened: Opened, target: int, model: str) -> TargetTable:
    """Ask the methods, and recommend none where `extend` would refuse the weights."""
    table = target_table(opened.config, opened.position, target, model)
    try:
        refuse_folded(opened.source.name, read_record(opened.source.folder))
    except BadInput as error:
        if table.recommendation.method is None:
            return table
        return replace(table, recommendation=Recommendation(reason=f"no method: {error}"))
    return table
