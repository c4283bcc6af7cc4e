"""The texts of a recipe's `data:` section: tokenised, chosen from, and mixed into rows."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ctxext.data.documents import choose_documents
from ctxext.data.mixture import Mixture
from ctxext.data.packing import PackedRows
from ctxext.data.sources import Source, what_was_lost
from ctxext.data.store import TokenFile, stored_tokens
from ctxext.errors import BadInput, CtxextError
from ctxext.runs.recipe.config import DataConfig, FinetuneConfig, SourceConfig


def check_texts(data: DataConfig) -> None:
    """Read every text up to its first word: what is wrong there is said before much work is done.

    Raises:
        BadInput: as `Source.pieces`.
    """
    for text in data.texts:
        check_text(text)


def check_text(text: SourceConfig) -> None:
    """Read one text up to its first word.

    Raises:
        BadInput: as `Source.pieces`.
    """
    Source(text.source, text.field).check()


def token_files(
    data: DataConfig, tokenizer: Any, tokenizer_sha256: str, separator: int | None
) -> list[TokenFile]:
    """Read the tokens of each text in `data.texts`, in that order; one named twice is read once.

    Raises:
        BadInput, CtxextError: as `stored_tokens`.
    """
    known: dict[tuple[str, str, int], TokenFile] = {}
    for text in data.texts:
        key = (text.source, text.field, text.tokens)
        if key not in known:
            source = Source(text.source, text.field)
            known[key] = stored_tokens(source, tokenizer, tokenizer_sha256, separator, text.tokens)
    return [known[text.source, text.field, text.tokens] for text in data.texts]


def mixed_rows(config: FinetuneConfig, files: Sequence[TokenFile]) -> Mixture:
    """Mix the rows that a run reads.

    Raises:
        BadInput: bounds that leave no document, or less than one row of a text; it is named.
    """
    parts = []
    held = config.held_of_each
    for index, (text, file) in enumerate(zip(config.data.texts, files, strict=True)):
        name = f"data.sources[{index}] {file.source}" if config.data.sources else "--data"
        stream = choose_documents(
            file.ids,
            file.ends,
            min_tokens=text.min_tokens,
            max_tokens=text.max_tokens,
            name=name,
        )
        number = index + 1 if len(files) > 1 else 0
        train = config.train
        parts.append(PackedRows(stream, train.seq_length, train.seed, number, name, held))
    weights = tuple(text.weight for text in config.data.texts)
    return Mixture(tuple(parts), weights, config.train.seed)


def evaluation_text(config: FinetuneConfig) -> DataConfig:
    """Name the text of the section `validation` as a section `data`."""
    wanted = config.validation
    return DataConfig(source=wanted.source, field=wanted.field or config.data.field)


@contextmanager
def of_eval_data() -> Iterator[None]:
    """Call the text of a block `--eval-data`, where it would be called `--data`."""
    try:
        yield
    except CtxextError as error:
        said = str(error).replace("--data", "--eval-data", 1)
        hint = error.hint.replace("--field NAME", "--set validation.field=NAME")
        family = BadInput if isinstance(error, BadInput) else CtxextError
        raise family(said, hint, path=error.path) from error


def trained_text(
    config: FinetuneConfig, files: Sequence[TokenFile], other: TokenFile
) -> str | None:
    """Warn of a validation text that is trained on too; None where it is not, as far as is seen.

    Args:
        files: the tokens of `--data`; `other`: of `--eval-data`.
    """
    source = config.validation.source
    twice = other.text_sha256 in {file.text_sha256 for file in files}
    places = [path for text in config.data.texts if (path := Path(text.source)).exists()]
    if Path(source).exists():
        here = Path(source).resolve()
        twice = twice or any(here.is_relative_to(path.resolve()) for path in places)
    if not twice:
        return None
    return (
        f"--eval-data {other.source} is read by --data too, so its loss says nothing about text "
        "that was not trained on; leave --eval-data out, and rows of --data are held out"
    )


def validation_rows(
    config: FinetuneConfig, trained: Mixture, file: TokenFile | None
) -> npt.NDArray[np.int64] | None:
    """Read the rows that the section `validation` asks for, (rows, seq_length); None = none.

    Args:
        trained: from which rows are held out where the section names no text.
        file: the tokens of the text that it names.

    Raises:
        BadInput: a text with less than one row.
    """
    wanted = config.validation
    if not wanted.is_wanted:
        return None
    if file is None:
        return np.concatenate([text.held() for text in trained.parts])
    length, whole = config.train.seq_length, len(file.ids) // config.train.seq_length
    if not whole:
        raise BadInput(
            f"--eval-data has {len(file.ids)} tokens, and one row needs --seq-length {length}",
            "give more text, or leave --eval-data out: rows of --data are held out then",
        )
    rows = min(wanted.rows, whole)
    starts = [row * whole // rows * length for row in range(rows)]  # spread over the text
    return np.stack([file.ids[at : at + length].astype(np.int64) for at in starts])


def training_data(data: DataConfig, files: Sequence[TokenFile]) -> dict[str, Any]:
    """Describe the texts for the record: names, hashes, tokens; with several, each by itself."""
    distinct = list(dict.fromkeys(files))
    out: dict[str, Any] = {
        "source": ", ".join(dict.fromkeys(file.source for file in distinct)),
        "sha256": _joined([file.text_sha256 for file in distinct]),
        "tokens": sum(len(file.ids) for file in distinct),
        "tokens_sha256": _joined([file.sha256 for file in files]),
    }
    if data.sources:
        out["sources"] = [
            {
                "source": file.source,
                "sha256": file.text_sha256,
                "tokens": len(file.ids),
                "weight": text.weight,
            }
            for text, file in zip(data.sources, files, strict=True)
        ]
    return out


def unreadable(files: Sequence[TokenFile]) -> list[str]:
    """Make a warning for each text with bytes that were not UTF-8, or rows without a text."""
    return [
        warning
        for file in dict.fromkeys(files)
        for warning in what_was_lost(file.source, file.replaced, file.empty)
    ]


def _joined(hashes: Sequence[str]) -> str:
    """Return one hash as it is, several hashed together."""
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
