"""What text costs in each language, in one tokenizer and in several."""

from collections.abc import Sequence

from ctxext.report.tables.pivot import Across, Down, Table, pivot
from ctxext.report.tables.text import shown
from ctxext.runs.rows.fertility import FertilityResult, FertilityRow


def fertility_table(rows: Sequence[FertilityRow], *, reference: str | None) -> Table:
    """Show one line for each text, the one that fills the window soonest last."""
    ordered = sorted(rows, key=lambda row: (-row.window_characters, row.language))
    columns = ["language", "tokens", "per character", "per byte", "per word"]
    if reference is not None:
        columns.append(f"against {reference}")
    columns.append("characters in the window")
    unknown = any(row.unknown for row in rows)
    return (
        [*columns, *(["unknown tokens"] if unknown else [])],
        [
            [
                row.language,
                f"{row.tokens:,}",
                shown(row.tokens_per_character, ".3f"),
                shown(row.tokens_per_byte, ".3f"),
                # A script without spaces has no words to count.
                "no spaces" if row.words is None else shown(row.tokens_per_word, ".2f"),
                *([shown(row.against_reference, ".2f")] if reference is not None else []),
                f"{row.window_characters:,}",
                *([f"{row.unknown or 0:,}"] if unknown else []),
            ]
            for row in ordered
        ],
    )


def fertility_comparison(documents: Sequence[FertilityResult]) -> Table:
    """Show several tokenizers: one line for each language, the window in characters of each."""
    names = _distinct([document.model for document in documents])
    named = zip(names, documents, strict=True)
    return pivot(
        [(name, row) for name, document in named for row in document.results],
        down=Down(lambda pair: pair[1].language, ["language"]),
        across=Across(lambda pair: pair[0], names, str),
        cell=lambda pair: _window(pair[1]),
    )  # fmt: skip


def _window(row: FertilityRow) -> str:
    return f"{row.window_characters:,} ({shown(row.tokens_per_character, '.2f')})"


def _distinct(names: Sequence[str]) -> list[str]:
    out: list[str] = []
    for name in names:
        while name in out:
            name += "'"
        out.append(name)
    return out
