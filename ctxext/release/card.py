"""The model card: what was done and what was measured, from the records only.

Front matter as the Hub reads it, then the sections of `card.md.jinja`, always the same; one without
numbers says "not measured". Reads no file but its template, and asks no network.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import TYPE_CHECKING

from ctxext.checkpoints.lab_decoder.model_type import MODEL_TYPE
from ctxext.engines.notes import engine_notes, first_transformers, serve_commands
from ctxext.lengths import show_length
from ctxext.methods import METHODS
from ctxext.release.markdown import code_line, escape_markdown, markdown_code, markdown_table
from ctxext.release.published_base import CARD_TAG
from ctxext.report.findings.collected import findings
from ctxext.report.findings.groups import RetrievalGroup, Run
from ctxext.report.tables.pivot import Across, Down, Table, pivot
from ctxext.report.tables.retrieval import (
    accuracy_table,
    choice_table,
    effective_table,
    threshold_words,
)
from ctxext.report.tables.text import perplexity, shown
from ctxext.report.tables.training import config_value
from ctxext.runs.recipe.config import FULL, HEADS, LORA, ROWS, TEMPERATURE
from ctxext.runs.rows.perplexity import LengthRow, PerplexityResult
from ctxext.runs.rows.record import (
    BaseCheckpoint,
    RecordedRecipe,
    RunRecord,
    Training,
)
from ctxext.runs.rows.retrieval import CellRow, RetrievalResult
from ctxext.runs.rows.row import Identity

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

_TEMPLATE = "card.md.jinja"
# What `train.what` trained, to follow "fine-tuned".
_TRAINED = {
    LORA: "with LoRA",
    FULL: "in all its weights",
    ROWS: "in rows of its position table alone",
    TEMPERATURE: "in one factor on its attention scores alone",
    HEADS: "in one factor on the scores of each attention head alone",
}


@dataclass(frozen=True)
class CardFacts:
    """What a card is made of.

    Attributes:
        record: the checkpoint's ctxext.json, with `base` and `window`.
        identity: of the checkpoint, as evaluations note it.
        evaluations, retrievals: eval-ppl and eval-retrieval documents that measured it.
        base_model: Hub id of the original base; None where it has none.
        adapter: whether `adapter/` is uploaded too.
        plots, heat_maps: pictures of these, uploaded beside the card.
        others: show every model that was measured, not this one and its base alone.
        places: where an evaluation is looked for, to end a sentence.
    """

    repo_id: str
    record: RunRecord
    identity: Identity
    evaluations: Sequence[PerplexityResult]
    base_model: str | None
    adapter: bool
    plots: Sequence[str]
    retrievals: Sequence[RetrievalResult] = ()
    heat_maps: Sequence[str] = ()
    others: bool = False
    places: str = ""

    @property
    def name(self) -> str:
        return self.repo_id.rpartition("/")[2]

    @property
    def origin(self) -> BaseCheckpoint:
        """The base before any extension."""
        return self.record.extended_from or self.record.base or BaseCheckpoint()

    @property
    def origin_name(self) -> str:
        return self.origin.id or "a checkpoint without a name"

    @property
    def original(self) -> int:
        return self.record.window.original if self.record.window else 0

    @property
    def target(self) -> int:
        return self.record.window.target if self.record.window else 0

    @property
    def method(self) -> str:
        return str(self.record.method)

    @property
    def is_static(self) -> bool:
        """Whether the scaling acts on short texts too."""
        method = METHODS.get(self.method)
        return method is None or method.static

    @property
    def of_rope(self) -> bool:
        """Whether the method scales a rope; an unknown one is taken for such."""
        method = METHODS.get(self.method)
        return method is None or method.of_rope

    @property
    def writes(self) -> str:
        """What of the checkpoint a method changed, beside the config of a rope; "" = nothing."""
        if not self.of_rope:
            return METHODS[self.method].writes
        return "" if self.record.folded_attention_factor is None else "the weights of the queries"

    @property
    def trained_how(self) -> str:
        """What was trained, to follow "fine-tuned"."""
        return _TRAINED.get(self._what, _TRAINED[LORA])

    @property
    def _what(self) -> str:
        recipe = self.trained.recipe if self.trained else None
        return str(recipe.train.what) if recipe and recipe.train.what else LORA

    @property
    def trained(self) -> Training | None:
        """The training, where there was a step of it."""
        training = self.record.training
        return training if training is not None and training.steps else None

    @property
    def config_table(self) -> Table:
        """Keys of the config, in the base and here."""
        pairs = (self.record.config_diff or {}).items()
        lines = [[key, config_value(old), config_value(new)] for key, (old, new) in pairs]
        return ["key", "base", "here"], lines

    @property
    def training_table(self) -> Table:
        """What a reader asks first of a training run."""
        training = self.trained or Training(steps=0, tokens=0)
        recipe = training.recipe or RecordedRecipe()
        lora, train = recipe.lora, recipe.train
        also = [n for n, on in (("norms", lora.train_norms), ("embeddings", lora.train_embeddings))
                if on]  # fmt: skip
        batch = (train.batch_size or 1) * (train.gradient_accumulation or 1)
        lines = [
            ["data", training.data.source or "not recorded"],
            ["sequence length", f"{train.seq_length or 0:,} tokens"],
            ["steps", f"{training.steps} of {batch} sequences a rank"],
            ["tokens", f"{training.tokens:,}"],
            ["nats/token", training.headline],
            ["learning rate", f"{train.lr} ({train.schedule})"],
            *(
                [
                    ["LoRA", f"rank {lora.rank}, alpha {lora.alpha}"],
                    ["on", ", ".join([*lora.targets, *also])],
                ]
                if self._what == LORA
                else [["train.what", self._what]]
            ),
            ["seed", str(train.seed)],
        ]
        return ["what", "value"], lines

    @property
    def stages_table(self) -> Table:
        """The stages of a training run, in their order."""
        columns = ["stage", "window", "method", "sequence length", "steps", "tokens", "lr", "loss"]
        stages = self.trained.stages if self.trained else ()
        return columns, [
            [
                str(number),
                shown(stage.window, ",.0f"),
                stage.method or "as the base",
                shown(stage.seq_length, ",.0f"),
                str(stage.steps),
                f"{stage.tokens:,}",
                str(stage.lr),
                shown(stage.final_loss, ".4f"),
            ]
            for number, stage in enumerate(stages, start=1)
        ]

    def perplexity_table(self, document: PerplexityResult) -> Table:
        """Show perplexity by length, and what the extension costs or brings."""
        rows = [row for row in document.results if self._is_shown(row)]
        lengths = sorted({row.length for row in rows})
        first: dict[tuple[str, int], LengthRow] = {}
        for row in rows:
            first.setdefault((self.label(row), row.length), row)
        columns, lines = pivot(
            first.items(), down=Down(lambda pair: pair[0][0], ["window length"]),
            across=Across(lambda pair: pair[0][1]), cell=lambda pair: perplexity(pair[1]),
            missing="",
        )  # fmt: skip
        return columns, lines + self._changes(rows, lengths)

    def _changes(self, rows: Sequence[LengthRow], lengths: Sequence[int]) -> list[list[str]]:
        """Write the line of changes at each length; none without a base."""
        known = [(row, row.perplexity) for row in rows if row.perplexity is not None]
        here = {row.length: value for row, value in known if self.is_this(row)}
        base = {row.length: value for row, value in known if self._is_base(row)}
        if not here or not base:
            return []
        changes = [
            f"{100 * (here[n] / base[n] - 1):+.1f} %" if n in here and n in base else ""
            for n in lengths
        ]
        return [["this model against its base", *changes]]

    def retrieval_group(self, document: RetrievalResult) -> RetrievalGroup:
        """Gather the rows of a document, models called by what they are to this one."""
        rows = [row for row in document.results if self._is_shown(row)]
        names = {row.model: self.label(row) for row in rows}
        return RetrievalGroup(
            "", document.window, document.threshold,
            results=[replace(row, model=names[row.model]) for row in rows],
            effective=[
                replace(row, model=names[row.model])
                for row in document.effective
                if row.model in names
            ],
        )  # fmt: skip

    @property
    def verdict(self) -> str | None:
        """What far text does to this model, and whether it is used; None where nothing says."""
        documents: list[PerplexityResult | RetrievalResult] = [*self.evaluations, *self.retrievals]
        runs = [Run(str(at), "", RunRecord(), each) for at, each in enumerate(documents)]
        ours = {row.model for each in documents for row in each.results if self.is_this(row)}
        told = findings(runs).verdicts
        return next((each.sentence for each in told if each.model in ours), None)

    def _is_shown(self, row: LengthRow | CellRow) -> bool:
        return self.others or self.is_this(row) or self._is_base(row)

    def _is_base(self, row: LengthRow | CellRow) -> bool:
        origin = self.origin.config_sha256
        return origin is not None and row.config_sha256 == origin

    def is_this(self, row: LengthRow | CellRow) -> bool:
        """Tell whether a row was measured on exactly this checkpoint."""
        return Identity.of(row).same_files(self.identity)

    def label(self, row: LengthRow | CellRow) -> str:
        """Name what a measured model is to this one, told by its config and record."""
        if self.is_this(row):
            return "this model"
        if self._is_base(row):
            return f"{row.model} (base)"
        if row.config_sha256 == self.identity.config_sha256 and self.record.training:
            return f"{row.model} (extended, not trained)"
        return row.model

    @property
    def first_transformers(self) -> str:
        return first_transformers(self.method, str(self.record.model_type))

    @property
    def is_lab(self) -> bool:
        """Whether it is the laboratory's decoder, whose class ctxext has and no engine."""
        return self.record.model_type == MODEL_TYPE

    @property
    def serve_commands(self) -> list[tuple[str, str]]:
        return [] if self.is_lab else serve_commands(self.repo_id, self.target)

    @property
    def engine_notes(self) -> list[str]:
        """What goes wrong in serving engines."""
        _, block = (self.record.config_diff or {}).get("rope_parameters") or [None, {}]
        block = block if isinstance(block, dict) else {}
        return engine_notes(self.method, block, self.target, str(self.record.model_type))

    @property
    def commands(self) -> list[str]:
        """The commands that made it; one where a recipe extended and trained."""
        return [c for c in dict.fromkeys([self.record.extend_command, self.record.command]) if c]

    @property
    def versions(self) -> str:
        return ", ".join(f"{name} {version}" for name, version in self.record.versions.items())

    @property
    def license_name(self) -> str | None:
        license = self.record.license
        return license.get("license_name") or license.get("license")

    @property
    def is_llama(self) -> bool:
        """Whether Llama's license asks that the name begins with "Llama"."""
        return (self.license_name or "").lower().startswith("llama")

    @property
    def papers(self) -> list[str]:
        method = METHODS.get(self.method)
        papers = [f"{method.name}: {method.paper}"] if method else []
        if self.trained and self._what == LORA:
            papers.append("LoRA: arXiv:2106.09685; LongLoRA (norms, embeddings): arXiv:2309.12307")
        return papers


