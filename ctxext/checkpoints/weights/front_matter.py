"""Read what the front matter of a README.md says: the license and languages of a checkpoint.

Entry by entry: what a stranger wrote into another one, broken or not, is none of our business.
"""

import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ctxext.checkpoints.weights.files import inside
from ctxext.errors import BadInput
from ctxext.runs.checked import printable_text

_README_BYTES = 2**20  # the front matter is at the top
_LICENSE_KEYS = ("license", "license_name", "license_link")
_ENTRY_LINES = 1000  # there are some 200 languages with a code
_TEXT = 1000  # characters


@dataclass(frozen=True)
class FrontMatter:
    """Entries of a model card that what is made of the model takes over.

    Attributes:
        license: `license`, `license_name` and `license_link`, as far as they are there.
        language: codes of languages.
        base_model: Hub id of what the model was made of.
        tags: words that the Hub is searched by.
    """

    license: Mapping[str, str] = field(default_factory=dict)
    language: tuple[str, ...] = ()
    base_model: str | None = None
    tags: tuple[str, ...] = ()


def read_front_matter(folder: Path) -> FrontMatter:
    """Read the front matter of a folder's README.md; empty where there is none."""
    entries = _entries(_readme(folder))
    licenses = {key: _single(entries.get(key, ())) for key in _LICENSE_KEYS}
    return FrontMatter(
        license={key: value for key, value in licenses.items() if value is not None},
        language=entries.get("language", ()),
        base_model=_single(entries.get("base_model", ())),
        tags=entries.get("tags", ()),
    )


def _single(texts: tuple[str, ...]) -> str | None:
    return texts[0] if len(texts) == 1 else None


def _entries(readme: str) -> dict[str, tuple[str, ...]]:
    """Split a front matter into its entries, and read the texts of each."""
    lines = readme.splitlines()
    if not lines or lines[0].strip() != "---":
        return {}
    blocks: dict[str, list[str]] = {}
    block: list[str] = []
    for line in lines[1:]:
        if line.strip() == "---":
            break
        if begin := re.match(r"([a-z_]+):(\s|$)", line):
            block = blocks.setdefault(begin[1], [])
            if block:  # said twice: the first counts
                block = []
        if len(block) < _ENTRY_LINES:
            block.append(line)
    wanted = (*_LICENSE_KEYS, "language", "base_model", "tags")
    return {key: _texts("\n".join(blocks[key])) for key in wanted if key in blocks}


def _texts(block: str) -> tuple[str, ...]:
    """Read `key: text`, or a list of texts; nothing where it is neither."""
    import yaml  # where there is a README to read: most of what `extend` takes is its start

    try:
        # All scalars are texts for this loader: for others the language `no` is a false.
        value = next(iter(yaml.load(block, yaml.BaseLoader).values()))  # noqa: S506, only texts
    except (yaml.YAMLError, RecursionError, AttributeError, ValueError):
        return ()
    texts = value if isinstance(value, list) else [value]
    cleaned = [" ".join(printable_text(t).split()) for t in texts if isinstance(t, str)]
    return tuple(text for text in cleaned if 0 < len(text) <= _TEXT)


def _readme(folder: Path) -> str:
    """Read the beginning of README.md; nothing where it is no file of the folder."""
    try:
        path = inside(folder, "README.md", what="the checkpoint")
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for without end
            return ""
        with path.open("rb") as file:
            return file.read(_README_BYTES).decode("utf-8", "replace")
    except (BadInput, OSError):
        return ""
