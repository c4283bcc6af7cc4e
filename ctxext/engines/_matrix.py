"""The matrix method x engine, derived from what both say of themselves."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from ctxext.engines._registry import Engine
from ctxext.engines._releases import before
from ctxext.methods import Attention, Method

Verdict = Literal["ok", "wrong", "refuses", "needs version"]
_READINGS: Final[dict[str, tuple[Verdict, str]]] = {
    "read": ("ok", "runs it as transformers does"),
    "ignored": ("wrong", "ignores {form}, and serves the unscaled rope without a word"),
    "lost": ("wrong", "loses {form}: its file format has no word for it"),
    "refused": ("refuses", "does not know {form}, and stops"),
    "window-again": ("ok", "runs it, and offers the window times the factor: pass {flag} N"),
    "old-window": ("ok", "runs it, and offers the trained window: pass {flag} N"),
}


@dataclass(frozen=True)
class Cell:
    """What one engine makes of one method.

    Attributes:
        sentence: what happens, without the engine's name.
        source: where it was read.
        releases: verdict by release, where releases are told apart.
    """

    engine: str
    verdict: Verdict
    sentence: str
    source: str
    releases: Mapping[str, Verdict] = field(default_factory=dict)


def takes_attention(engine: Engine, attention: Attention) -> bool:
    """Tell whether an engine takes the attention factor of longrope's lists as it is meant."""
    right: dict[str, tuple[Attention, ...]] = {
        "said": ("standard", "one", "own"),
        "one": ("standard", "one"),
        "standard": ("standard",),
    }
    return attention in right[engine.list_attention]


def cell(engine: Engine, method: Method) -> Cell:
    """Say what an engine makes of a method with its default parameters."""
    verdict, sentence = _verdict(engine, method)
    releases: dict[str, Verdict] = {
        release: "needs version" if _too_old(release, method) else verdict
        for release in engine.releases
    }
    if verdict == "ok" and "needs version" in releases.values():
        verdict, sentence = "needs version", f"runs it from {method.since} on"
    return Cell(engine.name, verdict, sentence, engine.source, releases)


def _verdict(engine: Engine, method: Method) -> tuple[Verdict, str]:
    if method.top_key:
        if method.top_key not in engine.top_keys:
            return "wrong", f"does not read {method.top_key}: the rope is unscaled there"
        releases = engine.top_keys[method.top_key]
        if releases:
            return "needs version", f"runs it in {releases} only"
        return _READINGS["read"]
    reading = engine.reading(method.rope_type)
    verdict, sentence = _READINGS[reading]
    sentence = sentence.format(form=f"rope_type {method.rope_type}", flag=engine.window_flag)
    if verdict != "ok":
        return verdict, sentence
    if "long_factor" in method.facts.keys and not takes_attention(engine, method.attention):
        return "wrong", (
            "turns alike, and multiplies cos and sin by a number of its own in place of the "
            "attention factor that the file says"
        )
    return verdict, sentence


def _too_old(release: str, method: Method) -> bool:
    """Tell whether a release came before the first that computes a method rightly."""
    if method.since == "any" or method.top_key:
        return False
    return before(release, method.since)
