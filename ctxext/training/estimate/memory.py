"""Estimate the memory of a step, part by part, from shapes alone: nothing is loaded or run.

All functions return bytes. N is the number of tokens in one forward pass (batch * length), w the
bytes of a number in the weights' dtype (4 for float32, 2 for bfloat16). What is said about saved
tensors is what torch 2.13 saves for transformers 5.23's decoders with peft 0.21's LoRA.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ctxext.checkpoints.config.heads import HEADS, WIDTHS, first_of
from ctxext.runs.numbers import whole

_FLOAT = 4
LOGITS_AT_ONCE = 128 * 2**20  # bytes, for `auto_loss_chunk`
_MOST_CHUNK, _LEAST_CHUNK = 1024, 64
# Soft-capped or with sinks, so that attention is not fused on a CPU; or never fused.
EAGER = ("gemma2", "gpt_oss", "bloom", "gpt_neo", "mpt", "xglm")
_QK_NORMS = ("qwen3", "qwen3_moe", "gemma3", "gemma3_text")
_FOUR_NORMS = ("gemma2", "gemma3", "gemma3_text")
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_INNER = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")
# Their MLP is four times as wide as the model where no key says so.
_FOUR_TIMES = ("bloom", "falcon", "gpt2", "gpt_bigcode", "gpt_neo", "mpt")


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder that decide its memory.

    Attributes:
        hidden, intermediate: width of the residual stream, and of the MLP.
        layers, heads, kv_heads, head_dim, vocabulary: as in a config.
        experts_used: MLPs that a token passes through in a layer; 1 without experts.
        window: of sliding attention; None = full.
        qk_norm: queries and keys are normalised.
        tied: the head is the embedding.
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
    tied: bool = False

    @classmethod
    def of(cls, config: Mapping[str, Any], where: str = "config.json") -> "Shape":
        """Read the shape that a config.json (its text part) describes.

        Args:
            where: what messages call it.

        Raises:
            KeyError: a size is missing, so that nothing can be said about this model.
            BadInput: one is no positive whole number.
        """

        def size(*names: str) -> int:
            number = first_of(config, names, where)
            if number is None:
                raise KeyError(names[0])
            return number

        model_type = config.get("model_type", "")
        heads, hidden = size("num_attention_heads", *HEADS), size("hidden_size", *WIDTHS)
        inner = _maybe(config, "moe_intermediate_size", where) or first_of(config, _INNER, where)
        window = _maybe(config, "sliding_window", where)
        if config.get("use_sliding_window") is False:  # Qwen2 has a window that it does not use
            window = None
        return cls(
            hidden=hidden,
            intermediate=inner or (4 * hidden if model_type in _FOUR_TIMES else size(*_INNER)),
            layers=size(*_LAYERS),
            heads=heads,
            kv_heads=_maybe(config, "num_key_value_heads", where) or heads,
            head_dim=_maybe(config, "head_dim", where) or hidden // heads,
            vocabulary=size("vocab_size"),
            experts_used=_maybe(config, "num_experts_per_tok", where) or 1,
            window=window,
            qk_norm=model_type in _QK_NORMS,
            norms=4 if model_type in _FOUR_NORMS else 2,
            eager=model_type in EAGER or config.get("_attn_implementation") == "eager",
            tied=bool(config.get("tie_word_embeddings", False)),
        )


def _maybe(config: Mapping[str, Any], name: str, where: str) -> int | None:
    """Read a size that a model may do without, which some configs say by null, some by 0."""
    return whole(config, name, where) if config.get(name) else None


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass.

    Attributes:
        batch, length: rows, and tokens in each.
        width: bytes of a number in the weights.
        targets: linear layers with an adapter, by their names in a Llama.
        dropout: whether adapters drop parts of their input.
        train_norms: norm weights are trained.
        train_head: the head, or embeddings tied to it, is trained.
        loss_chunk: positions whose logits exist at the same time.
        mlp_tile: positions whose MLP is computed at the same time; 0 = all.
        offload: inputs of recomputed layers lie in host memory.
        context: processes that hold each row together; `length` is this one's part of it.
        full: every weight is trained, in float32; `targets` are then all, and `rank` is 0.
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
    full: bool = False

    @property
    def tokens(self) -> int:
        return self.batch * self.length


def auto_loss_chunk(vocabulary: int) -> int:
    """Return how many positions' float32 logits fill 128 MiB, in multiples of 64, from 64 to 1024.

    >>> auto_loss_chunk(32_000), auto_loss_chunk(128_256)
    (1024, 256)
    """
    fits = LOGITS_AT_ONCE // (_FLOAT * vocabulary) // _LEAST_CHUNK * _LEAST_CHUNK
    return max(_LEAST_CHUNK, min(_MOST_CHUNK, fits))


def weights_bytes(parameters: int, width: int) -> int:
    """Compute parameters * w."""
    return parameters * width


def adapter_bytes(trained: int) -> int:
    """Take 16 bytes a trained number: itself, its gradient, AdamW's two moments, in float32."""
    return trained * 4 * _FLOAT


