"""What a fine-tuning run is made of: one frozen dataclass per recipe section."""

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ctxext.errors import BadInput
from ctxext.training.extend_config import ExtendConfig
from ctxext.training.memory_config import MemoryConfig

ALL_LINEAR = "all-linear"
"""In `lora.targets`: every linear layer but the head."""
LLAMA_MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TOKENS = {"unit": "tokens"}  # marks fields that accept 32k


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
    weight: float = 1.0
    min_tokens: int = field(default=0, metadata=TOKENS)
    max_tokens: int = field(default=0, metadata=TOKENS)
    tokens: int = field(default=0, metadata=TOKENS)
    field: str = "text"  # last: it hides the function above

    def __post_init__(self) -> None:
        name = f"data.sources {self.source}"
        if not self.source:
            raise BadInput("an entry of data.sources has no source", "e.g. - source: book.txt")
        if not 0 < self.weight < float("inf"):
            raise BadInput(f"{name}: weight is {self.weight}, and has to be positive")
        if min(self.min_tokens, self.max_tokens, self.tokens) < 0:
            raise BadInput(f"{name}: min_tokens, max_tokens and tokens cannot be negative")
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
    documents: str = "stream"
    tokens: int = field(default=0, metadata=TOKENS)
    field: str = "text"  # last: it hides the function above

    def __post_init__(self) -> None:
        if self.source and self.sources:
            raise BadInput("data.source and data.sources contradict each other", "give one of them")
        if self.sources and self.tokens:
            raise BadInput("data.tokens is of data.source", "give it to each of data.sources")
        if self.tokens < 0:
            raise BadInput(f"data.tokens is {self.tokens}, and cannot be negative")
        if self.documents not in ("stream", "separate"):
            raise BadInput(f"data.documents is {self.documents!r}; there is stream and separate")

    @property
    def texts(self) -> tuple[SourceConfig, ...]:
        """All texts; empty when none is named."""
        if self.source:
            return (SourceConfig(self.source, field=self.field, tokens=self.tokens),)
        return self.sources


@dataclass(frozen=True)
class LoraConfig:
    """What is trained.

    Attributes:
        rank, alpha: of every adapter; the update is scaled by alpha / rank.
        dropout: of the adapter's input.
        targets: names of the linear layers that get an adapter; `all-linear`: all but the head.
        train_norms: all norm weights too; with the embeddings they close most of the gap to full
            fine-tuning at long context (LongLoRA, arXiv:2309.12307, table 2).
        train_embeddings: the embedding (and an untied head) too.
        rslora: scale by alpha / sqrt(rank) instead.
        dora: train each output row's magnitude apart from its direction (arXiv:2402.09353).
        plus_ratio: LoRA+ (arXiv:2402.12354): learning rate of every B matrix over that of the
            rest; the paper advises 16 with a lower `train.lr`. 1 = one rate for all.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    train_norms: bool = False
    train_embeddings: bool = False
    rslora: bool = False
    dora: bool = False
    plus_ratio: float = 1.0

    @property
    def matrices(self) -> tuple[str, ...]:
        """`targets` with `all-linear` as the names in a Llama, for estimates of its size."""
        return LLAMA_MATRICES if ALL_LINEAR in self.targets else self.targets

    def __post_init__(self) -> None:
        _at_least(self, "rank", 1)
        if not self.alpha > 0:
            raise BadInput(f"lora.alpha is {self.alpha}, and has to be positive")
        if not 0 <= self.dropout < 1:
            raise BadInput(f"lora.dropout is {self.dropout}, and has to be in [0, 1)")
        if not self.targets:
            raise BadInput("lora.targets is empty, so nothing would be trained")
        if ALL_LINEAR in self.targets and len(self.targets) > 1:
            raise BadInput(f"lora.targets names {ALL_LINEAR} and others", "write one or the other")
        if not 0 < self.plus_ratio < math.inf:
            raise BadInput(f"lora.plus_ratio is {self.plus_ratio}, and has to be positive")


@dataclass(frozen=True)
class TrainConfig:
    """How it is trained.

    Attributes:
        what: `lora`: adapters (section `lora`); `full`: every weight, in float32.
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

    what: str = "lora"
    quantize: str = "none"
    attention: str = "sdpa"
    seq_length: int = field(default=0, metadata=TOKENS)
    steps: int = 200
    batch_size: int = 1
    gradient_accumulation: int = 8
    lr: float = 2e-4
    schedule: str = "cosine"
    warmup_steps: int = 10
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    gradient_checkpointing: bool = True
    compile: bool = False
    loss_chunk: int = field(default=0, metadata=TOKENS)
    save_every: int = 50
    spike_factor: float = 10.0
    max_skipped: int = 5
    seed: int = 0
    self_check: bool = True
    pose_target: int = field(default=0, metadata=TOKENS)
    pose_chunks: int = 2

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "batch_size",
            "gradient_accumulation",
            "save_every",
            "max_skipped",
        ):
            _at_least(self, name, 1)
        _at_least(self, "warmup_steps", 0)
        _at_least(self, "seed", 0)
        _at_least(self, "pose_target", 0)
        _at_least(self, "pose_chunks", 2)
        _at_least(self, "loss_chunk", 0)
        if self.seq_length != 0 and self.seq_length < 2:
            raise BadInput(f"train.seq_length is {self.seq_length}, and a row needs 2 tokens")
        if not self.lr > 0:
            raise BadInput(f"train.lr is {self.lr}, and has to be positive")
        if not self.max_grad_norm > 0:
            raise BadInput(f"train.max_grad_norm is {self.max_grad_norm}, and has to be positive")
        if not (self.spike_factor == 0 or self.spike_factor > 1):
            raise BadInput(
                f"train.spike_factor is {self.spike_factor}, and has to be above 1",
                "0 = no step is left out for its loss",
            )
        if self.weight_decay < 0:
            raise BadInput(f"train.weight_decay is {self.weight_decay}, and cannot be negative")
        for name, words in _CHOICES.items():
            value = getattr(self, name)
            if value not in words:
                known = " and ".join(words)
                raise BadInput(f"train.{name} is {value!r}; there is {known}")
        if self.attention == "s2" and self.seq_length % 8:
            raise BadInput(
                f"train.attention: s2 cuts rows in eight, and train.seq_length is "
                f"{self.seq_length}",
                f"e.g. --seq-length {max(self.seq_length // 8, 1) * 8}",
            )
        if self.what == "full" and self.quantize != "none":
            raise BadInput(
                "train.what: full trains every weight, and --quantize freezes them in 4 bits",
                "leave out one of the two",
            )


