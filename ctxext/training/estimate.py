"""How much memory a step takes, part by part, from shapes alone: nothing is loaded or run.

All functions return bytes. N is the number of tokens in one forward pass (batch * length), w the
bytes of a number in the weights' dtype (4 for float32, 2 for bfloat16). What is said about saved
tensors is what torch 2.13 saves for transformers 5.23's decoders with peft 0.21's LoRA.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_FLOAT = 4
LOGITS_AT_ONCE = 128 * 2**20  # bytes, for `auto_loss_chunk`
_MOST_CHUNK, _LEAST_CHUNK = 1024, 64
EAGER = ("gemma2", "gpt_oss")  # soft-capped or with sinks: no fused attention on a CPU
_QK_NORMS = ("qwen3", "qwen3_moe", "gemma3", "gemma3_text")
_FOUR_NORMS = ("gemma2", "gemma3", "gemma3_text")


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder that decide its memory.

    Attributes:
        hidden, intermediate: width of the residual stream, and of the MLP.
        layers, heads, kv_heads, head_dim, vocabulary: as in a config.
        experts_used: MLPs that a token passes through in a layer; 1 without experts.
        window: of sliding attention; None = full.
        qk_norm: queries and keys are normalised.
        norms: of a layer's whole width: 2, or 4 where outputs of blocks are normalised too.
        eager: attention is not fused, so its length x length weights are kept.
    """

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    experts_used: int = 1
    window: int | None = None
    qk_norm: bool = False
    norms: int = 2
    eager: bool = False

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Shape":
        """The shape that a config.json (its text part) describes.

        Raises:
            KeyError: a size is missing, so that nothing can be said about this model.
        """
        kind = config.get("model_type", "")
        heads = int(config["num_attention_heads"])
        window = config.get("sliding_window")
        if config.get("use_sliding_window") is False:  # Qwen2 has a window that it does not use
            window = None
        return cls(
            hidden=int(config["hidden_size"]),
            intermediate=int(config.get("moe_intermediate_size") or config["intermediate_size"]),
            layers=int(config["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or int(config["hidden_size"]) // heads),
            vocabulary=int(config["vocab_size"]),
            experts_used=int(config.get("num_experts_per_tok") or 1),
            window=int(window) if window else None,
            qk_norm=kind in _QK_NORMS,
            norms=4 if kind in _FOUR_NORMS else 2,
            eager=kind in EAGER or config.get("_attn_implementation") == "eager",
        )


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass.

    Attributes:
        batch, length: rows, and tokens in each.
        width: bytes of a number in the weights.
        targets: linear layers with an adapter, by their names in a Llama.
        rank: of the adapters.
        dropout: whether adapters drop parts of their input.
        train_norms: norm weights are trained.
        train_head: the head, or embeddings tied to it, is trained.
        loss_chunk: positions whose logits exist at the same time.
        mlp_tile: positions whose MLP is computed at the same time; 0 = all.
        offload: inputs of recomputed layers lie in host memory.
        context: processes that hold each row together; `length` is this one's part of it.
    """

    batch: int
    length: int
    width: int
    targets: tuple[str, ...]
    rank: int
    dropout: bool = False
    train_norms: bool = False
    train_head: bool = False
    loss_chunk: int = 1024
    mlp_tile: int = 0
    offload: bool = False
    context: int = 1

    @property
    def tokens(self) -> int:
        return self.batch * self.length


def auto_loss_chunk(vocabulary: int) -> int:
    """Positions whose float32 logits fill 128 MiB, in multiples of 64, from 64 to 1024.

    >>> auto_loss_chunk(32_000), auto_loss_chunk(128_256)
    (1024, 256)
    """
    fits = LOGITS_AT_ONCE // (_FLOAT * vocabulary) // _LEAST_CHUNK * _LEAST_CHUNK
    return max(_LEAST_CHUNK, min(_MOST_CHUNK, fits))


def weights_bytes(parameters: int, width: int) -> int:
    """parameters * w."""
    return parameters * width


def adapter_bytes(trained: int) -> int:
    """16 bytes for each trained number: itself, its gradient, two moments of AdamW, float32."""
    return trained * 4 * _FLOAT


def adapter_parameters(shape: Shape, targets: tuple[str, ...], rank: int) -> int:
    """layers * sum over targets of rank * (inputs + outputs); experts have none."""
    attention, narrow = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    sizes = {
        "q_proj": (shape.hidden, attention),
        "k_proj": (shape.hidden, narrow),
        "v_proj": (shape.hidden, narrow),
        "o_proj": (attention, shape.hidden),
        "gate_proj": (shape.hidden, shape.intermediate),
        "up_proj": (shape.hidden, shape.intermediate),
        "down_proj": (shape.intermediate, shape.hidden),
    }
    return shape.layers * sum(rank * sum(sizes[t]) for t in targets if t in sizes)


def layer_parameters(shape: Shape) -> int:
    """Numbers in the matrices of one layer that a token passes through.

    >>> layer_parameters(Shape(4096, 14336, 32, 32, 8, 128, 128_256))  # Llama-3-8B
    218103808
    """
    wide, narrow = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    attention = shape.hidden * (2 * wide + 2 * narrow)
    return attention + 3 * shape.hidden * shape.intermediate * shape.experts_used


def model_parameters(shape: Shape, config: Mapping[str, Any]) -> int:
    """Numbers in the matrices of a whole model; norms and biases, some 1e-4 of it, left out.

    Args:
        config: its config.json, for the number of experts and whether the head is tied.
    """
    experts = int(config.get("num_local_experts") or config.get("num_experts") or 1)
    unused = 3 * shape.hidden * shape.intermediate * (experts - shape.experts_used)
    tables = 1 if config.get("tie_word_embeddings") else 2
    layers = shape.layers * (layer_parameters(shape) + unused)
    return layers + tables * shape.vocabulary * shape.hidden


def checkpoint_bytes(shape: Shape, step: Pass, recomputed: int) -> int:
    """recomputed * N * hidden * w: the input of each recomputed layer.

    Offloaded, two of them are on the device: the one in use, and the one being fetched.
    """
    held = min(2, recomputed) if step.offload else recomputed
    return held * step.tokens * shape.hidden * step.width


def kept_bytes(shape: Shape, step: Pass) -> int:
    """What one layer keeps for its backward pass when nothing of it is recomputed.

    N * (attention + MLP + norms + adapters), where, with H = hidden, I = intermediate,
    Q = heads * head_dim and K = kv_heads * head_dim:

    * attention: w * (2 Q + 2 K) for queries, output, keys, values, and 4 * heads for the fused
      kernel's log-sum-exp; under a sliding window as much, its masks live for one block of queries
      (a CPU then keeps neither log-sum-exp nor, for itself, the output). On several processes keys
      and values are those of the whole row, 2 K w * context.
      Not fused: 4 Q w, and 2 w * heads * length for soft-cap and softmax
    * MLP: 3 I w for each expert used; tiled: H w, its input
    * norms: 4 (H + 1) each: their input in float32; trained ones H w more. With a tiled MLP the
      one before it keeps nothing
    * adapters: 4 * rank, and the input in float32 where nobody else keeps it: H for each of q, k, v
      and of gate, up (one for each group in float32), I for down, Q for o; dropout adds the
      dropped input and its mask, twice the input, for each.
    """
    hidden, wide = shape.hidden, shape.heads * shape.head_dim
    narrow = shape.kv_heads * shape.head_dim
    width = step.width
    attention = width * (2 * wide + 2 * narrow * step.context) + _FLOAT * shape.heads
    if shape.eager:
        attention = width * (4 * wide + 2 * shape.heads * step.length)
    if shape.qk_norm:
        attention += _FLOAT * (wide + narrow + shape.heads + shape.kv_heads)
    mlp = shape.experts_used * 3 * shape.intermediate * width
    if shape.experts_used > 1:  # the rows that go to each expert, before and after
        mlp += shape.experts_used * 2 * hidden * width
    elif step.mlp_tile:
        mlp = hidden * width
    tiled = step.mlp_tile > 0 and shape.experts_used == 1
    norms = (shape.norms - tiled) * _FLOAT * (hidden + 1)
    if step.train_norms:
        norms += (shape.norms - tiled) * hidden * width
    return step.tokens * (attention + mlp + norms + _adapter_inputs(shape, step))


def _adapter_inputs(shape: Shape, step: Pass) -> int:
    """Bytes for each token that adapters of one layer keep."""
    wide = shape.heads * shape.head_dim
    inputs = {
        "q_proj": shape.hidden, "k_proj": shape.hidden, "v_proj": shape.hidden, "o_proj": wide,
    }  # fmt: skip
    if shape.experts_used == 1 and not step.mlp_tile:
        inputs |= {
            "gate_proj": shape.hidden,
            "up_proj": shape.hidden,
            "down_proj": shape.intermediate,
        }
    present = [t for t in step.targets if t in inputs]
    total = len(present) * _FLOAT * step.rank
    if step.dropout:
        total += sum(2 * _FLOAT * inputs[t] for t in present)
    if step.width == _FLOAT:  # casts to float32 are the tensor itself: shared, or kept already
        shared: dict[str, int] = {}
        for target in present:
            if target in ("q_proj", "k_proj", "v_proj"):
                shared["attention"] = shape.hidden
            elif target in ("gate_proj", "up_proj"):
                shared["mlp"] = shape.hidden
            elif target == "down_proj":
                shared["down"] = shape.intermediate
        total += _FLOAT * sum(shared.values()) * (not step.dropout)
    elif not step.dropout:
        total += sum(_FLOAT * inputs[t] for t in present)
    return total


def mask_bytes(shape: Shape, step: Pass) -> int:
    """The mask that all layers share where attention is not fused: length^2 numbers; else none."""
    return step.length**2 * step.width if shape.eager else 0


def layer_workspace_bytes(shape: Shape, step: Pass) -> int:
    """What recomputing one layer and its backward pass take at their largest.

    `kept_bytes`, and the gradients on the way: N * w * (2 I + 2 H) in the MLP, or, where attention
    is not fused, 2 N w * heads * length there, when the MLP's 3 N I w are gone, whichever is more.
    With a tiled MLP: N * w * 2 H, and 5 I w for each row of the tile.
    """
    inner = 2 * shape.intermediate * shape.experts_used * step.tokens
    if step.mlp_tile and shape.experts_used == 1:
        inner = 5 * shape.intermediate * min(step.mlp_tile, step.tokens)
    if shape.eager:
        gone = 0 if step.mlp_tile else 3 * shape.intermediate * step.tokens
        inner = max(inner, 2 * shape.heads * step.length * step.tokens - gone)
    return kept_bytes(shape, step) + step.width * (inner + 2 * step.tokens * shape.hidden)


def loss_bytes(shape: Shape, step: Pass) -> int:
    """chunk * vocabulary * (4, and 4 more in half precision) + N * H * (4 + 2 w).

    The logits of one chunk turn into their gradient in place; in half precision they are computed,
    and multiplied with the head, in that dtype too. The other part: the last norm's float32 input,
    its output, and the gradient of that output. A trained head adds vocabulary * H * 4.
    """
    chunk = min(step.loss_chunk, step.tokens)
    logits = chunk * shape.vocabulary * (_FLOAT if step.width == _FLOAT else 2 * _FLOAT)
    hidden = step.tokens * shape.hidden * (_FLOAT + 2 * step.width)
    head = shape.vocabulary * shape.hidden * _FLOAT if step.train_head else 0
    return logits + hidden + head


def step_bytes(shape: Shape, step: Pass, recomputed: int) -> int:
    """Peak of one pass over weights, adapters and optimizer, when the first layers recompute.

    checkpoints + mask + max(kept layers + loss, recomputed layer's workspace): by the time an early
    layer recomputes, the late layers' activations are gone. Without recomputed layers the last
    layer's gradients come on top of what all layers keep, after the loss has gone.
    """
    held = checkpoint_bytes(shape, step, recomputed) + mask_bytes(shape, step)
    kept = (shape.layers - recomputed) * kept_bytes(shape, step)
    extra = layer_workspace_bytes(shape, step) - kept_bytes(shape, step)
    last = step.tokens * shape.hidden * 2 * step.width
    # In float32 the norm's saved input is the checkpoint itself, and not to be counted twice.
    shared = step.tokens * shape.hidden * _FLOAT if step.width == _FLOAT else 0
    peaks = [kept + loss_bytes(shape, step)]
    if recomputed:
        peaks.append(layer_workspace_bytes(shape, step) + last - shared)
    if recomputed < shape.layers:
        peaks.append(kept + extra + last)
    return held + max(peaks)


def layers_to_recompute(shape: Shape, step: Pass, free: int) -> int:
    """The smallest number of recomputed layers with which a pass fits into `free` bytes.

    All of them when even that does not fit: an estimate is no reason to refuse.
    """
    for recomputed in range(shape.layers):
        if step_bytes(shape, step, recomputed) <= free:
            return recomputed
    return shape.layers