def adapter_parameters(shape: Shape, targets: tuple[str, ...], rank: int) -> int:
    """Compute layers * sum over targets of rank * (inputs + outputs); experts have none."""
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
    """Count the numbers in the matrices of one layer that a token passes through.

    >>> layer_parameters(Shape(4096, 14336, 32, 32, 8, 128, 128_256))  # Llama-3-8B
    218103808
    """
    wide, narrow = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    attention = shape.hidden * (2 * wide + 2 * narrow)
    return attention + 3 * shape.hidden * shape.intermediate * shape.experts_used


def model_parameters(shape: Shape, config: Mapping[str, Any], where: str = "config.json") -> int:
    """Count the numbers in a model's matrices; norms and biases, some 1e-4 of it, are left out.

    Args:
        config: its config.json, for the number of experts and whether the head is tied.
    """
    names = ("num_local_experts", "num_experts")
    experts = next((number for name in names if (number := _maybe(config, name, where))), 1)
    unused = 3 * shape.hidden * shape.intermediate * max(0, experts - shape.experts_used)
    tables = 1 if config.get("tie_word_embeddings") else 2
    layers = shape.layers * (layer_parameters(shape) + unused)
    return layers + tables * shape.vocabulary * shape.hidden


def checkpoint_bytes(shape: Shape, step: Pass, recomputed: int) -> int:
    """Compute recomputed * N * hidden * w: the input of each recomputed layer.

    Offloaded, two of them are on the device: the one in use, and the one being fetched.
    """
    held = min(2, recomputed) if step.offload else recomputed
    return held * step.tokens * shape.hidden * step.width


def kept_bytes(shape: Shape, step: Pass) -> int:
    """Compute what one layer keeps for its backward pass when nothing of it is recomputed.

    N * (attention's half + MLP's half); see `_attention_kept` and `_mlp_kept`.
    """
    return step.tokens * (_attention_kept(shape, step) + _mlp_kept(shape, step))


def _attention_kept(shape: Shape, step: Pass) -> int:
    """Count the bytes for each token that attention, the norm before it and its adapters keep.

    With H = hidden, Q = heads * head_dim and K = kv_heads * head_dim:

    * w * (2 Q + 2 K) for queries, output, keys, values, and 4 * heads for the fused kernel's
      log-sum-exp; under a sliding window as much, its masks live for one block of queries
      (a CPU then keeps neither log-sum-exp nor, for itself, the output). On several processes keys
      and values are those of the whole row, 2 K w * context.
      Not fused: 4 Q w, and 2 w * heads * length for soft-cap and softmax
    * norms: `_norm_kept`, and normalised queries and keys their input in float32
    * adapters: `_inputs_kept`; that of o_proj is the output, which is kept already
    """
    wide, narrow = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    width = step.width
    kept = width * (2 * wide + 2 * narrow * step.context) + _FLOAT * shape.heads
    if shape.eager:
        kept = width * (4 * wide + 2 * shape.heads * step.length)
    if shape.qk_norm:
        kept += _FLOAT * (wide + narrow + shape.heads + shape.kv_heads)
        kept += step.train_norms * width * (wide + narrow)
    kept += shape.norms // 2 * _norm_kept(shape, step)
    kept += _inputs_kept(step, ("q_proj", "k_proj", "v_proj"), shape.hidden, normed=True)
    return kept + _inputs_kept(step, ("o_proj",), wide, kept_already=True)


def _mlp_kept(shape: Shape, step: Pass) -> int:
    """Count the bytes for each token that an MLP, the norm before it and its adapters keep.

    3 I w for each expert used, I = intermediate, and `_norm_kept`, `_inputs_kept`. Experts: the
    rows that go to each, before and after. Tiled: H w, the input of both norm and MLP.
    """
    norms = shape.norms // 2
    if shape.experts_used > 1:
        rows = shape.experts_used * step.width * (3 * shape.intermediate + 2 * shape.hidden)
        return rows + norms * _norm_kept(shape, step)
    if step.mlp_tile:
        return shape.hidden * step.width + (norms - 1) * _norm_kept(shape, step)
    kept = 3 * shape.intermediate * step.width + norms * _norm_kept(shape, step)
    kept += _inputs_kept(step, ("gate_proj", "up_proj"), shape.hidden, normed=True)
    return kept + _inputs_kept(step, ("down_proj",), shape.intermediate)


