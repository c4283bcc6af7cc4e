"""`ctxext eval-ppl`: several checkpoints, several lengths, one text, one table."""

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxext.checkpoints.folder import CONFIG
from ctxext.checkpoints.json_file import dump_json
from ctxext.checkpoints.load import check_dtype, load_tokenizer
from ctxext.checkpoints.numbers import whole
from ctxext.checkpoints.output import MARK, check_output, staged_folder
from ctxext.checkpoints.weights import read_weights
from ctxext.data.sources import Source as TextSource
from ctxext.data.tokens import Corpus, check_vocabulary, tokenize
from ctxext.errors import BadInput
from ctxext.pipeline.opened import Opened, open_checkpoint
from ctxext.progress import Progress, silent
from ctxext.release.provenance import SCHEMA, command_line, sha256_of, versions, write_record
from ctxext.report.plots import plot_perplexity

if TYPE_CHECKING:
    from ctxext.evaluation.perplexity import Protocol

PROTOCOLS = ("sliding", "disjoint", "yarn")
DOCUMENT = "eval-ppl.json"


@dataclass(frozen=True)
class PerplexityResult:
    """Perplexities of several models; `to_dict` is the eval-ppl JSON document.

    `results` has a row for each model and length, `by_position` for each model and bucket.
    """

    source: str
    tokens: int
    sha256: str
    protocol: str
    stride: int
    results: tuple[dict[str, Any], ...]
    by_position: tuple[dict[str, Any], ...]
    window: int
    output_dir: str | None
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": "ctxext.eval-ppl/1",
            "data": {"source": self.source, "tokens": self.tokens, "sha256": self.sha256},
            "protocol": self.protocol,
            "stride": self.stride,
            "results": list(self.results),
            "by_position": list(self.by_position),
            "window": self.window,
            "output_dir": self.output_dir,
            "warnings": list(self.warnings),
        }


def perplexity(
    models: Sequence[str],
    *,
    data: str,
    lengths: Sequence[int],
    stride: int = 256,
    protocol: "Protocol" = "sliding",
    tokens: int | None = None,
    field: str = "text",
    output_dir: str | Path | None = None,
    overwrite: bool = False,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    on_progress: Progress = silent,
) -> PerplexityResult:
    """Measure perplexity by window length and by position.

    Only documents that fill the longest window are read, so every length scores the same text.

    Args:
        models: checkpoints, measured one after the other.
        data: as `--data`.
        lengths: window lengths in tokens.
        stride: tokens between windows, for `sliding` and `yarn`.
        tokens: read only the first so many tokens of the text.
        output_dir: gets `eval-ppl.json`, `perplexity.png` and `.svg`, `ctxext.json`.

    Raises:
        BadInput: anything the user can mend, text shorter than a window included.
        CtxextError: a model that returns NaN, corrupt weights.
    """
    lengths = sorted(set(lengths))
    _check(models, lengths, stride, protocol)
    kind = check_dtype(dtype)
    opened = [open_checkpoint(model, revision=revision) for model in models]
    folders = tuple(one.source.folder for one in opened)
    if output_dir is not None:
        check_output(Path(output_dir), overwrite=overwrite, inputs=folders, may_lie_inside=True)
    for one in opened:
        read_weights(one.source.folder)
    names = _names(models, opened)
    warnings = [f"{n}: {w}" for n, one in zip(names, opened, strict=True) for w in one.warnings]
    TextSource(data, field).check()
    texts = _Texts(data, field, tokens, lengths[-1], trust_remote_code)
    for one in opened:
        # Too little text, or a foreign tokenizer, is said before any model is loaded.
        embeddings = whole(one.config, "vocab_size", f"{one.source.name}/{CONFIG}")
        check_vocabulary(texts.of(one), embeddings or 2**31)

    from ctxext.checkpoints.load import load_model, pick_device
    from ctxext.evaluation.perplexity import by_length, by_position, readable

    place = pick_device(device)
    results: list[dict[str, Any]] = []
    positions: list[dict[str, Any]] = []
    for name, one in zip(names, opened, strict=True):
        corpus = texts.of(one)
        documents = readable(corpus.documents, lengths[-1], source=corpus.source)
        live = load_model(
            one.source, one.position, dtype=kind, device=place, trust_remote_code=trust_remote_code
        )
        identity = {
            "config_sha256": sha256_of(one.source.folder / CONFIG),
            "record_sha256": sha256_of(one.source.folder / MARK),
            "rope_sha256": one.position.rope.sha256 if one.position.rope else None,
            "window": one.position.window.current,
        }
        for length in lengths:
            score = by_length(
                live, documents, length, stride=min(stride, length), protocol=protocol,
                on_progress=on_progress, name=name,
            )  # fmt: skip
            results.append({"model": name, **score.to_dict(), **identity})
        buckets = by_position(live, documents, lengths[-1], on_progress=on_progress, name=name)
        positions += [{"model": name, **bucket.to_dict()} for bucket in buckets]
        del live
        gc.collect()
    first = texts.of(opened[0])
    if first.replaced:
        warnings.append(f"--data {first.source}: {first.replaced} bytes were not UTF-8")
    result = PerplexityResult(
        source=first.source,
        tokens=first.tokens,
        sha256=first.sha256,
        protocol=protocol,
        stride=stride,
        results=tuple(results),
        by_position=tuple(positions),
        window=opened[0].position.window.original,
        output_dir=str(output_dir) if output_dir else None,
        warnings=tuple(dict.fromkeys(warnings)),
    )
    if output_dir is not None:
        _write(result, Path(output_dir), overwrite, folders)
    return result


