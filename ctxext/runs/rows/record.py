"""What report, card, merge and resume may believe of a ctxext.json."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ctxext.runs.build import from_document
from ctxext.runs.checked import Broken, excerpt
from ctxext.runs.fields import MOST_TOKENS, bounded
from ctxext.runs.rows.row import SHA256, Row, Windows, Word
from ctxext.runs.rows.training import ValidationSummary, shown_loss

_COMMIT = "[0-9a-f]{7,64}"


@dataclass(frozen=True, kw_only=True)
class BaseCheckpoint(Row):
    """The checkpoint that something was made of; `revision` is a commit of the Hub."""

    id: str | None = None
    revision: str | None = bounded(None, matches=_COMMIT)
    config_sha256: str | None = bounded(None, matches=SHA256)
    index_sha256: str | None = bounded(None, matches=SHA256)


@dataclass(frozen=True, kw_only=True)
class RecordedLora(Row):
    """What was trained, of the recipe's section `lora`."""

    rank: int | None = None
    alpha: float | None = None
    targets: tuple[str, ...] = ()
    train_norms: bool = False
    train_embeddings: bool = False


@dataclass(frozen=True, kw_only=True)
class RecordedTrain(Row):
    """How it was trained, of the recipe's section `train`."""

    what: Word = None
    seq_length: int | None = None
    batch_size: int | None = None
    gradient_accumulation: int | None = None
    lr: float | None = None
    schedule: Word = None
    seed: Word = None


@dataclass(frozen=True, kw_only=True)
class RecordedRecipe(Row):
    """The sections of a recipe that a card tells of."""

    lora: RecordedLora = field(default_factory=RecordedLora)
    train: RecordedTrain = field(default_factory=RecordedTrain)


@dataclass(frozen=True, kw_only=True)
class RecordedText(Row):
    """The text that was trained on."""

    source: str = ""


@dataclass(frozen=True, kw_only=True)
class RecordedStage(Row):
    """One of several stages of a training run."""

    steps: int
    tokens: int
    final_loss: float | None = None
    window: int | None = bounded(None, least=1, most=MOST_TOKENS)
    method: str | None = None
    seq_length: int | None = bounded(None, least=1, most=MOST_TOKENS)
    lr: float | None = None


@dataclass(frozen=True, kw_only=True)
class Training(Row):
    """A summary of training; tokens and steps are of all stages.

    `base_weights` is the `sample_sha256` of the checkpoint that was given.
    """

    steps: int
    tokens: int = 0
    final_loss: float | None = None
    mean_loss: float | None = None
    validation: ValidationSummary | None = None
    recipe: RecordedRecipe | None = None
    data: RecordedText = field(default_factory=RecordedText)
    stages: tuple[RecordedStage, ...] = ()
    base_weights: str | None = bounded(None, matches=SHA256)

    @property
    def headline(self) -> str:
        """The loss that one number may stand for: validation's, or a mean; old records have one."""
        measured = self.validation
        if measured is not None:
            result = measured.best if measured.kept else measured.last
            first, after = shown_loss(measured.first.loss), shown_loss(result.loss)
            return f"validation loss {first} before, {after} after"
        if self.mean_loss is not None:
            return f"loss {self.mean_loss:.4f}, mean of the last tenth of the steps"
        return (
            "loss not recorded" if self.final_loss is None else f"last loss {self.final_loss:.4f}"
        )


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A ctxext.json as it was read: what was made of what.

    Attributes:
        kind: the command, or what is left of it (`stage`, `adapter`).
        finished: False = numbers are missing yet.
        extended_from: the base before any extension.
        license: `license`, `license_name` and `license_link`, as far as the base's card has them.
        language: codes of languages, as the base's card has them.
        config_diff: key of the config -> [before, after].
        unscaled: key of the config, or FILE.KEY -> what it was before the first extension.
        folded_attention_factor: what is in the weights of the attention factor, beside what the
            config says; None = nothing is.
        document: the whole object as it is written, for who hands parts of it on.
    """

    kind: str | None = None
    finished: bool = True
    versions: Mapping[str, str] = field(default_factory=dict)
    base: BaseCheckpoint | None = None
    model_type: str | None = None
    extended_from: BaseCheckpoint | None = None
    window: Windows | None = None
    method: str | None = None
    parameters: Any = None
    license: Mapping[str, str] = field(default_factory=dict)
    language: tuple[str, ...] = ()
    config_diff: Mapping[str, Any] | None = None
    unscaled: Mapping[str, Any] | None = None
    training: Training | None = None
    command: str = ""
    extend_command: str = ""
    folded_attention_factor: float | None = bounded(None, above=0)
    document: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RunRecord":
        """Read a record, every value checked but `rope`, `parameters` and what nobody knows.

        Raises:
            Broken: the place of a wrong value, and what stands there.
        """
        known = {**values, "document": values}
        training = values.get("training")
        if isinstance(training, Mapping) and training.get("recipe") is None:
            # The embedded base has stages of another kind.
            known["training"] = {key: v for key, v in training.items() if key != "stages"}
        record = from_document(cls, known)
        pairs = (record.config_diff or {}).values()
        if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
            raise Broken(f"config_diff is {excerpt(values['config_diff'])}")
        return record
