"""What a published model calls its base: something that others can load, never a folder of here."""

import re
from dataclasses import dataclass
from pathlib import Path

from ctxext.checkpoints.folder import check_repo_id
from ctxext.checkpoints.weights.front_matter import FrontMatter, read_front_matter
from ctxext.errors import BadInput
from ctxext.runs.rows.record import BaseCheckpoint, RunRecord

_SHA = re.compile(r"[0-9a-f]{40}")
CARD_TAG = "ctxext"
"""The tag of every card that ctxext writes."""


@dataclass(frozen=True)
class HubModel:
    """A repository of the Hub, at a commit where one is known."""

    id: str
    revision: str | None = None


def check_base_model(name: str) -> list[str]:
    """Check that `--base-model` can be a repository; warn where a folder here is called so too.

    Raises:
        BadInput: it cannot.
    """
    if not _is_base_model(name):
        raise BadInput(f"--base-model {name!r} is no Hub id", "write it as org/name")
    if Path(name).exists():
        return [f"--base-model {name} is a folder here too; what is published names the Hub's"]
    return []


def earlier_card(folder: Path) -> FrontMatter:
    """Read the front matter of the card that an earlier push left here; empty where none did."""
    card = read_front_matter(folder)
    return card if CARD_TAG in card.tags else FrontMatter()


def kept_base(record: RunRecord, earlier: FrontMatter) -> str | None:
    """Return the base that an earlier card names and the record does not: `--base-model` then."""
    before = earlier.base_model
    if before is None or not _is_base_model(before) or before == card_base(record, None):
        return None
    return before


def card_base(record: RunRecord, given: str | None) -> str | None:
    """Choose the base of the card's front matter: before any extension, if it is on the Hub."""
    if given is not None:
        return given
    hub = _from_hub(record.extended_from) or _from_hub(record.base)
    return hub.id if hub else None


def adapter_base(record: RunRecord, given: str | None, repo_id: str) -> HubModel:
    """Choose the base that a published adapter names.

    What was trained on comes first, then what that was extended from, and last the repository that
    the adapter is published in, which holds the extended model.

    Args:
        record: the ctxext.json of the checkpoint beside the adapter.
        given: `--base-model`.
        repo_id: where all of it goes.

    Raises:
        BadInput: none of them has a name that others can load.
    """
    if given is not None:
        return HubModel(given)
    hub = _from_hub(record.base) or _from_hub(record.extended_from)
    if hub is not None:
        return hub
    if "/" not in repo_id:  # such a name alone would be another repository
        raise BadInput(
            "the adapter's base is a folder here, which nobody else can load",
            "name it on the Hub with --base-model ORG/NAME, or say whose repository this is: "
            f"--repo-id OWNER/{repo_id}",
        )
    return HubModel(repo_id)


def _from_hub(checkpoint: BaseCheckpoint | None) -> HubModel | None:
    """Return a record's checkpoint if it came from the Hub: only then it has a commit.

    By its name alone a folder (`runs/ext`) could pass for a repository of somebody else.
    """
    if checkpoint is None or checkpoint.id is None or checkpoint.revision is None:
        return None
    name, revision = checkpoint.id, checkpoint.revision
    return HubModel(name, revision) if _is_repo_id(name) and _SHA.fullmatch(revision) else None


def _is_base_model(name: str) -> bool:
    return _is_repo_id(name) and name.count("/") == 1


def _is_repo_id(name: str) -> bool:
    try:
        check_repo_id(name)
    except BadInput:
        return False
    return True