class _Texts:
    """The text as each tokenizer cuts it; checkpoints with the same tokenizer share the work."""

    def __init__(
        self, data: str, field: str, limit: int | None, longest: int, trust_remote_code: bool
    ) -> None:
        self._data, self._field, self._limit = data, field, limit
        self._longest, self._trust = longest, trust_remote_code
        self._known: dict[str, Corpus] = {}

    def of(self, opened: Opened) -> Corpus:
        folder = opened.source.folder
        key = sha256_of(folder / "tokenizer.json") or str(folder.resolve())
        if key not in self._known:
            tokenizer = load_tokenizer(opened.source, trust_remote_code=self._trust)
            corpus = tokenize(TextSource(self._data, self._field), tokenizer, limit=self._limit)
            if max((len(d) for d in corpus.documents), default=0) < self._longest:
                longest = max((len(d) for d in corpus.documents), default=0)
                raise BadInput(
                    f"--data {corpus.source} has no document of {self._longest} tokens (the "
                    f"longest read has {longest})",
                    "give longer text, more --tokens, or shorter --lengths",
                )
            self._known[key] = corpus
        return self._known[key]


def _check(models: Sequence[str], lengths: Sequence[int], stride: int, protocol: str) -> None:
    if not models:
        raise BadInput("no MODEL given")
    if not lengths or lengths[0] < 2:
        raise BadInput("--lengths has to hold at least one window of 2 tokens or more")
    if stride < 1:
        raise BadInput(f"--stride is {stride}, and has to be at least 1")
    if protocol not in PROTOCOLS:
        raise BadInput(f"--protocol is {protocol!r}; there is {', '.join(PROTOCOLS)}")


def _names(models: Sequence[str], opened: Sequence[Opened]) -> list[str]:
    """What the table calls each model: the shortest end of its path that is its own."""
    paths = [
        Path(model).resolve() if Path(model).is_dir() else Path(one.source.name)
        for model, one in zip(models, opened, strict=True)
    ]
    names: list[str] = []
    for index, path in enumerate(paths):
        others = [p for i, p in enumerate(paths) if i != index and p != path]
        parts = next(
            (n for n in range(1, 5) if all(p.parts[-n:] != path.parts[-n:] for p in others)), 5
        )
        name = "/".join(path.parts[-parts:]) if Path(models[index]).is_dir() else str(path)
        while name in names:
            name += "'"
        names.append(name)
    return names


def _write(result: PerplexityResult, out: Path, overwrite: bool, inputs: tuple[Path, ...]) -> None:
    with staged_folder(out, overwrite=overwrite, inputs=inputs, may_lie_inside=True) as folder:
        document = {k: v for k, v in result.to_dict().items() if k != "output_dir"}
        (folder / DOCUMENT).write_text(dump_json(document), encoding="utf-8")
        for suffix in ("png", "svg"):
            plot_perplexity(
                folder / f"perplexity.{suffix}", result.results, result.by_position,
                window=result.window,
            )  # fmt: skip
        write_record(
            folder,
            {
                "schema": SCHEMA,
                "kind": "eval-ppl",
                "versions": versions(),
                "evaluations": [DOCUMENT],
                "command": command_line(),
            },
        )
