"""How Text Generation Inference reads a config."""

from ctxext.engines._registry import Engine

ENGINE = Engine(
    name="TGI",
    rank=6,
    source="huggingface/text-generation-inference: server/text_generation_server/layers/rotary.py",
    readings={"linear": "ignored"},  # its branch for it does nothing
    ignored_keys={"attention_factor": "", "beta_fast": "", "beta_slow": "", "truncate": ""},
    list_attention="one",  # it multiplies the angles by short_mscale and long_mscale
    window_flag="--max-total-tokens",
    reads_rope_parameters=False,
)