def model_card(facts: CardFacts) -> str:
    """Write the whole README.md."""
    from huggingface_hub import ModelCard

    card = ModelCard.from_template(
        _card_data(facts),
        template_str=files("ctxext.release").joinpath(_TEMPLATE).read_text(encoding="utf-8"),
        facts=facts,
        text=lambda value: escape_markdown(str(value)),
        code=markdown_code,
        line=code_line,
        table=markdown_table,
        count="{:,}".format,
        length=show_length,
        shown=shown,
        accuracy_table=accuracy_table,
        choice_table=choice_table,
        effective_table=effective_table,
        threshold_words=threshold_words,
    )
    return str(card)


def _card_data(facts: CardFacts) -> "ModelCardData":
    from huggingface_hub import EvalResult, ModelCardData

    # The Hub keeps one entry for each task and data set; a window length is a metric of it.
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type="text",
            dataset_name=document.data.source,
            metric_type="perplexity",
            metric_name=f"perplexity at {row.length} tokens",
            metric_value=round(row.perplexity, 4),
            metric_args={"length": row.length, "tokens": row.tokens},
            dataset_args={"protocol": document.protocol, "stride": document.stride},
        )
        for document in facts.evaluations
        for row in document.results
        if facts.is_this(row) and row.perplexity is not None  # else it exploded there
    ]
    license: Mapping[str, str] = facts.record.license
    scaled = "rope-scaling" if facts.of_rope else None
    tags = ["long-context", "context-extension", scaled, facts.record.method, CARD_TAG]
    data = ModelCardData(
        base_model=facts.base_model,
        language=list(facts.record.language) or None,
        library_name="transformers",
        license=license.get("license"),
        license_name=license.get("license_name"),
        license_link=license.get("license_link"),
        metrics=["perplexity"] if results else None,
        pipeline_tag="text-generation",
        tags=[tag for tag in tags if tag],
        model_name=facts.name if results else None,
        eval_results=results or None,
    )
    if facts.base_model:  # without one on the Hub the relation would point nowhere
        data["base_model_relation"] = "finetune"
    return data
