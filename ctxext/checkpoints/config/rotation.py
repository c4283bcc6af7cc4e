"""Compute frequencies and attention factor from a rope block, as transformers does."""

import hashlib
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ctxext.checkpoints.config import rope_families
from ctxext.checkpoints.config.rope_block import RopeBlock
from ctxext.checkpoints.config.windows import Origin, Window
from ctxext.encodings.rope import RopeSpec, inv_freq_of
from ctxext.encodings.rope_types import rope_type_facts
from ctxext.errors import BadInput, shown
from ctxext.methods.dynamic import dynamic_theta
from ctxext.methods.llama3 import llama3_inv_freq
from ctxext.methods.yarn import yarn_attention, yarn_inv_freq
from ctxext.runs.numbers import real, whole

Rotation = tuple[list[float], float]
"""(inv_freq, attention factor): (rotary_dim / 2,) radians per token, float64."""


@dataclass(frozen=True)
class Rope:
    """A rotary encoding as trained (`spec`) and as scaled now.

    `inv_freq` (rotary_dim / 2,) in radians per token and `attention_factor` are those of a
    sequence as long as the claimed window; None for a `rope_type` that ctxext does not know.
    `rounding` is the relative difference that float32 may make to them. `sha256` identifies the
    rotation as it is now.
    """

    spec: RopeSpec
    block: RopeBlock
    head_dim: int
    inv_freq: list[float] | None
    attention_factor: float | None
    rounding: float
    sha256: str

    @property
    def scaled(self) -> bool:
        """Whether the config asks for any scaling (static NTK is only seen in `spec`)."""
        if rope_type_facts(self.block.rope_type).of_whole_heads:
            return (self.block.factor or 1.0) != 1.0
        return self.block.rope_type != "default" or self.block.rope_theta != self.spec.rope_theta


def read_rope(
    config: Mapping[str, Any],
    block: RopeBlock,
    model_type: str,
    head_dim: int,
    window: Window,
    origin: Origin | None,
    where: str,
    warnings: list[str],
) -> Rope:
    """Work out how a checkpoint's rope block turns its heads.

    Args:
        config, block, window: of the same file.
        head_dim: dims of one head, of which some may not turn.

    Raises:
        BadInput: a key that the rope_type needs is missing or cannot be used.
    """
    whole_heads = rope_type_facts(block.rope_type).of_whole_heads
    if whole_heads:
        head_dim = _far_head_dim(config, model_type, where) or head_dim
    rotary_dim = _rotary_dim(config, block, model_type, head_dim, where, warnings)
    theta = block.rope_theta
    if whole_heads:
        theta = proportional_theta(theta, rotary_dim, head_dim)
    wave = _Wave(block, rotary_dim, theta, window.max_position_embeddings, model_type, where)
    effect = wave.at(window.current)
    trained = RopeSpec(rotary_dim, theta, window.original)
    if origin is not None and origin.rope_theta is not None and block.rope_type == "default":
        trained = replace(trained, rope_theta=origin.rope_theta)
    return Rope(
        spec=trained,
        block=block,
        head_dim=head_dim,
        inv_freq=effect[0] if effect else None,
        attention_factor=effect[1] if effect else None,
        rounding=_rounding(block),
        sha256=_rope_hash(wave),
    )


def check_sections(rope: Rope, where: str) -> list[BadInput]:
    """Doubt an `mrope_section` that does not share out all pairs; interleaved ones need not."""
    sections = rope.block.own.get("mrope_section")
    if sections is None or rope.block.own.get("mrope_interleaved"):
        return []
    pairs = rope.spec.rotary_dim // 2
    if isinstance(sections, list) and all(type(size) is int and size >= 0 for size in sections):
        if sum(sections) == pairs:
            return []
        said = f"shares out {sum(sections)} rotary pairs, and there are {pairs}"
    else:
        said = f"is {shown(sections)}, and has to be a list of whole numbers"
    return [BadInput(f"{where}: mrope_section {said}", "write that of the base model")]


def _far_head_dim(config: Mapping[str, Any], model_type: str, where: str) -> int | None:
    """Read the width of a head in far-reaching layers, where windowed ones have another."""
    width = whole(config, "global_head_dim", where)
    layers = config.get("per_layer_config")  # as transformers 5 saves it: what differs, by layer
    if width is None and isinstance(layers, dict):
        widths = {whole(c, "head_dim", where) for c in layers.values() if isinstance(c, dict)}
        width = widths.pop() if len(widths) == 1 else None
    return width or rope_families.FAR_HEAD_DIM_WHEN_ABSENT.get(model_type)