def _norm_kept(shape: Shape, step: Pass) -> int:
    """Count a norm's bytes for each token: 4 (H + 1), its float32 input; trained, H w more."""
    return _FLOAT * (shape.hidden + 1) + step.train_norms * shape.hidden * step.width


def _inputs_kept(
    step: Pass,
    layers: tuple[str, ...],
    size: int,
    *,
    normed: bool = False,
    kept_already: bool = False,
) -> int:
    """Count the bytes for each token that adapters of linear layers with one input keep.

    Each w * rank between its matrices; together w * size, the input, unless that is kept anyhow.
    With dropout each adapter has the dropped input and its mask instead, (w + 4) * size. What comes
    from a trained norm is float32, of which autocast makes a copy for each.

    Args:
        layers: by their names in a Llama; those in `step.targets` have adapters.
    """
    adapted = sum(name in step.targets for name in layers)
    if not adapted:
        return 0
    if step.dropout:
        inputs = adapted * (step.width + _FLOAT)
    elif kept_already:
        inputs = 0
    else:
        copies = adapted if normed and step.train_norms and step.width < _FLOAT else 1
        inputs = copies * step.width
    return adapted * step.width * step.rank + inputs * size


def mask_bytes(shape: Shape, step: Pass) -> int:
    """Compute the mask that all layers share where attention is not fused: length^2 * w; else 0."""
    return step.length**2 * step.width if shape.eager else 0


def rope_bytes(shape: Shape, step: Pass) -> int:
    """Compute cos and sin, which all layers share: 2 * length * head_dim * w."""
    return 2 * step.length * shape.head_dim * step.width


def layer_workspace_bytes(shape: Shape, step: Pass) -> int:
    """Compute what recomputing one layer and its backward pass take at their largest.

    That is in the MLP's backward pass, on top of all that the layer keeps; in attention's, when
    what the MLP kept is gone; or in the first norm's, when all of it is.
    """
    attention, mlp = _attention_kept(shape, step), _mlp_kept(shape, step)
    tokens = step.tokens
    in_mlp = tokens * (attention + mlp + _mlp_grads(shape, step))
    if step.mlp_tile and shape.experts_used == 1:
        whole = replace(step, mlp_tile=0)
        tile = _mlp_kept(shape, whole) + _mlp_grads(shape, whole)
        in_mlp += min(step.mlp_tile, tokens) * tile
    in_mlp += _weight_grads(shape, step)
    in_attention = tokens * (attention + _attention_grads(shape, step))
    return max(in_mlp, in_attention, tokens * _norm_peak(shape, step))


def _mlp_grads(shape: Shape, step: Pass) -> int:
    """Count the bytes for each token that the MLP's backward pass has beside what is kept.

    The gradient of its output, H w, and 3 I w of what is inside; where `down_proj` has an adapter,
    the product that it kept has gone by then. Dropout's gradients are float32. Tiled: the gradients
    of output and input, 2 H w.
    """
    hidden, inner, width = shape.hidden, shape.intermediate, step.width
    if shape.experts_used > 1:
        return width * (2 * inner * shape.experts_used + 2 * hidden)
    if step.mlp_tile:
        return 2 * hidden * width
    adapted = "down_proj" in step.targets
    if adapted and step.dropout:
        return hidden * width + 2 * (_FLOAT + width) * inner
    return width * (hidden + (3 - adapted) * inner)


def _weight_grads(shape: Shape, step: Pass) -> int:
    """Compute the gradients of an MLP's own weights before they are summed; 0 with adapters.

    One matrix, I H * 4, and in half precision 2 more; tiled: all three, summed and of one tile.
    """
    if not step.full:
        return 0
    matrices = 6 * _FLOAT if step.mlp_tile else _FLOAT + 2 * (step.width < _FLOAT)
    return matrices * shape.intermediate * shape.hidden


def _attention_grads(shape: Shape, step: Pass) -> int:
    """Count the bytes for each token that attention's backward pass has beside what is kept.

    The gradients of the layer's output and of the attention's, w (H + Q), and those of queries,
    keys and values, w (Q + 2 K). In half precision the kernel sums those of queries in float32,
    4 Q, and has those of shared keys and values for each query head at first, 2 Q w. Not fused:
    2 w * heads * length. With dropout o_proj's own gradients are float32.
    """
    hidden, wide = shape.hidden, shape.heads * shape.head_dim
    narrow, width = shape.kv_heads * shape.head_dim * step.context, step.width
    if shape.eager:
        return width * 2 * (shape.heads * step.length + hidden)
    grads = width * (hidden + 2 * wide + 2 * narrow)
    if width < _FLOAT:
        grads += _FLOAT * wide + 2 * width * wide * (shape.kv_heads < shape.heads)
    if step.dropout and "o_proj" in step.targets:
        dropped = (width + _FLOAT) * wide  # mask and input, gone when the kernel runs
        return max(grads - dropped, hidden * width + 2 * (_FLOAT + width) * wide)
    return grads


