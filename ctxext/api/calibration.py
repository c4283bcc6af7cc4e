"""`extend --calibrate`: the temperature with the lowest perplexity at the target, on a text."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from ctxext.checkpoints.opened import Opened, tokenizer_of
from ctxext.data.sources import Source
from ctxext.data.store import stored_tokens, tokenizer_digest
from ctxext.data.tokens import Tokens
from ctxext.errors import BadInput
from ctxext.evaluation.reading.windows import readable
from ctxext.machine.launch import Launch
from ctxext.methods import Method, ScoreExtension
from ctxext.runs.rows.calibration import Calibrated

if TYPE_CHECKING:
    from ctxext.evaluation.reading.scoring import Scorer

GRID: Final = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4)
_WINDOWS: Final = 16
_READ: Final = 64  # windows' worth of text, of which documents that fill one are taken


def calibrate(
    opened: Opened, method: Method, target: int, text: str, parameters: Mapping[str, Any]
) -> tuple[Calibrated, ...]:
    """Read windows of the target under every candidate; the model is scaled live, nothing written.

    Args:
        text: as `--data`; held out, since what the model has seen wants less.
        parameters: given beside, of which none is `c`.

    Raises:
        BadInput: a method without a temperature, a `c` that is given, too little text.
    """
    if method.makes is not ScoreExtension:
        raise BadInput(
            f"--calibrate chooses a temperature, and --method {method.name} has none",
            "it is for --method temperature",
        )
    if "c" in parameters:
        raise BadInput("--calibrate chooses c, and --set c is given", "leave one of them out")
    windows = _windows(opened, target, text)
    from ctxext.checkpoints.live.load import device_of, load_model
    from ctxext.checkpoints.weights.files import read_weights
    from ctxext.evaluation.reading.scoring import Scorer
    from ctxext.training.model.temperature import SCALE, train_temperature

    place = device_of("auto", Launch())
    model = load_model(opened.source, opened.position, device=place)
    weights = read_weights(opened.source.folder)
    scaled = train_temperature(model, weights, opened.position, per_head=False).eval()
    scorer, rows = Scorer(scaled), []
    for c in GRID:
        extension = method(opened.position.spec, target, **parameters, c=c)  # type: ignore[arg-type]
        if not isinstance(extension, ScoreExtension):
            raise TypeError(f"{method.name} makes no temperature")
        getattr(scaled, SCALE).data.fill_(extension.scale)
        nll = _mean_nll(scorer, windows)
        rows.append(Calibrated(c=c, scale=extension.scale, perplexity=math.exp(nll)))
    return tuple(rows)


def _mean_nll(scorer: "Scorer", windows: list[Tokens]) -> float:
    """Compute the mean NLL of every token of the windows but their first, nats."""
    import numpy as np
    import torch

    rows = [torch.from_numpy(np.asarray(window, dtype=np.int64))[None] for window in windows]
    parts = [scorer.nll(row.to(scorer.device), row.shape[1] - 1) for row in rows]
    return float(torch.cat(parts).mean())


def _windows(opened: Opened, target: int, text: str) -> list[Tokens]:
    """Cut windows out of the documents that fill one, the first of each before any second."""
    if not text:
        raise BadInput("--calibrate is empty", "give a held-out text")
    source = Source(text)
    try:
        source.check()
        file = stored_tokens(
            source, tokenizer_of(opened, trust_remote_code=False),
            tokenizer_digest(opened.tokens_from.folder), None, _READ * target,
        )  # fmt: skip
    except BadInput as error:  # the readers' word for a text
        said = str(error).replace("--data", "--calibrate", 1)
        raise BadInput(said, error.hint, path=error.path) from error
    try:
        chosen = readable(file.lengths, target, source=file.source)
    except BadInput as error:
        raise BadInput(
            f"--calibrate {file.source} has no document of {target} tokens", "give a longer text"
        ) from error
    documents = [file.document(index) for index in chosen]
    out: list[Tokens] = []
    for at in range(max(len(each) for each in documents) // target):
        parts = [each[at * target : (at + 1) * target] for each in documents]
        out += [part for part in parts if len(part) == target]
    return out[:_WINDOWS]