_CHOICES = {
    "schedule": ("cosine", "constant"),
    "what": ("lora", "full"),
    "quantize": ("none", "4bit"),
    "attention": ("sdpa", "s2"),
}


@dataclass(frozen=True)
class ParallelConfig:
    """How several processes share the work; their number is the launcher's (`torchrun`).

    Attributes:
        context: processes that hold each row together; the others read rows of their own.
        shard: processes that hold weights, gradients and optimizer states together, whatever rows
            they read; 1 = each holds all. Groups of so many are replicas of one another.
    """

    context: int = 1
    shard: int = 1

    def __post_init__(self) -> None:
        _at_least(self, "context", 1)
        _at_least(self, "shard", 1)

    @property
    def processes(self) -> int:
        """The fewest processes that can do it."""
        return math.lcm(self.context, self.shard)

    def check(self, ranks: int, seq_length: int) -> None:
        """Whether so many processes can share rows of so many tokens.

        Raises:
            BadInput: they cannot; each number is named.
        """
        for name, size in (("context", self.context), ("shard", self.shard)):
            if ranks % size:
                raise BadInput(
                    f"parallel.{name} is {size} and {ranks} processes were started, which is no "
                    "multiple of it",
                    f"start {size} processes, or a multiple: torchrun --nproc_per_node {size} "
                    "-m ctxext finetune ...",
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
    extend: ExtendConfig | None = None

    def __post_init__(self) -> None:
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
        if self.train.what != "full":
            return
        for own in fields(self.lora):
            if getattr(self.lora, own.name) != own.default:
                raise BadInput(
                    f"train.what: full has no adapters, and lora.{own.name} is set",
                    "leave section lora out, or train.what",
                )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they stand in a recipe."""
        out = asdict(self)
        own = out.pop("extend")
        if own is not None:
            out = {"extend": own, **out}
        out["lora"]["targets"] = list(self.lora.targets)
        out["data"]["sources"] = list(out["data"]["sources"])
        return out


def _at_least(section: Any, name: str, least: int) -> None:
    value = getattr(section, name)
    if value < least:
        where = type(section).__name__.removesuffix("Config").lower()
        raise BadInput(f"{where}.{name} is {value}, and has to be at least {least}")
