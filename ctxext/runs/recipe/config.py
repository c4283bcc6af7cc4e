"""What a fine-tuning run is made of: one frozen dataclass per recipe section."""

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ctxext.errors import BadInput, shown
from ctxext.runs.build import as_written
from ctxext.runs.fields import MOST_TOKENS, TOKENS, bounded, check_bounds
from ctxext.runs.recipe.extend_config import ExtendConfig
from ctxext.runs.recipe.memory_config import MemoryConfig
from ctxext.runs.recipe.validation_config import ValidationConfig

ALL_LINEAR = "all-linear"
"""In `lora.targets`: every linear layer but the head."""
ATTENTION_OF_LLAMA = ("q_proj", "k_proj", "v_proj", "o_proj")
"""The matrices of attention, by the names that most families have for them."""
LLAMA_MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LORA, FULL, ROWS = "lora", "full", "position-rows"
TEMPERATURE, HEADS = "temperature", "head-temperature"
# Far above what anybody means, and far below what an estimate or a library stumbles over.
_MOST_STEPS, _MOST_ROWS, _MOST_TEXT = 10**9, 10**6, 10**15


@dataclass(frozen=True)
class SourceConfig:
    """One text among several.

    Attributes:
        source, field: as in `DataConfig`.
        weight: its share of the tokens read is weight / sum of all weights.
        min_tokens, max_tokens: only documents of such lengths, both included; 0 = no bound.
        tokens: only the first so many of the text; 0 = all.
    """

    source: str = ""
    weight: float = bounded(1.0, above=0, most=1e9)
    min_tokens: int = bounded(0, least=0, most=_MOST_TEXT, unit=TOKENS)
    max_tokens: int = bounded(0, least=0, most=_MOST_TEXT, unit=TOKENS)
    tokens: int = bounded(0, least=0, most=_MOST_TEXT, unit=TOKENS)
    field: str = "text"  # last: it hides the function above

    def __post_init__(self) -> None:
        as_written(self, "data.sources")
        name = "data.sources " + shown(self.source).strip("'")
        if not self.source:
            raise BadInput("an entry of data.sources has no source", "e.g. - source: book.txt")
        check_bounds(self, name)
        if self.max_tokens and self.max_tokens < self.min_tokens:
            raise BadInput(
                f"{name}: min_tokens {self.min_tokens} is above max_tokens {self.max_tokens}"
            )


@dataclass(frozen=True)
class DataConfig:
    """What is read: one text, or several (in a recipe `data:` may also be the list of them).

    Attributes:
        source: `--data`: file, folder, `hf:NAME[:config[:split[:field]]]` or `builtin:python`.
        field: the text's field in .jsonl and .parquet files.
        tokens: only the first so many of the one text; 0 = all.
        sources: several texts, in place of `source`.
        documents: `stream`: one stream of text, cut into rows, attention over the whole row;
            `separate`: attention stays inside documents, whose positions begin at 0.
    """

    source: str = ""
    sources: tuple[SourceConfig, ...] = ()
    documents: str = bounded("stream", words=("stream", "separate"))
    tokens: int = bounded(0, least=0, most=_MOST_TEXT, unit=TOKENS)
    field: str = "text"  # last: it hides the function above

    def __post_init__(self) -> None:
        as_written(self, "data")
        if self.source and self.sources:
            raise BadInput("data.source and data.sources contradict each other", "give one of them")
        if self.sources and self.tokens:
            raise BadInput("data.tokens is of data.source", "give it to each of data.sources")
        check_bounds(self, "data")

    @property
    def texts(self) -> tuple[SourceConfig, ...]:
        """All texts; empty when none is named."""
        if self.source:
            return (SourceConfig(self.source, field=self.field, tokens=self.tokens),)
        return self.sources


