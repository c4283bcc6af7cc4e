"""The laboratory's decoder: one class, whose models differ in how they are told of positions.

Written as transformers 5 writes models (its `modeling_llama.py` is the pattern), and its parts are
named as Llama's, so that whatever finds those by name works on it.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import GenerationMixin, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import (
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
    eager_attention_forward,
)
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from ctxext.checkpoints.lab_decoder.lab_config import LabConfig
from ctxext.checkpoints.lab_decoder.lab_positions import Alibi, LearnedPositions, Sinusoids

Turn = tuple[torch.Tensor, torch.Tensor]
"""cos and sin of a rope, (batch or 1, length, head_dim) each."""


class LabAttention(nn.Module):
    """Attention of heads that all have keys and values of their own."""

    num_key_value_groups = 1
    is_causal = True
    """Read by transformers' attention functions where they are given no mask."""

    def __init__(self, config: LabConfig, layer_idx: int) -> None:
        super().__init__()
        self.config, self.layer_idx = config, layer_idx
        width, bias = config.hidden_size, config.block == "gpt2"
        self.head_dim = width // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.q_proj = nn.Linear(width, width, bias=bias)
        self.k_proj = nn.Linear(width, width, bias=bias)
        self.v_proj = nn.Linear(width, width, bias=bias)
        self.o_proj = nn.Linear(width, width, bias=bias)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: Turn | None = None,
        attention_mask: Any = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend; shapes as in Llama. Returns (batch, length, width), and weights where eager."""
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        query, key, value = (
            projected(hidden_states).view(shape).transpose(1, 2)
            for projected in (self.q_proj, self.k_proj, self.v_proj)
        )
        if position_embeddings is not None:
            query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        out, weights = attend(
            self, query, key, value, attention_mask, dropout=0.0, scaling=self.scaling, **kwargs
        )
        return self.o_proj(out.reshape(*hidden_states.shape[:-1], -1)), weights


class GatedMLP(nn.Module):
    """SwiGLU, without biases."""

    def __init__(self, config: LabConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.act_fn = ACT2FN["silu"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., width) to (..., width)."""
        out: torch.Tensor = self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
        return out


class PlainMLP(nn.Module):
    """Two layers with biases and GPT-2's approximation of GELU between them."""

    def __init__(self, config: LabConfig) -> None:
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., width) to (..., width)."""
        hidden = nn.functional.gelu(self.up_proj(x), approximate="tanh")  # `gelu_new`, in one step
        out: torch.Tensor = self.down_proj(hidden)
        return out


class LabRMSNorm(nn.RMSNorm):
    """Normalise in the dtype of what is read; the fused kernel takes no weight of another."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what `torch.nn.RMSNorm` returns, in `x`'s dtype and shape."""
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


def _norm(config: LabConfig) -> nn.Module:
    norm = nn.LayerNorm if config.block == "gpt2" else LabRMSNorm
    return norm(config.hidden_size, eps=config.norm_eps)


class LabDecoderLayer(GradientCheckpointingLayer):  # type: ignore[misc]
    """Attention and an MLP, each behind a norm and beside the residual stream."""

    def __init__(self, config: LabConfig, layer_idx: int) -> None:
        super().__init__()
        self.self_attn = LabAttention(config, layer_idx)
        self.mlp = PlainMLP(config) if config.block == "gpt2" else GatedMLP(config)
        self.input_layernorm = _norm(config)
        self.post_attention_layernorm = _norm(config)

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Map (batch, length, width) to the same; keywords are those of the attention."""
        attended, _ = self.self_attn(self.input_layernorm(hidden_states), **kwargs)
        hidden_states = hidden_states + attended
        out: torch.Tensor = hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))
        return out


class LabPreTrainedModel(PreTrainedModel):  # type: ignore[misc]
    """What transformers wants to know of both classes."""

    config: LabConfig
    config_class = LabConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ("LabDecoderLayer",)
    _skip_keys_device_placement = ("past_key_values",)
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": LabDecoderLayer, "attentions": LabAttention}  # noqa: RUF012


class LabModel(LabPreTrainedModel):
    """The decoder without a head."""

    def __init__(self, config: LabConfig) -> None:
        super().__init__(config)
        encoding = config.position_encoding
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.embed_positions: Sinusoids | LearnedPositions | None = None
        if encoding == "sinusoidal":
            self.embed_positions = Sinusoids(config)
        elif encoding == "learned":
            self.embed_positions = LearnedPositions(
                config.max_position_embeddings, config.hidden_size
            )
        self.rotary_emb = LlamaRotaryEmbedding(config) if encoding == "rope" else None
        self.alibi = Alibi(config) if encoding == "alibi" else None
        self.layers = nn.ModuleList(
            [LabDecoderLayer(config, index) for index in range(config.num_hidden_layers)]
        )
        self.norm = _norm(config)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults  # type: ignore[untyped-decorator]
    @capture_outputs  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        is_causal: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Compute hidden states (batch, length, width).

        Args:
            attention_mask: (batch, keys), 0 where a token is padding, as everywhere.
            is_causal: False = every token reads every token, also those that come after it.

        Raises:
            IndexError: a learned table has no row for a position.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        embeds: torch.Tensor = (
            self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        )
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        end = past + embeds.shape[1]
        positions = position_ids
        if positions is None:
            positions = torch.arange(int(past), int(end), device=embeds.device)[None]
        elif self.embed_positions is not None:
            end = int(positions.max()) + 1
        hidden = embeds
        if self.embed_positions is not None:
            hidden = hidden + self.embed_positions(positions, int(end)).to(hidden.dtype)
        turn = None if self.rotary_emb is None else self.rotary_emb(hidden, positions)
        if not is_causal:
            kwargs["is_causal"] = False
        mask = self._mask(hidden, attention_mask, position_ids, past_key_values, is_causal)
        for layer in self.layers:
            hidden = layer(
                hidden,
                attention_mask=mask,
                position_embeddings=turn,
                position_ids=positions,
                past_key_values=past_key_values,
                use_cache=use_cache,
                **kwargs,
            )
        return BaseModelOutputWithPast(
            last_hidden_state=self.norm(hidden), past_key_values=past_key_values
        )

    def _mask(
        self,
        hidden: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor | None,
        cache: Cache | None,
        is_causal: bool,
    ) -> Any:
        """Make what attention is given as its mask: transformers' own, and ALiBi's bias in it."""
        if self.alibi is not None:
            past, keys = 0, hidden.shape[1]
            if cache is not None:
                past = int(cache.get_seq_length())
                keys = cache.get_mask_sizes(hidden.shape[1], 0)[0]
            return self.alibi.mask(
                hidden, past, keys,
                attention_mask=attention_mask, position_ids=position_ids, causal=is_causal,
            )  # fmt: skip
        if not is_causal:
            return create_bidirectional_mask(
                self.config, hidden, attention_mask, past_key_values=cache
            )
        return create_causal_mask(
            self.config, hidden, attention_mask, past_key_values=cache, position_ids=position_ids
        )


class LabForCausalLM(LabPreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """The decoder with a head, tied to the embeddings unless the config says otherwise."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: LabConfig) -> None:
        super().__init__(config)
        self.model = LabModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> Any:
        """Compute logits (batch, kept, vocabulary), and the loss where there are labels.

        Args:
            labels: (batch, length), shifted inside; -100 counts for nothing.
            logits_to_keep: of the last positions, 0 = all; or indices of positions.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        hidden = outputs.last_hidden_state
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(hidden[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs
            )
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


__all__ = ["LabForCausalLM", "LabModel"]
