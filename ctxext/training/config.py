"""What a fine-tuning run is made of: one frozen dataclass per recipe section."""

from dataclasses import asdict, dataclass, field
from typing import Any

from ctxext.errors import BadInput
from ctxext.training.memory_config import MemoryConfig

TOKENS = {"unit": "tokens"}  # marks fields that accept 32k


@dataclass(frozen=True)
class DataConfig:
    """What is read.

    Attributes:
        source: `--data`: file, folder, `hf:NAME[:config[:split[:field]]]` or `builtin:python`.
        field: the text's field in .jsonl and .parquet files.
    """

    source: str = ""
    field: str = "text"


@dataclass(frozen=True)
class LoraConfig:
    """What is trained.

    Attributes:
        rank, alpha: of every adapter; the update is scaled by alpha / rank.
        dropout: of the adapter's input.
        targets: names of the linear layers that get an adapter.
        train_norms: all norm weights too; with the embeddings they close most of the gap to full
            fine-tuning at long context (LongLoRA, arXiv:2309.12307, table 2).
        train_embeddings: the embedding (and an untied head) too.
        rslora: scale by alpha / sqrt(rank) instead.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    train_norms: bool = False
    train_embeddings: bool = False
    rslora: bool = False

    def __post_init__(self) -> None:
        _at_least(self, "rank", 1)
        if not self.alpha > 0:
            raise BadInput(f"lora.alpha is {self.alpha}, and has to be positive")
        if not 0 <= self.dropout < 1:
            raise BadInput(f"lora.dropout is {self.dropout}, and has to be in [0, 1)")
        if not self.targets:
            raise BadInput("lora.targets is empty, so nothing would be trained")


@dataclass(frozen=True)
class TrainConfig:
    """How it is trained.

    Attributes:
        seq_length: tokens in a row; 0 = the checkpoint's whole window.
        steps: optimizer steps.
        batch_size: rows in one forward pass.
        gradient_accumulation: forward passes in one optimizer step.
        lr: peak learning rate.
        schedule: after a linear warm-up `cosine` to 10 % of the peak, or `constant`.
        warmup_steps: optimizer steps.
        weight_decay: of AdamW, on adapters.
        max_grad_norm: gradients are clipped to this global norm.
        gradient_checkpointing: recompute activations in the backward pass, unless
            `memory.recompute` says more.
        loss_chunk: positions whose logits exist at the same time; 0 = as many as fill 128 MiB, at
            most 1024.
        save_every: optimizer steps between checkpoints of the run.
        seed: of adapters, dropout and data order.
        self_check: compare rope and loss with plain ones before the first step.
    """

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
    loss_chunk: int = field(default=0, metadata=TOKENS)
    save_every: int = 50
    seed: int = 0
    self_check: bool = True

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "gradient_accumulation", "save_every"):
            _at_least(self, name, 1)
        _at_least(self, "warmup_steps", 0)
        _at_least(self, "seed", 0)
        _at_least(self, "loss_chunk", 0)
        if self.seq_length != 0 and self.seq_length < 2:
            raise BadInput(f"train.seq_length is {self.seq_length}, and a row needs 2 tokens")
        if not self.lr > 0:
            raise BadInput(f"train.lr is {self.lr}, and has to be positive")
        if not self.max_grad_norm > 0:
            raise BadInput(f"train.max_grad_norm is {self.max_grad_norm}, and has to be positive")
        if self.weight_decay < 0:
            raise BadInput(f"train.weight_decay is {self.weight_decay}, and cannot be negative")
        if self.schedule not in ("cosine", "constant"):
            raise BadInput(f"train.schedule is {self.schedule!r}; there is cosine and constant")


@dataclass(frozen=True)
class FinetuneConfig:
    """The sections that `ctxext finetune` reads of a recipe."""

    data: DataConfig = field(default_factory=DataConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they stand in a recipe."""
        out = asdict(self)
        out["lora"]["targets"] = list(self.lora.targets)
        return out


def _at_least(section: Any, name: str, least: int) -> None:
    value = getattr(section, name)
    if value < least:
        where = type(section).__name__.removesuffix("Config").lower()
        raise BadInput(f"{where}.{name} is {value}, and has to be at least {least}")
