"""`ctxext fertility`: the same text in many languages, and how far a window reaches in each."""

from collections.abc import Mapping
from pathlib import Path

from ctxext.api._arguments import checked
from ctxext.checkpoints.folder import Source
from ctxext.checkpoints.live.tokenizer import tokenizer_errors
from ctxext.checkpoints.opened import open_checkpoint, tokenizer_of
from ctxext.checkpoints.provenance import (
    SCHEMA,
    base_record,
    command_line,
    sha256_of,
    versions,
    write_record,
)
from ctxext.data.sources import Source as TextSource, text_files
from ctxext.errors import BadInput
from ctxext.evaluation.fertility import TextCost, text_cost
from ctxext.progress import Progress, silent
from ctxext.report.charts.languages import plot_fertility
from ctxext.runs.json_file import dump_json
from ctxext.runs.output import check_output, staged_folder
from ctxext.runs.rows.fertility import FertilityResult, FertilityRow

DOCUMENT = "fertility.json"
_ENGLISH = ("en", "eng", "english")


@checked
def fertility(
    model: str,
    *,
    data: str,
    reference: str | None = None,
    field: str = "text",
    output_dir: str | Path | None = None,
    overwrite: bool = False,
    revision: str | None = None,
    tokenizer: str | None = None,
    trust_remote_code: bool = False,
    on_progress: Progress = silent,
) -> FertilityResult:
    """Count tokens per character, byte and word of each text, and what the window holds of it.

    Only the tokenizer and the config are read, no weights.

    Args:
        model: folder or Hub repository id.
        data: a folder, one file a text, named after its language (`en.txt`), or one file.
        reference: the language that the others are measured against; None = the file named en,
            eng or english, where there is one.
        field: of `.jsonl` and `.parquet` files.
        tokenizer: folder or repository whose tokenizer is used; None = the checkpoint's own.
        output_dir: gets `fertility.json`, `fertility.png` and `.svg`, `ctxext.json`.

    Raises:
        BadInput: no tokenizer, no such language, a file that is empty, binary or not UTF-8.
    """
    opened = open_checkpoint(model, revision=revision, weights=False, tokenizer=tokenizer)
    source, window = opened.source, opened.position.window.current
    if output_dir is not None:
        check_output(
            Path(output_dir), overwrite=overwrite, inputs=(source.folder,), may_lie_inside=True
        )
    files = _languages(data)
    against = _reference(reference, files, data)
    texts = {language: _text(path, field) for language, path in files.items()}
    loaded = tokenizer_of(opened, trust_remote_code=trust_remote_code)
    unknown = {loaded.unk_token_id} - {None}
    costs: dict[str, TextCost] = {}
    for done, (language, text) in enumerate(texts.items(), start=1):
        # No BOS: it is there once a window, and no cost of the language.
        with tokenizer_errors(opened.tokens_from.name):
            ids = loaded(text, add_special_tokens=False, verbose=False)["input_ids"]
        if not ids:
            raise BadInput(f"the tokenizer of {source.name} gives no token for {language}")
        costs[language] = text_cost(text, ids, unknown)
        on_progress("texts", done, len(texts), language)
    result = FertilityResult(
        model=source.name,
        reference=against,
        window=window,
        results=tuple(
            _row(files[language].name, language, cost, costs.get(against or ""), window)
            for language, cost in costs.items()
        ),
        output_dir=str(output_dir) if output_dir else None,
        warnings=tuple(dict.fromkeys([*opened.warnings, *_lost(costs, against)])),
        tokenizer=opened.tokenizer.name if opened.tokenizer else None,
    )
    if output_dir is not None:
        _write(result, Path(output_dir), overwrite, source, files)
    return result


def _languages(data: str) -> dict[str, Path]:
    """Map language to file; the language is the file's name up to its first dot.

    Raises:
        BadInput: no files, or two of one language.
    """
    if data.startswith(("builtin:", "hf:")):
        raise BadInput(f"--data {data} is no folder", "give a folder with one file a language")
    files: dict[str, Path] = {}
    for path in text_files(data):
        language = path.name.split(".")[0] or path.name
        if language in files:
            raise BadInput(
                f"--data {data} has two files of '{language}': {files[language].name}, {path.name}",
                "give each text a name of its own",
            )
        files[language] = path
    return files


def _reference(wanted: str | None, files: Mapping[str, Path], data: str) -> str | None:
    if wanted is None:
        return next((name for name in files if name.lower() in _ENGLISH), None)
    for name, path in files.items():
        if wanted.lower() in (name.lower(), path.name.lower()):
            return name
    known = ", ".join(list(files)[:20]) + (", …" if len(files) > 20 else "")
    raise BadInput(f"--reference {wanted} is no text of --data {data}", f"it has: {known}")


def _text(path: Path, field: str) -> str:
    """Read a file's text; a replaced byte would be counted as something that nobody wrote.

    Raises:
        BadInput: empty, binary, damaged, or not UTF-8.
    """
    source = TextSource(str(path), field)
    text = "".join(piece.text for piece in source.pieces())
    if source.replaced:
        raise BadInput(f"--data {path.name} is not UTF-8 text", "convert it, e.g. with iconv")
    return text


def _row(
    name: str, language: str, cost: TextCost, against: TextCost | None, window: int
) -> FertilityRow:
    return FertilityRow(
        text=name,
        language=language,
        characters=cost.characters,
        bytes=cost.bytes,
        words=cost.words,
        tokens=cost.tokens,
        unknown=cost.unknown,
        tokens_per_character=cost.tokens_per_character,
        tokens_per_byte=cost.tokens_per_byte,
        tokens_per_word=cost.tokens_per_word,
        against_reference=cost.tokens / against.tokens if against else None,
        window_characters=cost.window_characters(window),
    )


def _lost(costs: Mapping[str, TextCost], reference: str | None) -> list[str]:
    warnings = []
    if lost := {name: cost for name, cost in costs.items() if cost.unknown}:
        worst = sorted(lost, key=lambda name: -lost[name].unknown / lost[name].tokens)
        shares = ", ".join(
            f"{n} {lost[n].unknown:,} ({100 * lost[n].unknown / lost[n].tokens:.0f} %)"
            for n in worst[:8]
        ) + (", …" if len(worst) > 8 else "")
        warnings.append(
            f"the tokenizer does not know all of {len(lost)} texts, whose unknown tokens look "
            f"cheap and lose what was written: {shares}"
        )
    if reference is None and len(costs) > 1:
        warnings.append(
            "no text is named en, eng or english, so nothing is compared: --reference names one"
        )
    return warnings


def _write(
    result: FertilityResult, out: Path, overwrite: bool, source: Source, files: Mapping[str, Path]
) -> None:
    inputs = (source.folder,)
    with staged_folder(out, overwrite=overwrite, inputs=inputs, may_lie_inside=True) as folder:
        document = {k: v for k, v in result.to_dict().items() if k != "output_dir"}
        (folder / DOCUMENT).write_text(dump_json(document), encoding="utf-8")
        for suffix in ("png", "svg"):
            plot_fertility(
                folder / f"fertility.{suffix}", result.results, model=result.model,
                reference=result.reference, window=result.window,
            )  # fmt: skip
        write_record(
            folder,
            {
                "schema": SCHEMA,
                "kind": "fertility",
                "versions": versions(),
                "base": base_record(source),
                "texts": {path.name: sha256_of(path) for path in files.values()},
                "evaluations": [DOCUMENT],
                "command": command_line(),
            },
        )
