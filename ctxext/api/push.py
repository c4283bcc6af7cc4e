"""`ctxext push`: a finished run, with a card made of what was measured, to the Hub."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import yaml

from ctxext.api import perplexity, retrieval
from ctxext.api._arguments import checked, several
from ctxext.checkpoints.live.tokenizer import missing_tokenizer
from ctxext.checkpoints.opened import open_checkpoint
from ctxext.checkpoints.provenance import check_record, read_record
from ctxext.checkpoints.weights.carry import TOKENIZER_FOLDERS, listing
from ctxext.checkpoints.weights.files import ADAPTER_CONFIG, INDEX, Weights, read_weights
from ctxext.checkpoints.weights.front_matter import FrontMatter
from ctxext.errors import BadInput, about_its_path
from ctxext.progress import Progress, silent
from ctxext.release.card import CardFacts, model_card
from ctxext.release.published_base import (
    HubModel,
    adapter_base,
    card_base,
    check_base_model,
    earlier_card,
    kept_base,
)
from ctxext.release.upload import Item, Repository, upload
from ctxext.runs.json_file import dump_json, read_json_object
from ctxext.runs.output import MARK, write_file
from ctxext.runs.rows.perplexity import PerplexityResult
from ctxext.runs.rows.record import RunRecord
from ctxext.runs.rows.retrieval import RetrievalResult
from ctxext.runs.rows.row import Document, Identity, Row
from ctxext.runs.run_documents import read_document

CARD = "README.md"
_PICTURES = {perplexity.KIND: "perplexity.png", retrieval.KIND: "retrieval.png"}


@dataclass(frozen=True)
class PushedFile(Row):
    """A file of the repository, and how large it is."""

    path: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class PushResult(Document):
    """What `ctxext push` did, or would do (`dry_run`)."""

    schema: ClassVar[str] = "ctxext.push/1"
    repo_id: str
    url: str | None
    card: str
    files: tuple[PushedFile, ...]
    private: bool
    dry_run: bool
    warnings: tuple[str, ...] = ()


@checked
def push(
    run: str | Path,
    *,
    repo_id: str,
    private: bool = False,
    revision: str | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
    base_model: str | None = None,
    evaluations: str | Path | Sequence[str | Path] = (),
    token: str | None = None,
    dry_run: bool = False,
    on_progress: Progress = silent,
) -> PushResult:
    """Upload a run: weights, config and tokenizer at the top, the adapter in `adapter/`, a card.

    The card's numbers come from the run's `ctxext.json` and from the evaluations in the run
    folder, or one folder below, that measured exactly this checkpoint; it shows this model and its
    base.

    Args:
        run: what `finetune`, `merge` or `extend` wrote.
        repo_id: `name` or `org/name`; made when it does not exist.
        base_model: Hub id of the base, where the run was made from a local copy; None = the one of
            the card that an earlier push left in `run`.
        evaluations: folders of evaluations to take instead, with every model that they measured.
        token: None = HF_TOKEN or the stored login; never written anywhere.
        dry_run: write the card into the run folder and list the files only.

    Raises:
        BadInput: not a run, not finished, no right to write.
        CtxextError: the checkpoint is not what its record says, or the network failed.
    """
    _check_repo_id(repo_id)
    folder = Path(run)
    checkpoint, record = _checkpoint(folder)
    weights = read_weights(checkpoint)
    opened = open_checkpoint(str(checkpoint))
    check_record(opened.position, record)
    warnings = [*opened.warnings, *missing_tokenizer(opened.source)]
    earlier = earlier_card(folder)
    base_model = _named_base(record, base_model, earlier, warnings)
    named = _named_folders(several(evaluations))
    measured = _evaluations(named or _folders(folder, checkpoint), opened.identity, warnings)
    if not any(each.kind == perplexity.KIND for each in measured):
        warnings.append(
            f'no evaluation in {folder}, so the card says "not measured"; make one: ctxext '
            f"eval-ppl BASE {checkpoint} --data FILE --output-dir {folder}/eval"
        )
    adapter = folder / "adapter" if (folder / "adapter" / ADAPTER_CONFIG).exists() else None
    facts = CardFacts(
        repo_id=repo_id,
        record=_with_terms(record, earlier),
        identity=opened.identity,
        evaluations=[d for e in measured if isinstance(d := e.document, PerplexityResult)],
        retrievals=[d for e in measured if isinstance(d := e.document, RetrievalResult)],
        base_model=card_base(record, base_model),
        adapter=adapter is not None,
        plots=[e.picture for e in measured if e.kind == perplexity.KIND and e.has_plot],
        heat_maps=[e.picture for e in measured if e.kind == retrieval.KIND and e.has_plot],
        others=bool(named),
        places=_places(folder, checkpoint, named),
    )
    warnings += _of_names(facts)
    card = model_card(facts)
    write_file(folder / CARD, card)
    items = _items(folder, weights, record, measured)
    if adapter is not None:
        base = adapter_base(record, base_model, repo_id)
        if base.id == repo_id:
            warnings.append(
                "the adapter names this repository as its base, where it is merged in already: "
                "--base-model ORG/NAME names the weights that it was trained on"
            )
        items += _adapter_items(adapter, base)
    items.append(Item(CARD, card.encode()))
    repository = Repository(repo_id, private, revision, create_pr, token)
    message = commit_message or "Upload with ctxext"
    url = None if dry_run else upload(items, repository, message=message, on_progress=on_progress)
    return PushResult(
        repo_id=repo_id,
        url=url,
        card=str(folder / CARD),
        files=tuple(PushedFile(item.path, item.bytes) for item in items),
        private=private,
        dry_run=dry_run,
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _check_repo_id(repo_id: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise BadInput(
            f"--repo-id {repo_id!r} is no name of a repository", "e.g. --repo-id you/Model-32k"
        ) from error


def _named_base(
    record: RunRecord, given: str | None, earlier: FrontMatter, warnings: list[str]
) -> str | None:
    """Return the base that `--base-model` names, or named for the card of an earlier push."""
    if given is not None:
        warnings += check_base_model(given)
        return given
    kept = kept_base(record, earlier)
    if kept is not None:
        warnings.append(
            f"the base stays {kept}, as in the earlier card; --base-model names another"
        )
    return kept


def _with_terms(record: RunRecord, earlier: FrontMatter) -> RunRecord:
    """Take license and languages from the earlier card where the record has none."""
    return replace(
        record,
        license=record.license or earlier.license,
        language=record.language or earlier.language,
    )


def _named_folders(evaluations: Sequence[str]) -> list[Path]:
    for each in evaluations:
        if not Path(each).is_dir():
            raise BadInput(f"--eval {each} is no folder")
    return [Path(each) for each in evaluations]


def _of_names(facts: CardFacts) -> list[str]:
    """Warn of names that others will miss."""
    warnings = []
    if facts.base_model is None:
        warnings.append("the base is a local folder: --base-model ORG/NAME links the card to it")
    if facts.is_llama and not facts.name.lower().startswith("llama"):
        warnings.append(
            f"Llama's license asks for a name that begins with Llama, not {facts.name!r}"
        )
    return warnings


@about_its_path
def _checkpoint(run: Path) -> tuple[Path, RunRecord]:
    """Find the folder of a run that is published, and its record."""
    record = read_record(run) if run.is_dir() else None
    if record is None:
        raise BadInput(
            f"{run} has no {MARK}, so it is no run of ctxext",
            "give the folder that ctxext finetune, merge or extend wrote",
        )
    if record.kind in ("extend", "merge"):
        return run, _complete(run, record)
    if record.kind != "finetune":
        raise BadInput(f"{run} is a {record.kind} folder, which is not pushed")
    merged = run / "merged"
    of_merged = read_record(merged) if merged.is_dir() else None
    if of_merged is None:
        raise BadInput(
            f"{run} has no merged checkpoint: the run was stopped before its last step",
            "finish it with ctxext finetune --resume",
        )
    return merged, _complete(merged, of_merged)


@about_its_path
def _complete(folder: Path, record: RunRecord) -> RunRecord:
    """Return the record, if it has what a card cannot be without."""
    for key, value in (("base", record.base), ("window", record.window)):
        if value is None:
            raise BadInput(
                f"{folder / MARK} has no {key}, so the card cannot say what was made of what",
                "make the checkpoint again",
            )
    return record


@dataclass(frozen=True)
class _Evaluation:
    """An evaluation's folder; `prefix` keeps the names of several apart in the repository."""

    kind: str
    folder: Path
    document: PerplexityResult | RetrievalResult
    prefix: str

    @property
    def has_plot(self) -> bool:
        return (self.folder / _PICTURES[self.kind]).exists()

    @property
    def picture(self) -> str:
        return f"{self.prefix}{_PICTURES[self.kind]}"


