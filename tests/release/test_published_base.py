"""The base that a published adapter and a card name: others can load it, whatever it is here."""

import pytest

from ctxext.errors import BadInput
from ctxext.release.published_base import HubModel, adapter_base, card_base, check_base_model
from ctxext.runs.rows.record import BaseCheckpoint, RunRecord

SHA = "0123456789abcdef0123456789abcdef01234567"
HUB = {"id": "org/base", "revision": SHA}
EXTENDED_HUB = {"id": "org/base-32k", "revision": SHA[::-1]}
FOLDER = {"id": "ext", "revision": None}
LOOKALIKE = {"id": "runs/ext", "revision": None}


def recorded(base, extended_from=None):
    before = BaseCheckpoint(**extended_from) if extended_from else None
    return RunRecord(base=BaseCheckpoint(**base), extended_from=before)


@pytest.mark.parametrize(
    ("base", "extended_from", "given", "adapter", "card"),
    [
        (FOLDER, HUB, None, HubModel("org/base", SHA), "org/base"),
        (HUB, None, None, HubModel("org/base", SHA), "org/base"),
        (EXTENDED_HUB, HUB, None, HubModel("org/base-32k", SHA[::-1]), "org/base"),
        (EXTENDED_HUB, FOLDER, None, HubModel("org/base-32k", SHA[::-1]), "org/base-32k"),
        (FOLDER, HUB, "a/b", HubModel("a/b"), "a/b"),
        (FOLDER, FOLDER, None, HubModel("me/x"), None),
        (LOOKALIKE, LOOKALIKE, None, HubModel("me/x"), None),
        ({"id": "../up/ext", "revision": SHA}, None, None, HubModel("me/x"), None),
        ({"id": "org/base", "revision": "main"}, None, None, HubModel("me/x"), None),
        ({"id": None, "revision": SHA}, None, None, HubModel("me/x"), None),
        ({"id": "gpt2", "revision": SHA}, None, None, HubModel("gpt2", SHA), "gpt2"),
    ],
)
def test_only_what_came_from_the_hub_is_named(base, extended_from, given, adapter, card):
    record = recorded(base, extended_from)
    assert adapter_base(record, given, "me/x") == adapter
    assert card_base(record, given) == card


def test_a_repository_without_an_owner_cannot_name_itself():
    with pytest.raises(BadInput, match="nobody else can load") as caught:
        adapter_base(recorded(FOLDER), None, "x")
    assert "--base-model" in caught.value.hint
    assert adapter_base(recorded(HUB), None, "x") == HubModel("org/base", SHA)


def test_base_model_is_a_repository(tmp_path, monkeypatch):
    for name in ("base", "./runs/ext", "../ext", "/home/me/base", "a/b/c", "a..b/c", "a/b.git", ""):
        with pytest.raises(BadInput, match="no Hub id"):
            check_base_model(name)
    assert check_base_model("org/base") == []
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "ext").mkdir(parents=True)
    (warning,) = check_base_model("runs/ext")
    assert "is a folder here too" in warning