def _rotary_dim(
    config: Mapping[str, Any],
    block: RopeBlock,
    model_type: str,
    head_dim: int,
    where: str,
    warnings: list[str],
) -> int:
    """Read how many dims of a head turn, by the keys that the family's class reads."""
    key = rope_families.PARTIAL_KEY.get(model_type, "partial_rotary_factor")
    fraction = block.numbers.get("partial_rotary_factor")
    if fraction is None:
        fraction = real(config, key, where, [])
    dims = whole(config, rope_families.ROTARY_DIMS_KEY.get(model_type, ""), where)
    if fraction is None and dims is not None:
        fraction = dims / head_dim
    if fraction is None:
        fraction = rope_families.PARTIAL_WHEN_ABSENT.get(model_type, 1.0)
    if not 0 < fraction <= 1:
        raise BadInput(f"{where}: partial_rotary_factor is {fraction:g}, and has to be in (0, 1]")
    rotary_dim = int(head_dim * fraction)
    if rotary_dim < 2 or rotary_dim % 2:
        raise BadInput(
            f"{where}: {rotary_dim} rotated dims (head_dim {head_dim} x {fraction:g}); "
            "RoPE turns pairs, so the number has to be even"
        )
    if rotary_dim < head_dim and model_type in rope_families.TURNS_WHOLE_HEADS:
        if block.rope_type != "default":
            raise BadInput(
                f"{where}: partial_rotary_factor is {fraction:g}, and {model_type} turns whole "
                f"heads, so transformers cannot run it under rope_type {block.rope_type}",
                "remove partial_rotary_factor",
            )
        warnings.append(
            f"{where}: partial_rotary_factor {fraction:g} decides nothing: {model_type} turns "
            "whole heads"
        )
        return head_dim
    return rotary_dim


def proportional_theta(rope_theta: float, rotary_dim: int, head_dim: int) -> float:
    """Compute the base that gives the same pairs where the exponent counts rotated dims only.

    A `proportional` rope turns the first pairs of a whole head: theta ** (-2 i / head_dim).
    """
    return float(rope_theta ** (rotary_dim / head_dim))


@dataclass(frozen=True)
class _Wave:
    """A rope block on the heads of one checkpoint."""

    block: RopeBlock
    rotary_dim: int
    rope_theta: float
    max_position_embeddings: int
    model_type: str
    where: str

    @property
    def original(self) -> int:
        """The trained window of the formulas: transformers takes the claimed one where none is."""
        return self.block.original_max_position_embeddings or self.max_position_embeddings

    def spec(self, window: int) -> RopeSpec:
        return RopeSpec(self.rotary_dim, self.rope_theta, window)

    def factor(self) -> float:
        """Return the block's factor, or that of the two windows where transformers derives it."""
        block = self.block
        if block.factor is not None:
            return block.factor
        derived = rope_type_facts(block.rope_type).derives_factor
        if derived == "absent" or (derived == "null" and block.factor_is_null):
            return self.max_position_embeddings / self.original
        raise BadInput(f"{self.where}: rope_type {block.rope_type} needs a factor")

    def at(self, length: float) -> Rotation | None:
        """Compute the rotation of so many tokens as transformers does; None = unknown `rope_type`.

        Raises:
            BadInput: a key that this `rope_type` needs is missing, or cannot be computed with.
        """
        compute = {
            "default": self._default, "linear": self._linear, "dynamic": self._dynamic,
            "yarn": self._yarn, "llama3": self._llama3, "longrope": self._longrope,
            "proportional": self._proportional,
        }.get(self.block.rope_type)  # fmt: skip
        if compute is None:
            return None
        inv_freq, attention = compute(length)
        if self.model_type in rope_families.OWN_MSCALE and self.block.rope_type != "default":
            attention = self._own_mscale(length)
        if not 0 < attention <= sys.float_info.max:
            raise BadInput(f"{self.where}: the attention factor is {attention:g}, not positive")
        return inv_freq, attention

    def _default(self, length: float) -> Rotation:
        if self.model_type in rope_families.LONGROPE_ONLY and self.block.short_factor:
            self._check_lists()  # which its class does, whatever the type
        return inv_freq_of(self.spec(self.original)), 1.0

    def _linear(self, length: float) -> Rotation:
        factor = self.factor()
        return [f / factor for f in inv_freq_of(self.spec(self.original))], 1.0

    def _proportional(self, length: float) -> Rotation:
        """Slow all pairs down; of `proportional_theta` is the base here."""
        factor = self.block.factor or 1.0
        return [f / factor for f in inv_freq_of(self.spec(self.original))], 1.0

    def _dynamic(self, length: float) -> Rotation:
        if self.rotary_dim < 4:
            raise BadInput(
                f"{self.where}: NTK scaling needs at least two rotary pairs, and this checkpoint "
                f"rotates {self.rotary_dim} dims"
            )
        spec = self.spec(self.max_position_embeddings)  # the L of its formula, whatever was trained
        try:
            theta = dynamic_theta(spec, self.factor(), length)
        except BadInput as error:
            raise BadInput(f"{self.where}: {error}", error.hint) from error
        return inv_freq_of(replace(spec, rope_theta=theta)), 1.0

    def _yarn(self, length: float) -> Rotation:
        numbers, factor = self.block.numbers, self.factor()
        # Zero counts as absent in transformers (`or`), for these two.
        fast, slow = numbers.get("beta_fast") or 32.0, numbers.get("beta_slow") or 1.0
        for name, beta in (("beta_fast", fast), ("beta_slow", slow)):
            if not 1e-6 <= beta < 2**31:
                raise BadInput(f"{self.where}: {name} is {beta:g}, and has to be positive")
        attention = numbers.get("attention_factor")
        if attention is None:
            scale, all_dims = numbers.get("mscale"), numbers.get("mscale_all_dim")
            attention = yarn_attention(factor)
            if scale and all_dims:
                above, below = yarn_attention(factor, scale), yarn_attention(factor, all_dims)
                attention = above / below if below else math.inf
        spec = self.spec(self.original)
        return yarn_inv_freq(spec, factor, fast, slow, truncate=self.block.truncate), attention

    def _llama3(self, length: float) -> Rotation:
        numbers, ends = self.block.numbers, []
        for name in ("low_freq_factor", "high_freq_factor"):
            if name not in numbers:
                raise BadInput(f"{self.where}: rope_type llama3 needs a {name}")
            if not 0 < numbers[name] < 2**31:
                raise BadInput(f"{self.where}: {name} is {numbers[name]:g}, not positive")
            ends.append(numbers[name])
        low, high = ends
        return llama3_inv_freq(self.spec(self.original), self.factor(), low, high), 1.0

    def _longrope(self, length: float) -> Rotation:
        """Take the long set beyond the trained window; sqrt(1 + ln s / ln L); arXiv:2402.13753."""
        block, window = self.block, self.original
        self._check_lists()
        long = length > window and self.model_type not in rope_families.OWN_MSCALE
        factors = block.long_factor if long else block.short_factor
        attention, factor = block.numbers.get("attention_factor"), self.factor()
        if attention is None:
            if factor > 1 and window == 1:
                raise BadInput(f"{self.where}: longrope cannot scale a window of one token")
            attention = math.sqrt(1 + math.log(factor) / math.log(window)) if factor > 1 else 1.0
        return [
            f / s for f, s in zip(inv_freq_of(self.spec(window)), factors, strict=True)
        ], attention

    def _check_lists(self) -> None:
        """Refuse lists that have not one factor for each pair."""
        pairs, block = self.rotary_dim // 2, self.block
        for name, factors in (
            ("short_factor", block.short_factor), ("long_factor", block.long_factor)
        ):  # fmt: skip
            if len(factors) != pairs:
                raise BadInput(
                    f"{self.where}: {name} has {len(factors)} numbers, and {pairs} are needed "
                    f"(one for each of {pairs} rotary pairs)"
                )

    def _own_mscale(self, length: float) -> float:
        name = "long_mscale" if length > self.original else "short_mscale"
        for key in (name, "short_mscale", "long_mscale"):
            if key not in self.block.numbers:
                raise BadInput(f"{self.where}: {self.model_type} needs a {key}")
        return self.block.numbers[name]