def _folders(run: Path, checkpoint: Path) -> list[Path]:
    """List where evaluations of a run may lie: in it, in its checkpoint, or one folder below."""
    below = [path for home in (run, checkpoint) for path in sorted(home.iterdir())]
    return list(dict.fromkeys([run, *(path for path in below if path.is_dir())]))


def _places(run: Path, checkpoint: Path, evaluations: Sequence[Path]) -> str:
    """Say where `_folders` looks, as the end of a sentence."""
    if evaluations:
        return "in a folder that --eval names"
    if checkpoint == run:
        return "in the pushed folder, or in a folder directly in it"
    return (
        "in the pushed folder, in a folder directly in it, or in one directly in its "
        f"{checkpoint.name}/"
    )


def _evaluations(
    folders: Sequence[Path], identity: Identity, warnings: list[str]
) -> list[_Evaluation]:
    """Read every evaluation in these folders that measured this checkpoint."""
    evaluations: list[_Evaluation] = []
    for folder, kind in itertools.product(folders, _PICTURES):
        name = f"{kind}.json"
        if not (folder / name).exists():
            continue
        try:
            document = read_document(folder, kind)
        except BadInput as error:
            warnings.append(f"{error}: left out")
            continue
        if not isinstance(document, PerplexityResult | RetrievalResult):
            continue
        if not any(Identity.of(row).same_files(identity) for row in document.results):
            warnings.append(
                f"{folder.name}/{name} did not measure this checkpoint as it is now: left out"
            )
            continue
        before = sum(each.kind == kind for each in evaluations)
        evaluations.append(_Evaluation(kind, folder, document, f"{before + 1}-" if before else ""))
    return evaluations


