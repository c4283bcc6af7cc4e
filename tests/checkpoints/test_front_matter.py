"""Entries of a README's front matter, as people write them."""

import pytest

from ctxext.checkpoints.weights.front_matter import read_front_matter


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("language: en", ("en",)),
        ("language: no", ("no",)),
        ("language: [en, 'zh-Hant']  # two", ("en", "zh-Hant")),
        ("language:\n- en\n- no", ("en", "no")),
        ("language:\n  - en\n\n  - de", ("en", "de")),
        ("language:", ()),
        ("language:\n  en: 1", ()),
        ("language: [en", ()),
        ("language: *en", ()),
        ("languages: en", ()),
        ("language: " + "[" * 20_000, ()),
    ],
)
def test_languages(tmp_path, text, language):
    (tmp_path / "README.md").write_text(
        f'---\nbroken: [\nlicense: "mit" # ours\n{text}\nbase_model:\n- a/b\n---\nlicense: x\n'
    )
    card = read_front_matter(tmp_path)
    assert card.language == language
    assert card.license == {"license": "mit"}
    assert card.base_model == "a/b"


def test_several_bases_are_no_base(tmp_path):
    (tmp_path / "README.md").write_text("---\nbase_model: [a/b, c/d]\nlicense_link: LICENSE\n---\n")
    card = read_front_matter(tmp_path)
    assert card.base_model is None
    assert card.license == {"license_link": "LICENSE"}
    (tmp_path / "README.md").write_text("# no front matter\nlicense: mit\n")
    assert not read_front_matter(tmp_path).license