@dataclass(frozen=True)
class LoraConfig:
    """Which weights are trained, by which adapters.

    Attributes:
        rank, alpha: of every adapter; the update is scaled by alpha / rank.
        dropout: of the adapter's input.
        targets: names of the linear layers that get an adapter; `all-linear`: all but the head, and
            what the default is in a model without layers of those names.
        train_norms: all norm weights too; with the embeddings they close most of the gap to full
            fine-tuning at long context (LongLoRA, arXiv:2309.12307, table 2).
        train_embeddings: the embedding (and an untied head) too.
        rslora: scale by alpha / sqrt(rank) instead.
        dora: train each output row's magnitude apart from its direction (arXiv:2402.09353).
        plus_ratio: LoRA+ (arXiv:2402.12354): learning rate of every B matrix over that of the
            rest; the paper advises 16 with a lower `train.lr`. 1 = one rate for all.
    """

    rank: int = bounded(16, least=1, most=16384)
    alpha: float = bounded(32.0, above=0, most=1e6)
    dropout: float = bounded(0.0, least=0, below=1)
    targets: tuple[str, ...] = ATTENTION_OF_LLAMA
    train_norms: bool = False
    train_embeddings: bool = False
    rslora: bool = False
    dora: bool = False
    plus_ratio: float = bounded(1.0, above=0, most=1e6)

    @property
    def matrices(self) -> tuple[str, ...]:
        """`targets` with `all-linear` as the names in a Llama, for estimates of its size."""
        return LLAMA_MATRICES if ALL_LINEAR in self.targets else self.targets

    def __post_init__(self) -> None:
        as_written(self, "lora")
        check_bounds(self, "lora")
        if not self.targets:
            raise BadInput("lora.targets is empty, so nothing would be trained")
        if ALL_LINEAR in self.targets and len(self.targets) > 1:
            raise BadInput(f"lora.targets names {ALL_LINEAR} and others", "write one or the other")


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained.

    Attributes:
        what: `lora`: adapters (section `lora`); `full`: every weight, in float32; `position-rows`:
            the rows of a learned position table that an extension made anew (all rows where none
            is recorded); `temperature`: one number by which all attention without positions is
            sharpened; `head-temperature`: one for each head of each such layer.
        quantize: `4bit`: the frozen base in NF4 (QLoRA); merged against the base as it is stored.
        attention: `s2`: LongLoRA's shifted sparse attention, in training only.
        seq_length: tokens in a row; 0 = the checkpoint's whole window.
        steps: optimizer steps.
        batch_size: rows in one forward pass.
        gradient_accumulation: forward passes in one optimizer step.
        lr: peak learning rate.
        schedule: after a linear warm-up `cosine` to 10 % of the peak, or `constant`.
        warmup_steps: optimizer steps.
        weight_decay: of AdamW, on what is trained; with `what: full` not on norms and biases.
        max_grad_norm: gradients are clipped to this global norm.
        gradient_checkpointing: recompute activations in the backward pass, unless
            `memory.recompute` says more.
        compile: torch.compile of each decoder layer, for speed; it takes a minute or more at first.
        loss_chunk: positions whose logits exist at the same time; 0 = as many as fill 128 MiB, at
            most 1024.
        save_every: optimizer steps between checkpoints of the run.
        spike_factor: a step whose loss is more than this many times the running median is left out;
            0 = none is.
        max_skipped: after so many steps left out in a row (not finite, or a spike) the run stops.
        seed: of adapters, dropout and data order.
        self_check: compare rope and loss with plain ones before the first step.
        pose_target: window to train for with rows of `seq_length`, their positions spread over it
            (PoSE); 0 = the rows' own positions.
        pose_chunks: pieces that a row is cut into for that.
    """

    what: str = bounded("lora", words=(LORA, FULL, ROWS, TEMPERATURE, HEADS))
    quantize: str = bounded("none", words=("none", "4bit"))
    attention: str = bounded("sdpa", words=("sdpa", "s2"))
    seq_length: int = bounded(0, least=0, most=MOST_TOKENS, unit=TOKENS)
    steps: int = bounded(200, least=1, most=_MOST_STEPS)
    batch_size: int = bounded(1, least=1, most=_MOST_ROWS)
    gradient_accumulation: int = bounded(8, least=1, most=_MOST_ROWS)
    lr: float = bounded(2e-4, above=0, most=100)
    schedule: str = bounded("cosine", words=("cosine", "constant"))
    warmup_steps: int = bounded(10, least=0, most=_MOST_STEPS)
    weight_decay: float = bounded(0.0, least=0, most=100)
    max_grad_norm: float = bounded(1.0, above=0, most=1e9)
    gradient_checkpointing: bool = True
    compile: bool = False
    loss_chunk: int = bounded(0, least=0, most=MOST_TOKENS, unit=TOKENS)
    save_every: int = bounded(50, least=1, most=_MOST_STEPS)
    spike_factor: float = bounded(10.0, least=0, most=1e9)
    max_skipped: int = bounded(5, least=1, most=_MOST_STEPS)
    seed: int = bounded(0, least=0, most=2**32 - 1)
    self_check: bool = True
    pose_target: int = bounded(0, least=0, most=MOST_TOKENS, unit=TOKENS)
    pose_chunks: int = bounded(2, least=2, most=_MOST_ROWS)

    def __post_init__(self) -> None:
        as_written(self, "train")
        check_bounds(self, "train")
        if self.seq_length == 1:
            raise BadInput("train.seq_length is 1, and a row needs 2 tokens")
        if not (self.spike_factor == 0 or self.spike_factor > 1):
            raise BadInput(
                f"train.spike_factor is {self.spike_factor}, and has to be above 1",
                "0 = no step is left out for its loss",
            )
        if self.attention == "s2" and self.seq_length % 8:
            raise BadInput(
                f"train.attention: s2 cuts rows in eight, and train.seq_length is "
                f"{self.seq_length}",
                f"e.g. --seq-length {max(self.seq_length // 8, 1) * 8}",
            )
        if self.what not in (LORA, FULL) and self.weight_decay:
            raise BadInput(
                f"train.what: {self.what} knows no weight decay, and train.weight_decay is "
                f"{self.weight_decay:g}",
                "leave it out: it would pull to zero what has to stay",
            )
        if self.what == FULL and self.quantize != "none":
            raise BadInput(
                "train.what: full trains every weight, and --quantize freezes them in 4 bits",
                "leave out one of the two",
            )


@dataclass(frozen=True)
class ParallelConfig:
    """How several processes share the work; their number is the launcher's (`torchrun`).

    Attributes:
        context: processes that hold each row together; the others read rows of their own.
        shard: processes that hold weights, gradients and optimizer states together, whatever rows
            they read; 1 = each holds all. Groups of so many are replicas of one another.
    """

    context: int = bounded(1, least=1, most=2**16)
    shard: int = bounded(1, least=1, most=2**16)

    def __post_init__(self) -> None:
        as_written(self, "parallel")
        check_bounds(self, "parallel")

    @property
    def processes(self) -> int:
        """The fewest processes that can do it."""
        return math.lcm(self.context, self.shard)

    def check(self, ranks: int, seq_length: int) -> None:
        """Check that so many processes can share rows of so many tokens.

        Raises:
            BadInput: they cannot; each number is named.
        """
        flags = {"context": "--context-parallel", "shard": "--shard"}
        for name, size in (("context", self.context), ("shard", self.shard)):
            if ranks % size:
                raise BadInput(
                    f"parallel.{name} is {size} and {ranks} processes were started, which is no "
                    "multiple of it",
                    f"start {size} processes, or a multiple: torchrun --nproc_per_node {size} "
                    f"-m ctxext finetune ...; or give {flags[name]} 1",
                )
        unit = 2 * self.context  # a rank holds two chunks of each row
        if self.context > 1 and seq_length % unit:
            raise BadInput(
                f"train.seq_length is {seq_length}, which is no multiple of {unit}, twice "
                "parallel.context",
                f"e.g. --seq-length {seq_length - seq_length % unit or unit}",
            )


@dataclass(frozen=True)
class FinetuneConfig:
    """The sections that `ctxext finetune` reads of a recipe, for one stage of it.

    Without `extend` the checkpoint is trained at the window that it has.
    """

    data: DataConfig = field(default_factory=DataConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    extend: ExtendConfig | None = None

    def __post_init__(self) -> None:
        as_written(self, "recipe")
        if self.train.attention == "s2" and (
            self.data.documents == "separate" or self.parallel.context > 1
        ):
            raise BadInput(
                "train.attention: s2 shifts whole rows, so neither data.documents: separate nor "
                "--context-parallel goes with it",
                "leave one of them out",
            )
        if self.train.pose_target and self.data.documents == "separate":
            raise BadInput(
                "train.pose_target and data.documents: separate contradict each other",
                "positions cannot both restart and skip: leave one of them out",
            )
        if self.train.quantize != "none" and self.parallel.shard > 1:
            raise BadInput(
                "--shard cannot cut the 4-bit weights of --quantize",
                "leave out one of the two",
            )
        if self.train.what not in (LORA, FULL) and self.parallel.shard > 1:
            raise BadInput(
                f"train.what: {self.train.what} trains too little to be shared out, and --shard is "
                "given",
                "leave --shard out",
            )
        if self.train.what == LORA:
            return
        for option in fields(self.lora):
            if getattr(self.lora, option.name) != option.default:
                raise BadInput(
                    f"train.what: {self.train.what} has no adapters, and lora.{option.name} is set",
                    "leave section lora out, or train.what",
                )

    @property
    def held_of_each(self) -> int:
        """Rows of each text in `data` that are measured, and not trained on: of all as many."""
        return -(-self.validation.held_out // max(1, len(self.data.texts)))

    @property
    def validation_rows(self) -> int:
        """The most rows that are read in one measurement; 0 = nothing is measured."""
        if not self.validation.is_wanted:
            return 0
        return self.held_of_each * len(self.data.texts) or self.validation.rows

    def to_dict(self) -> dict[str, Any]:
        """Give plain values, as they stand in a recipe."""
        out = asdict(self)
        extend = out.pop("extend")
        if extend is not None:
            out = {"extend": extend, **out}
        if not self.validation.is_wanted:
            out.pop("validation")
        out["lora"]["targets"] = list(self.lora.targets)
        out["data"]["sources"] = list(out["data"]["sources"])
        return out
