"""`ctxext finetune --dry-run` through the real command: here, for a card, and for each recipe."""

import json

import pytest
import yaml

from ctxext.runs.recipe.reader import find_recipe
from support.command import run_ctxext
from support.families import build_family

HYBRIDS = ("falcon_h1", "bamba")
LLAMA_3_8B = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096,
    "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192,
    "rope_theta": 500000.0, "torch_dtype": "bfloat16", "tie_word_embeddings": False,
}  # fmt: skip
LLAMA_2_7B = LLAMA_3_8B | {
    "intermediate_size": 11008, "num_key_value_heads": 32, "vocab_size": 32000,
    "max_position_embeddings": 4096, "rope_theta": 10000.0,
}  # fmt: skip
MISTRAL_7B = LLAMA_3_8B | {
    "architectures": ["MistralForCausalLM"], "model_type": "mistral", "vocab_size": 32768,
    "max_position_embeddings": 32768, "rope_theta": 1000000.0, "sliding_window": None,
}  # fmt: skip
QWEN_2_5_7B = LLAMA_3_8B | {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 3584,
    "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
    "num_key_value_heads": 4, "vocab_size": 152064, "max_position_embeddings": 131072,
    "rope_theta": 1000000.0, "use_sliding_window": False, "sliding_window": 131072,
}  # fmt: skip
SMOLLM2_135M = LLAMA_3_8B | {
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152,
    "rope_theta": 100000.0, "tie_word_embeddings": True,
}  # fmt: skip
# recipe -> the shape of its model, a card that it is written for, how many of them
RECIPES = {
    "llama-3-8b-128k-yarn": (LLAMA_3_8B, "h100-80gb", 8),
    "llama-3-8b-64k-24gb": (LLAMA_3_8B, "rtx-4090-24gb", 1),
    "mistral-7b-128k-yarn": (MISTRAL_7B, "a100-80gb", 8),
    "qwen2.5-7b-128k-yarn": (QWEN_2_5_7B, "h100-80gb", 1),
    "llama-2-7b-32k-longlora": (LLAMA_2_7B, "a100-80gb", 8),
    "llama-2-7b-128k-yarn": (LLAMA_2_7B, "a100-80gb", 8),
    "smollm2-135m-32k-yarn": (SMOLLM2_135M, "l4-24gb", 1),
}


def folder_of(tmp_path, config):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    return tmp_path / "model"