def _rounding(block: RopeBlock) -> float:
    """Bound the relative difference that float32 arithmetic can make to a frequency.

    1e-5 everywhere but where a blend is divided by a large factor: the rounding of the part that
    is kept then weighs as much as what is left of the other.
    """
    low, high = (block.numbers.get(f"{end}_freq_factor", 0.0) for end in ("low", "high"))
    facts = rope_type_facts(block.rope_type)
    given = "low_freq_factor" in facts.keys and high > low
    steepness = high / (high - low) if given else 1.0
    return min(1e-3, max(1e-5, 4e-7 * (block.factor or 1.0) * steepness)) if facts.blends else 1e-5


def _rope_hash(wave: _Wave) -> str:
    """Hash how a checkpoint rotates (sha256, hex): two that rotate alike have the same.

    An adapter carries the hash of the encoding it was trained under, and a merge compares. What
    is hashed is the effect (`inv_freq` and attention factor to nine digits, at the longest the
    block is made for), so a default written out or left out, and either dialect, make no
    difference.
    """
    block = wave.block
    content: dict[str, Any] = {"rope_type": block.rope_type, "rotary_dim": wave.rotary_dim}
    length = math.inf  # longrope's long set
    facts = rope_type_facts(block.rope_type)
    if facts.keeps_window:
        length = wave.max_position_embeddings * wave.factor()
    effect = wave.at(length)
    if effect is None:
        content["numbers"] = dict(block.numbers) | {"factor": block.factor}
        content["rope_theta"] = f"{block.rope_theta:.9e}"
    else:
        content["inv_freq"] = [f"{f:.9e}" for f in effect[0]]
        content["attention_factor"] = f"{effect[1]:.9e}"
    if facts.keeps_window:  # the same at the target can differ on the way there
        content["window"] = wave.max_position_embeddings
    if "short_factor" in facts.keys:
        content["short_factor"] = [f"{f:.9e}" for f in block.short_factor]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
