"""How MLX-LM reads a config."""

from ctxext.engines._registry import Engine

ENGINE = Engine(
    name="MLX",
    rank=5,
    source="ml-explore/mlx-lm: mlx_lm/models/rope_utils.py, models/llama.py",
    readings={"dynamic": "refused"},
    ignored_keys={"attention_factor": "", "truncate": ""},
    list_attention="standard",
    serve="mlx_lm.generate --model {repo} --prompt -",
    reads_rope_parameters=False,
)