def _norm_peak(shape: Shape, step: Pass) -> int:
    """Count the bytes for each token in a norm's backward pass: six float32 tensors, and more.

    What waits for it: before the layer, the gradient around it, H w; where queries are normalised
    too, the layer's own norm, and the gradients of output and values.
    """
    norm = 6 * _FLOAT * shape.hidden + shape.hidden * step.width
    if not shape.qk_norm:
        return norm
    wide = shape.heads * shape.head_dim
    of_queries = 6 * _FLOAT * wide + step.width * wide
    peak = max(norm, of_queries + shape.hidden * (_FLOAT + 2 * step.width))
    if step.train_norms and step.width < _FLOAT:  # which give float32: RoPE computes in it
        narrow = shape.kv_heads * shape.head_dim
        kept = shape.hidden * (_FLOAT + 5 * step.width) + (wide + 2 * narrow) * (
            _FLOAT + step.width
        )
        peak = max(peak, kept + 5 * _FLOAT * wide)
    return peak


def loss_bytes(shape: Shape, step: Pass) -> int:
    """Compute what the loss takes, or the last norm's backward pass after it, if that is more.

    The loss: chunk * vocabulary * (4, and 2 more in half precision), N * H * (4 + 2 w): the logits
    of one chunk turn into their gradient in place; in half precision they are computed, and
    multiplied with the head, in that dtype too; the last norm's float32 input, its output, and the
    gradient of that output. The norm: six float32 tensors of N * H. A trained head's
    gradient, vocabulary * H * 4, is there in the loss; `head_bytes` says what stays.
    """
    chunk = min(step.loss_chunk, step.tokens)
    half = step.width < _FLOAT
    logits = chunk * shape.vocabulary * (_FLOAT + 2 * half)
    hidden = step.tokens * shape.hidden * (_FLOAT + 2 * step.width)
    norm = 6 * _FLOAT * step.tokens * shape.hidden
    head = shape.vocabulary * shape.hidden * _FLOAT * (step.train_head and not shape.tied)
    return max(logits + hidden + head, norm)


def head_bytes(shape: Shape, step: Pass) -> int:
    """Compute what a trained head holds for the whole pass, times vocabulary * H: its copy in half
    precision, 2; its gradient, 4, where that waits for the embedding's, which it is tied to."""
    if not step.train_head:
        return 0
    half = step.width < _FLOAT
    return shape.vocabulary * shape.hidden * (2 * half + _FLOAT * shape.tied)


def step_bytes(shape: Shape, step: Pass, recomputed: int) -> int:
    """Compute the peak of a pass over weights, adapters and optimizer; first layers recompute.

    checkpoints + mask + rope + head + max(kept layers + loss, recomputed layer's workspace): by the
    time an early layer recomputes, the late layers' activations are gone. Without recomputed layers
    the last layer's gradients come on top of what all layers keep, after the loss has gone.
    """
    held = checkpoint_bytes(shape, step, recomputed) + mask_bytes(shape, step)
    held += rope_bytes(shape, step) + head_bytes(shape, step)
    kept = (shape.layers - recomputed) * kept_bytes(shape, step)
    if not recomputed and not (step.train_head or step.train_norms):
        kept -= step.tokens * _norm_kept(shape, step)  # the first norm has nothing to pass back to
    workspace = layer_workspace_bytes(shape, step)
    # In float32 the norm's saved input is the checkpoint itself, and not to be counted twice.
    shared = step.tokens * shape.hidden * _FLOAT if step.width == _FLOAT else 0
    peaks = [kept + loss_bytes(shape, step)]
    if recomputed:
        peaks.append(workspace - shared)
    if recomputed < shape.layers:
        peaks.append(kept - kept_bytes(shape, step) + workspace)
    return held + max(peaks)


def layers_to_recompute(shape: Shape, step: Pass, free: int) -> int:
    """Find the smallest number of recomputed layers with which a pass fits into `free` bytes.

    All of them when even that does not fit: an estimate is no reason to refuse.
    """
    for recomputed in range(shape.layers):
        if step_bytes(shape, step, recomputed) <= free:
            return recomputed
    return shape.layers
