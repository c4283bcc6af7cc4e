"""How transformers reads a config, from 4.46 to 5.

Run in 4.46, 4.48, 4.51, 4.53, 4.55, 4.57 and 5.23 on configs as `ctxext extend` writes them, in
both dialects: `default`, `linear`, `dynamic` and `llama3` are exact in all of them, `yarn` from
4.51 on (before, it takes max_position_embeddings for the trained window), and so is `longrope`,
whose attention factor 4.48 gets wrong. What each method needs is its `since`.
"""

from ctxext.engines._registry import Engine

ENGINE = Engine(
    name="transformers",
    rank=0,
    source="huggingface/transformers: src/transformers/modeling_rope_utils.py",
    releases=("4.46", "4.51", "4.57", "5"),
)