def plan(*arguments):
    done = run_ctxext("finetune", *arguments, "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_plan_for_this_machine_measures_and_writes_nothing(tiny_llama, tmp_path):
    """A real checkpoint on this machine: its speed is measured, nothing is written."""
    before = sorted(tiny_llama.iterdir())
    got = plan(tiny_llama, "--seq-length", 128, "--steps", 7, "--batch-size", 2)
    assert got["schema"] == "ctxext.finetune-plan/1"
    assert got["tokens"] == 7 * 2 * 8 * 128
    assert got["machine"]["name"] == "this machine's CPU"
    assert got["memory"]["fits"]
    assert got["memory"]["peak_bytes"] > got["memory"]["parts"]["libraries"] > 100 * 2**20
    assert got["time"]["seconds"] > 0
    assert got["time"]["seconds"] == pytest.approx(
        got["tokens"] / got["time"]["tokens_per_second"], rel=1e-6
    )
    assert sorted(tiny_llama.iterdir()) == before


def test_a_plan_prints_memory_by_part_and_ways_out(tmp_path):
    done = run_ctxext(
        "finetune", folder_of(tmp_path, LLAMA_3_8B), "--dry-run", "--gpu", "h100-80gb",
        "--seq-length", "8k",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "| weights | 15.0 GiB |" in done.stdout
    assert "--offload activations" in done.stdout
    assert "fits into h100-80gb" in done.stdout


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_shipped_recipes_fit_on_the_cards_they_name(name, tmp_path):
    config, gpu, gpus = RECIPES[name]
    got = plan(folder_of(tmp_path, config), "--recipe", name, "--gpu", gpu, "--gpus", gpus)
    recipe = yaml.safe_load(find_recipe(name).read_text())
    target = (recipe.get("extend") or recipe["stages"][-1]["extend"])["target"]
    assert got["window"] == int(target[:-1]) * 1024
    assert got["memory"]["fits"], got["memory"]
    assert got["tokens"] >= 10e6


# written for what has no positions to extend, of any size
FOR_ANY_MODEL = {"drope", "head-temperature"}


@pytest.mark.parametrize("name", sorted(FOR_ANY_MODEL))
def test_recipes_for_any_model_are_planned_on_a_card(name, tmp_path):
    got = plan(
        folder_of(tmp_path, SMOLLM2_135M | {"no_rope_layers": [0] * 30, "model_type": "smollm3"}),
        "--recipe", name, "--gpu", "l4-24gb", "--seq-length", "8k",
    )  # fmt: skip
    recipe = yaml.safe_load(find_recipe(name).read_text())["train"]
    assert (
        got["tokens"]
        == recipe["steps"] * recipe["batch_size"] * recipe["gradient_accumulation"] * 8192
    )
    assert got["memory"]["fits"], got["memory"]


def test_every_shipped_recipe_is_here():
    shipped = {path.stem for path in find_recipe("demo").parent.glob("*.yaml")}
    assert shipped == {*RECIPES, *FOR_ANY_MODEL, "demo"}


def test_what_cannot_be_planned(tmp_path):
    model = folder_of(tmp_path, LLAMA_3_8B)
    nameless = {k: v for k, v in LLAMA_3_8B.items() if k != "intermediate_size"}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(json.dumps(nameless))
    cases = {
        (model, "--dry-run", "--gpu", "h100"): "did you mean h100-80gb?",
        (model, "--dry-run", "--gpu", "t4-16gb"): "this card has no bfloat16",
        (model, "--dry-run", "--gpu", "h100-80gb", "--dtype", "float16"): "--dtype float16",
        (model, "--gpu", "h100-80gb", "-o", tmp_path / "out"): "add --dry-run",
        (
            model,
            "--dry-run",
            "--gpu",
            "h100-80gb",
            "--seq-length",
            "64k",
        ): "add --method yarn --target 65536 to extend it first",
        (model, "--dry-run", "--gpus", "3", "--context-parallel", "2"): "no multiple of it",
        (tmp_path / "other", "--dry-run", "--gpu", "h100-80gb"): "nothing can be planned",
    }
    for arguments, words in cases.items():
        done = run_ctxext("finetune", *arguments)
        assert done.returncode == 2, (arguments, done.stderr)
        assert words in done.stderr.replace("\n", " "), done.stderr
        assert "Traceback" not in done.stderr


def test_stages_add_up_and_the_largest_is_planned(tmp_path):
    recipe = {
        "train": {"seq_length": 1024, "steps": 3, "gradient_accumulation": 1},
        "stages": [{"extend": {"target": 16384}, "train": {"seq_length": 16384}}, {}],
    }
    (tmp_path / "stages.yaml").write_text(yaml.safe_dump(recipe))
    done = run_ctxext(
        "finetune", folder_of(tmp_path, LLAMA_3_8B), "--recipe", tmp_path / "stages.yaml",
        "--dry-run", "--json", "--gpu", "h100-80gb",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    assert (got["window"], got["seq_length"], got["steps"]) == (16384, 16384, 6)
    assert [stage["tokens"] for stage in got["stages"]] == [3 * 16384, 3 * 1024]
    assert got["tokens"] == 3 * 16384 + 3 * 1024


def test_the_dtype_of_a_card(tmp_path):
    """bfloat16 whatever is stored; float32 has no fused attention for grouped keys, and is counted
    so: 2 w * 32 heads * 8192 numbers for each token, twice, are 32 GiB."""
    half = LLAMA_3_8B | {"torch_dtype": "float16"}
    model = folder_of(tmp_path, half)
    got = plan(model, "--gpu", "h100-80gb", "--seq-length", "8k")
    assert got["dtype"] == "bfloat16"
    assert (
        "stored in float16, computed in bfloat16, as --dtype auto does on a GPU" in got["warnings"]
    )
    assert got["memory"]["fits"]
    single = plan(model, "--gpu", "a100-40gb", "--seq-length", "8k", "--dtype", "float32")
    assert any("no fused attention for grouped keys" in w for w in single["warnings"])
    assert not single["memory"]["fits"]
    attention = 2 * 2 * 4 * 32 * 8192**2
    assert single["memory"]["parts"]["one layer and its gradients"] > attention
    parked = plan(model, "--gpu", "h100-80gb", "--seq-length", "8k", "--offload", "activations")
    assert parked["memory"]["host_bytes"] == 32 * 8192 * 4096 * 2
    assert parked["memory"]["host_available_bytes"] == 200 * 2**30


def test_validation_and_warm_up_are_planned(tmp_path):
    model, text = folder_of(tmp_path, LLAMA_3_8B), tmp_path / "text.txt"
    text.write_text("held out")
    flags = (model, "--gpu", "h100-80gb", "--seq-length", "8k", "--steps", 20)
    plain = plan(*flags, "--warmup-steps", 40)
    assert any("only gets to 50% of --lr" in warning for warning in plain["warnings"])
    assert plain["time"]["validation_seconds"] == 0
    measured = plan(*flags, "--eval-data", text, "--eval-every", 10)
    # 3 times 4 rows, each a third of a pass; a step is of 8 passes
    per_step = plain["stages"][0]["seconds_per_step"]
    assert measured["time"]["validation_seconds"] == pytest.approx(3 * 4 / 3 * per_step / 8)
    assert measured["time"]["seconds"] == pytest.approx(20 * per_step + per_step / 2)
    assert measured["time"]["tokens_per_second"] == plain["time"]["tokens_per_second"]
    extended = ("--target", "16k")
    done = run_ctxext("finetune", *flags, "--eval-every", 10, *extended, "--dry-run")
    assert "of which validation takes" in " ".join(done.stdout.split())
    assert "extend further (--target)" in done.stdout
    missing = run_ctxext("finetune", *flags, "--eval-data", tmp_path / "no.txt", "--dry-run")
    assert missing.returncode == 2
    assert "--eval-data" in missing.stderr
    nowhere = run_ctxext("finetune", *flags, "--method", "yarn", "--dry-run")
    assert nowhere.returncode == 2
    assert "neither extend.target nor extend.factor says how far to extend" in nowhere.stderr


@pytest.mark.parametrize("model_type", HYBRIDS)
def test_a_class_that_derives_its_layers_is_planned_too(tmp_path, book, model_type):
    """transformers writes their infinite limits as {"__float__": "Infinity"}."""
    base = build_family(tmp_path / "base", model_type)
    assert "__float__" in (base / "config.json").read_text()
    flags = ("--data", book, "--seq-length", 64, "--steps", 2, "--dry-run", "--json")
    done = run_ctxext("finetune", base, *flags, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["schema"].startswith("ctxext.finetune-plan/")
