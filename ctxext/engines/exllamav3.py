"""How ExLlamaV3 reads a config."""

from ctxext.engines._registry import Engine

ENGINE = Engine(
    name="ExLlamaV3",
    rank=7,
    source="turboderp-org/exllamav3: exllamav3/util/rope.py, model/config.py",
    readings={"dynamic": "refused"},
    list_attention="standard",
    window_flag="max_seq_len",
)
