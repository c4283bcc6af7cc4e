"""Every shipped recipe trains: all its lengths divided by 256, a tiny model in place of its own.

What is not run as it stands: two steps of one pass, texts from a file, one process, and no 4 bits
(which want a GPU).
"""

import json

import pytest

import ctxext
from ctxext.lengths import parse_length
from ctxext.runs.log import read_log
from ctxext.runs.recipe.reader import find_recipe, read_recipe
from support.checkpoints import build_tiny

SCALE = 256
# recipe -> family and window of its model
MODELS = {
    "llama-2-7b-128k-yarn": ("llama", 4096),
    "llama-2-7b-32k-longlora": ("llama", 4096),
    "llama-3-8b-128k-yarn": ("llama", 8192),
    "llama-3-8b-64k-24gb": ("llama", 8192),
    "mistral-7b-128k-yarn": ("mistral", 32768),
    "qwen2.5-7b-128k-yarn": ("qwen2", 131072),
    "smollm2-135m-32k-yarn": ("llama", 8192),
}
LENGTHS = ("target", "original_length", "seq_length", "pose_target", "min_tokens", "mlp_tile")


def scaled(value):
    """A recipe's lengths divided by SCALE, everywhere in it."""
    if isinstance(value, list):
        return [scaled(item) for item in value]
    if not isinstance(value, dict):
        return value
    out = {key: scaled(item) for key, item in value.items() if key != "tokens"}
    for key in LENGTHS:
        if key in out:
            out[key] = parse_length(str(out[key])) // SCALE
    return out


def small(name, text):
    recipe = scaled(read_recipe(find_recipe(name)))
    recipe.pop("model")
    for part in (recipe, *recipe.get("stages", [])):
        part.setdefault("train", {}).update(steps=2, gradient_accumulation=1, warmup_steps=1)
    recipe["train"]["quantize"] = "none"
    recipe["parallel"] = {}
    for source in recipe["data"].get("sources", [recipe["data"]]):
        source["source"] = str(text)
    return recipe


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    lines = [
        json.dumps({"text": f"document {n}: " + "all work and no play " * 60}) for n in range(30)
    ]
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("name", sorted(MODELS))
def test_shipped_recipes_train(name, text, tmp_path):
    family, window = MODELS[name]
    # transformers gives every Qwen2 tokenizer an end-of-text token, here the 257th
    base = build_tiny(tmp_path / "base", family, window=window // SCALE, vocabulary=264)
    recipe = small(name, text)
    done = ctxext.finetune(str(base), output_dir=tmp_path / "out", recipe=recipe, device="cpu")
    stages = recipe.get("stages", [recipe])
    assert done.steps == 2 * len(stages)
    assert [line.step for line in read_log(tmp_path / "out" / "log.jsonl")] == [
        *range(1, done.steps + 1)
    ]
    target = stages[-1]["extend"]["target"]
    merged = json.loads((tmp_path / "out" / "merged" / "config.json").read_text())
    assert merged["max_position_embeddings"] == target
    trained = recipe["extend"].get("original_length") if "extend" in recipe else None
    assert merged["rope_scaling"]["factor"] == target / (trained or window // SCALE)
