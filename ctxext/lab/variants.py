"""What can be done to a trained decoder of each encoding so that it reads further, untrained.

For RoPE see `extensions`. Every change is taken back at the end of its `with` block.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import torch

from ctxext.encodings.learned import TableSpec, resampled
from ctxext.encodings.none import temperature
from ctxext.encodings.sinusoidal import sinusoids
from ctxext.lab.measures import loss_by_position, unseen_rows
from ctxext.lab.setting import LabSetting
from ctxext.methods import METHODS, TableExtension

Variant = Callable[[Any, LabSetting, int], Any]
UNTRAINED_ROWS: Final = "untrained rows"
TEMPERATURE: Final = "temperature"
_TRIED = (0.05, 0.1, 0.2, 0.3, 0.5)


@contextmanager
def untrained_rows(model: Any, setting: LabSetting, seed: int) -> Iterator[None]:
    """Give a learned table rows as they are before training, from the trained window on."""
    table = model.model.embed_positions.weight
    torch.manual_seed(seed)
    more = torch.randn(setting.longest - len(table), table.shape[1])
    more *= model.config.initializer_range
    with _table(model, torch.cat([table.detach(), more])):
        yield


def resampled_table(method: str) -> Variant:
    """Make a variant of a method for learned tables."""

    @contextmanager
    def variant(model: Any, setting: LabSetting, seed: int) -> Iterator[None]:
        spec = TableSpec(setting.train_length)
        extension = METHODS[method](spec, setting.longest)
        if not isinstance(extension, TableExtension):
            raise TypeError(f"{method} is not for tables")
        table = model.model.embed_positions.weight.detach()
        with _table(model, resampled(table, spec, extension.source)):
            yield

    return variant


@contextmanager
def _table(model: Any, table: torch.Tensor) -> Iterator[None]:
    embedding = model.model.embed_positions
    before = embedding.weight
    embedding.weight = torch.nn.Parameter(table, requires_grad=False)
    embedding.num_embeddings = len(table)
    try:
        yield
    finally:
        embedding.weight, embedding.num_embeddings = before, len(before)


@contextmanager
def interpolated_sinusoids(model: Any, setting: LabSetting, seed: int) -> Iterator[None]:
    """Divide positions by the factor before their sines are taken."""
    waves = model.model.embed_positions
    at = torch.arange(setting.longest)
    rows, waves._rows = waves._rows, sinusoids(waves.spec, at, factor=setting.factor).float()
    waves._rows *= waves.size
    try:
        yield
    finally:
        waves._rows = rows


@contextmanager
def gentler_slopes(model: Any, setting: LabSetting, seed: int) -> Iterator[None]:
    """Divide ALiBi's slopes by the factor: m L / L'."""
    alibi = model.model.alibi
    slopes = alibi.slopes
    alibi.slopes, alibi._key = [slope / setting.factor for slope in slopes], None
    try:
        yield
    finally:
        alibi.slopes, alibi._key = slopes, None


@contextmanager
def sharper_scores(model: Any, setting: LabSetting, seed: int) -> Iterator[None]:
    """Multiply scores by 1 + c ln s, c chosen on other text."""
    rows = unseen_rows(setting, seed, calibration=True)
    losses = {}
    for c in (0.0, *_TRIED):
        with scores_times(model, temperature(c, setting.factor)):
            by_position = loss_by_position(model, setting, rows)
        losses[c] = sum(row[-1] for row in by_position)
    with scores_times(model, temperature(min(losses, key=losses.__getitem__), setting.factor)):
        yield


@contextmanager
def scores_times(model: Any, beta: float) -> Iterator[None]:
    """Multiply the scores of every layer."""
    layers = model.model.layers
    before = [layer.self_attn.scaling for layer in layers]
    for layer in layers:
        layer.self_attn.scaling *= beta
    try:
        yield
    finally:
        for layer, scaling in zip(layers, before, strict=True):
            layer.self_attn.scaling = scaling


VARIANTS: Final[Mapping[str, Mapping[str, Variant]]] = {
    "learned": {
        UNTRAINED_ROWS: untrained_rows,
        **{name: resampled_table(name) for name in ("interpolate", "tile", "group")},
    },
    "sinusoidal": {"interpolated": interpolated_sinusoids},
    "alibi": {"slopes": gentler_slopes},
    "none": {TEMPERATURE: sharper_scores},
}
"""By encoding and name; every one is a context in which the model reads further."""