def _items(
    run: Path,
    weights: Weights,
    record: RunRecord,
    evaluations: list[_Evaluation],
) -> list[Item]:
    """List everything that goes up but the adapter and the card."""
    items = [Item(path, weights.folder / path) for path in _published(weights)]
    recipe = (record.document.get("training") or {}).get("recipe")
    if recipe:  # as recorded: the text by its name, not by where it lies on this machine
        text = yaml.safe_dump(recipe, sort_keys=False)
        items.append(Item("recipe.yaml", text.encode()))
    if (run / "log.jsonl").exists():
        items.append(Item("log.jsonl", run / "log.jsonl"))
    for evaluation in evaluations:
        name = f"{evaluation.kind}.json"
        items.append(Item(f"{evaluation.prefix}{name}", evaluation.folder / name))
        if evaluation.has_plot:
            picture = evaluation.folder / _PICTURES[evaluation.kind]
            items.append(Item(evaluation.picture, picture))
    return items


def _published(weights: Weights) -> list[str]:
    """List a checkpoint's files, without stale weights and a stray adapter: they are not read."""
    unread = {CARD, ADAPTER_CONFIG, *(() if weights.index is not None else (INDEX,))}
    return [
        path
        for path in listing(weights.folder)
        if path in weights.shards
        or (
            ("/" not in path or path.partition("/")[0] in TOKENIZER_FOLDERS)
            and path not in unread
            and not path.endswith(".safetensors")
        )
    ]


def _adapter_items(adapter: Path, base: HubModel) -> list[Item]:
    """List the adapter's files, its config with a base that others can load."""
    config, _ = read_json_object(adapter / ADAPTER_CONFIG)
    config |= {"base_model_name_or_path": base.id, "revision": base.revision}
    items = [Item(f"adapter/{path}", adapter / path) for path in listing(adapter)]
    text = Item(f"adapter/{ADAPTER_CONFIG}", dump_json(config).encode())
    return [text if item.path == text.path else item for item in items]
