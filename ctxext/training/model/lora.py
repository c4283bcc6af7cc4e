"""What is trained: LoRA adapters (through peft), and on request norms and embeddings."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from ctxext.checkpoints.live.head import decoder_of, head_of, without_peft
from ctxext.checkpoints.live.rotary import text_decoder
from ctxext.errors import BadInput
from ctxext.runs.recipe.config import ALL_LINEAR, ATTENTION_OF_LLAMA, LoraConfig
from ctxext.training.model.batch import Batch
from ctxext.training.model.loss import IGNORED, summed_nll
from ctxext.training.model.router_loss import router_loss, wants_router_loss

# What experts were called before transformers 5 put them into one tensor. peft takes these names
# for that tensor, wherever else they stand, and an adapter of it cannot be merged exactly here.
_OF_EXPERTS = {"gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"}
# Whose out_proj peft refuses: their fused kernels read its weight, past any adapter.
_FUSED = frozenset({"falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"})


@dataclass(frozen=True)
class TrainedGroup:
    """Trained tensors whose names differ only in the layer number."""

    name: str
    tensors: int
    parameters: int


class LossModel(nn.Module):
    """A model, peft's or plain, as one module from token ids to summed loss, for DDP to wrap."""

    def __init__(self, model: Any, loss_chunk: int) -> None:
        super().__init__()
        self.model = model
        self.loss_chunk = loss_chunk

    def forward(self, batch: Batch | None, work: Callable[[Any], Any] | None = None) -> Any:
        """Sum the NLL of the batch's labels, nats; with `work`, give what that makes of the model.

        A mixture of experts that asks for it adds its auxiliary loss, once for each token.

        Args:
            work: called in place of the loss: a sharded model can be read in here only.
        """
        if batch is None:
            return work(self.model) if work is not None else None
        base = without_peft(self.model)
        routed = wants_router_loss(base)
        asked = {"output_router_logits": True} if routed else {}
        out = decoder_of(base)(**batch.decoder_inputs(), use_cache=False, **asked)
        labels = batch.labels
        total = summed_nll(out.last_hidden_state, head_of(base), labels, chunk=self.loss_chunk)
        if routed:
            total = total + router_loss(base, out.router_logits) * (labels != IGNORED).sum()
        return total


def add_adapters(model: Any, config: LoraConfig, base_name: str) -> Any:
    """Wrap a causal language model with peft's LoRA; what is not listed is frozen.

    Args:
        base_name: what the adapter calls its base; never an absolute path.

    Raises:
        BadInput: a name in `config.targets` that matches no linear layer, or tied embeddings that
            peft cannot train.
    """
    import peft
    from peft.utils.constants import EMBEDDING_LAYER_NAMES

    decoder = text_decoder(model)
    ends = _embedding_and_head(model)
    targets, turned = _targets(model, decoder, config, ends)
    tied = bool(getattr(model.config, "tie_word_embeddings", False))
    saved: list[str] = []
    if config.train_norms:
        saved += _norm_names(decoder)
        if decoder is not model:
            saved = _paths(model, decoder, saved)
    if config.train_embeddings:
        if tied and ends[0] not in EMBEDDING_LAYER_NAMES:
            raise BadInput(
                f"lora.train_embeddings: peft would part this model's {ends[0]} from its head, "
                "which is tied to it",
                "leave it out, or train every weight: train.what=full",
            )
        saved += ends[:1] if tied else ends
    lora = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=targets,
        modules_to_save=saved or None,
        use_rslora=config.rslora,
        use_dora=config.dora,
        fan_in_fan_out=turned,
        # Without it a trained tied embedding parts from its head, and the merge is wrong.
        ensure_weight_tying=config.train_embeddings and tied,
        task_type="CAUSAL_LM",
        base_model_name_or_path=base_name,
    )
    model.name_or_path = base_name  # peft copies it into the adapter's config
    with warnings.catch_warnings():  # peft still asks transformers by its older names
        warnings.simplefilter("ignore", FutureWarning)
        wrapped = peft.get_peft_model(model, lora)
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return wrapped


def _targets(
    model: Any, decoder: Any, config: LoraConfig, ends: list[str]
) -> tuple[list[str], bool]:
    """List the layers that get an adapter, and tell whether they keep matrices as (in, out).

    Args:
        ends: names of the embedding and the head.

    Raises:
        BadInput: a name in `config.targets` that matches no linear layer.
    """
    from transformers.pytorch_utils import Conv1D

    kinds = {_short(n): type(m) for n, m in decoder.named_modules() if _is_linear(m)}
    linear, head = set(kinds), {"lm_head", "embed_tokens", *ends}
    every = ALL_LINEAR in config.targets
    if config.targets == ATTENTION_OF_LLAMA and not linear.issuperset(ATTENTION_OF_LLAMA):
        every = True  # nobody asked for these names, and the model has others
    left_out = head | (_OF_EXPERTS if _fuses_experts(decoder) else set())
    if getattr(model.config, "model_type", None) in _FUSED:
        left_out |= {"out_proj"}
        if "out_proj" in config.targets:
            raise BadInput("lora.targets names 'out_proj', which peft does not adapt in this model")
    targets = sorted(linear - left_out) if every else list(config.targets)
    for target in targets:
        if target not in linear or target in head:
            raise BadInput(
                f"lora.targets names '{target}', which is no linear layer of this model",
                f"it has: {', '.join(sorted(linear - head))}",
            )
    turned = any(issubclass(kinds[target], Conv1D) for target in targets)
    if decoder is not model:  # names alone would match the parts that see and hear, too
        targets = _paths(model, decoder, targets)
    return targets, turned


def _is_linear(module: Any) -> bool:
    """Tell whether a module multiplies by a matrix; GPT-2 has a class of its own for it."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, nn.Linear | Conv1D)


def _short(path: str) -> str:
    """Name a module by the last word of its path, or the last two where that is a number."""
    words = path.split(".")
    return ".".join(words[-2:] if words[-1].isdigit() else words[-1:])


def _embedding_and_head(model: Any) -> list[str]:
    """Name the token embedding and the head, by the last words of their paths."""
    modules = model.get_input_embeddings(), model.get_output_embeddings()
    paths = {id(module): path for path, module in model.named_modules()}
    return [paths[id(module)].rpartition(".")[2] for module in modules]


def _fuses_experts(decoder: Any) -> bool:
    """Tell whether experts stand in one tensor, which is no linear layer."""
    return any(
        parameter.ndim == 3 and "experts" in name for name, parameter in decoder.named_parameters()
    )


def _paths(model: Any, decoder: Any, names: list[str]) -> list[str]:
    """List the full paths of the decoder's modules that have one of the names."""
    inside = {id(module) for module in decoder.modules()}
    return [
        path
        for path, module in model.named_modules()
        if id(module) in inside and _short(path) in names
    ]


def _norm_names(model: Any) -> list[str]:
    names = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if "norm" in type(module).__name__.lower() and hasattr(module, "weight")
    }
    return sorted(names)


def trained_groups(model: nn.Module) -> list[TrainedGroup]:
    """Give a row for each sort of trained tensor, for the table shown before the first step."""
    groups: dict[str, tuple[int, int]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            words = ["*" if word.isdigit() else word for word in name.split(".")]
            short = ".".join(w for w in words if w not in ("base_model", "model", "default"))
            tensors, numbers = groups.get(short, (0, 0))
            groups[short] = (tensors + 1, numbers + parameter.numel())
    return [TrainedGroup(name, *counts) for name, counts in groups.items()]


def trained_tensors(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return everything that is trained by its name, in a fixed order; shared tensors once."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
