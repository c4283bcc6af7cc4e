"""What one run of the laboratory is: sizes, lengths, seeds; and the presets."""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from ctxext.checkpoints.lab_decoder.model_type import ENCODINGS
from ctxext.choices import suggestion
from ctxext.errors import BadInput

_LONGEST: Final = 8192  # ALiBi's bias of so many tokens is half a gigabyte


@dataclass(frozen=True, kw_only=True)
class LabSetting:
    """A run: decoders that are identical but for the encoding, trained short and tested long.

    Attributes:
        encodings: which of `ENCODINGS`.
        train_length: the trained window, tokens (bytes).
        test_lengths: tokens, ascending; the longest is what everything is extended to.
        seeds: of each encoding; data, initial weights and test rows follow from a seed.
        steps: of the optimizer, for a decoder, at most.
        least_steps: below which a decoder is not worth measuring.
        tokens_per_step: of a batch.
        hidden_size, layers, heads: of the decoder.
        block: of the decoder, `llama` or `gpt2`.
        rope_theta: base of the rope's frequencies.
        windows: test rows of the longest length, for each seed.
        strings: rows in which recall is asked for, for each seed and distance.
        lora_steps: of every RoPE method at the longest length.
        most_lora_steps: of the two methods whose steps to the same loss are compared.
    """

    encodings: tuple[str, ...] = ENCODINGS
    train_length: int = 64
    test_lengths: tuple[int, ...] = (64, 128, 256, 512)
    seeds: tuple[int, ...] = (0, 1, 2, 3)
    steps: int = 3000
    least_steps: int = 1100
    tokens_per_step: int = 1024
    hidden_size: int = 64
    layers: int = 2
    heads: int = 2
    rope_theta: float = 10_000.0
    block: str = "llama"
    windows: int = 48
    strings: int = 32
    lora_steps: int = 30
    most_lora_steps: int = 100

    @property
    def longest(self) -> int:
        """The longest test length, tokens."""
        return self.test_lengths[-1]

    @property
    def factor(self) -> float:
        """The longest test length over the trained window."""
        return self.longest / self.train_length

    @property
    def buckets(self) -> tuple[tuple[int, int], ...]:
        """Ranges of positions that are reported: half the window, the window, and each length."""
        edges = [0, self.train_length // 2, self.train_length]
        edges += [length for length in self.test_lengths if length > self.train_length]
        return tuple(pairwise(edges))

    def distances(self, length: int) -> tuple[int, ...]:
        """List how far back strings stand in rows of a length, tokens.

        None stands at the very beginning of a row, where every position is a trained one, and
        where decoders find a string by its place.
        """
        farthest = length - 2 * self.string
        wanted = (self.train_length // 4, self.train_length // 2, *self.test_lengths)
        inside = [distance for distance in wanted if self.string <= distance < farthest]
        return tuple(sorted({*inside, farthest}))

    @property
    def string(self) -> int:
        """The tokens of a random string."""
        return max(6, min(10, self.train_length // 5))


PRESETS: Final = {
    "train-short-test-long": LabSetting(),
    "smoke": LabSetting(
        train_length=32, test_lengths=(32, 64, 128), seeds=(0, 1), steps=60, least_steps=30,
        windows=8, strings=8, lora_steps=4, most_lora_steps=8, hidden_size=32,
    ),
}  # fmt: skip
"""`smoke` shows that everything runs, in less than a minute; its verdicts say little."""


def preset(name: str) -> LabSetting:
    """Look up a preset.

    Raises:
        BadInput: there is none of that name.
    """
    if name not in PRESETS:
        raise BadInput(f"--preset {name!r} is not known", suggestion(name, sorted(PRESETS)))
    return PRESETS[name]


def chosen(
    setting: LabSetting,
    encodings: tuple[str, ...] | None,
    train_length: int | None,
    test_lengths: tuple[int, ...] | None,
    seeds: int | None,
    first_seed: int,
) -> LabSetting:
    """Put what the user says into a preset.

    Raises:
        BadInput: an encoding that is not known or twice, or lengths and seeds out of range.
    """
    for name in encodings or ():
        if name not in ENCODINGS:
            raise BadInput(
                f"--encodings: '{name}' is not an encoding of the laboratory",
                suggestion(name, ENCODINGS, f"it has: {', '.join(ENCODINGS)}"),
            )
    if encodings is not None and (not encodings or len(set(encodings)) < len(encodings)):
        raise BadInput("--encodings names none, or one twice", f"e.g. {','.join(ENCODINGS)}")
    window = train_length or setting.train_length
    if test_lengths is None:
        scale = window / setting.train_length
        test_lengths = tuple(round(length * scale) for length in setting.test_lengths)
    lengths = tuple(sorted(set(test_lengths)))
    if not 32 <= window <= 1024:
        raise BadInput(f"--train-length {window} is not between 32 and 1024 tokens")
    if len(lengths) < 1 or lengths[0] < window or not 2 * window <= lengths[-1] <= 64 * window:
        raise BadInput(
            f"--test-lengths: {', '.join(map(str, lengths))} do not fit a train length of {window}",
            f"give lengths from {window} on, the longest 2 to 64 times that",
        )
    if lengths[-1] > _LONGEST:
        raise BadInput(f"--test-lengths: {lengths[-1]} is more than {_LONGEST} tokens")
    if not 0 <= first_seed < 2**31:
        raise BadInput(f"--seed {first_seed} is not between 0 and 2**31")
    count = len(setting.seeds) if seeds is None else seeds
    if not 1 <= count <= 32:
        raise BadInput(f"--seeds {count} is not between 1 and 32")
    return replace(
        setting,
        encodings=encodings or setting.encodings,
        train_length=window,
        test_lengths=lengths,
        seeds=tuple(range(first_seed, first_seed + count)),
    )
