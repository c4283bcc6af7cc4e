"""What an engine makes of each form that a method is written in, as one record."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Reading = Literal["read", "ignored", "lost", "refused", "window-again", "old-window"]
"""What becomes of a `rope_type`. `ignored`: it serves the unscaled rope; `lost`: its own file
format has no word for it; `refused`: it says so and stops; `window-again`: right, but it offers the
window times the factor; `old-window`: right, but it offers the trained window."""
ListAttention = Literal["said", "one", "standard"]
"""The attention factor that an engine takes with longrope's lists: what the file says; that where
it is 1, and something else where it is not; or always sqrt(1 + ln s / ln L)."""


@dataclass(frozen=True)
class Engine:
    """One engine, as its source was read.

    Attributes:
        rank: its place in lists, smallest first.
        source: where its reading of configs was read: repository and file.
        readings: by `rope_type`; what is not listed is read rightly.
        ignored_keys: of the rope block, with the releases that ignore them (`older`, or empty).
        list_attention: with longrope's lists.
        top_keys: keys at the top of a config that it acts on, with the releases that do; empty for
            all that are current.
        releases: those that are told apart, where methods say since which they work.
        window_flag: its flag for the window in tokens.
        serve: the command for `{repo}` and `{target}`; None = none is offered.
        needs_folder: whether that command takes a local folder only, so that a repository has to be
            downloaded first.
        reads_rope_parameters: whether it reads transformers 5's block, or `rope_scaling` alone.
    """

    name: str
    rank: int
    source: str
    readings: Mapping[str, Reading] = field(default_factory=dict)
    ignored_keys: Mapping[str, str] = field(default_factory=dict)
    list_attention: ListAttention = "said"
    top_keys: Mapping[str, str] = field(default_factory=dict)
    releases: tuple[str, ...] = ()
    window_flag: str = ""
    serve: str | None = None
    needs_folder: bool = False
    reads_rope_parameters: bool = True

    def command(self, model: str, target: int, *, local: bool) -> str | None:
        """Write the command that serves a model, with plain numbers of tokens.

        Args:
            model: a repository id, or the path of a folder where `local`.
            target: window, tokens.
        """
        if self.serve is None:
            return None
        if self.needs_folder and not local:
            served = self.serve.format(repo="model", target=target)
            return f"hf download {model} --local-dir model && {served}"
        return self.serve.format(repo=model, target=target)

    def reading(self, rope_type: str) -> Reading:
        """Say what becomes of a `rope_type` in this engine."""
        return self.readings.get(rope_type, "read")
