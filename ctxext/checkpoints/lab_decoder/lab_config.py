"""The config of the laboratory's decoder."""

import math
from typing import Any, Final, Literal, get_args

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from ctxext.checkpoints.lab_decoder.model_type import ENCODINGS, MODEL_TYPE

LabBlock = Literal["llama", "gpt2"]
_LEAST: Final = 1e-30  # what is divided by it still has a float32


@strict
class LabConfig(PreTrainedConfig):  # type: ignore[misc]
    """What makes up a decoder of the laboratory; models differ in `position_encoding` alone.

    Attributes:
        position_encoding: how tokens are told where they sit.
        max_position_embeddings: the window, tokens; rows of the table where it is learned.
        rope_parameters: of rope, as in Llama; None = `default` at base 10,000.
        alibi_slope_factor: ALiBi's slopes are divided by it: m L / L' reads L'/L times as far.
        sinusoid_base: the longest wave of the sinusoids is nearly 2 pi times as many tokens long.
        sinusoid_scale: root mean square of the sinusoids of a position. The default is that of
            fresh embeddings; waves 5 and more times as large drown the tokens (one seed, 400 steps
            on text: 2.34 nats a byte with 0.02, 2.58 with 0.1, 2.74 with 0.7).
        block: `llama` has RMSNorm, SwiGLU and no biases; `gpt2` LayerNorm, gelu_new and biases.
        norm_eps: added to variances.
    """

    model_type = MODEL_TYPE
    keys_to_ignore_at_inference = ("past_key_values",)

    vocab_size: int = 256
    hidden_size: int = 128
    intermediate_size: int = 352
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    max_position_embeddings: int = 256
    position_encoding: str = "rope"
    rope_parameters: dict[str, Any] | None = None
    alibi_slope_factor: float | int = 1.0
    sinusoid_base: float | int = 10_000.0
    sinusoid_scale: float | int = 0.02
    block: str = "llama"
    norm_eps: float | int = 1e-5
    initializer_range: float = 0.02
    use_cache: bool = True
    tie_word_embeddings: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Let transformers write the rope block in full where there is one."""
        if self.position_encoding == "rope":
            self.rope_parameters = self.rope_parameters or {"rope_type": "default"}
            super().__post_init__(**kwargs)
            return
        # Attributes of this name are completed to a rope by transformers.
        stated = self.rope_parameters
        del self.rope_parameters
        super().__post_init__(**kwargs)
        self.rope_parameters = stated

    def validate_architecture(self) -> None:
        """Refuse what makes no decoder; called by transformers' `strict`.

        Raises:
            ValueError: a word that is not known, or sizes that do not divide.
        """
        if self.position_encoding not in ENCODINGS:
            raise ValueError(
                f"position_encoding is one of {', '.join(ENCODINGS)}, not "
                f"{self.position_encoding!r}"
            )
        if self.block not in get_args(LabBlock):
            raise ValueError(f"block is llama or gpt2, not {self.block!r}")
        if self.position_encoding != "rope" and self.rope_parameters:
            raise ValueError(f"rope_parameters are of no use to {self.position_encoding}")
        width, rest = divmod(self.hidden_size, self.num_attention_heads)
        if rest or width % 2:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not an even number for each of "
                f"{self.num_attention_heads} heads"
            )
        for name in ("alibi_slope_factor", "sinusoid_base"):
            if not _LEAST < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is a number above 0, not {getattr(self, name)}")
        for name in ("sinusoid_scale", "norm_eps"):
            if not 0 <= getattr(self, name) < 1 / _LEAST:
                raise ValueError(f"{name} is a number from 0 up, not {getattr(self, name)}")
