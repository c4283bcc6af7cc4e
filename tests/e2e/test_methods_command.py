"""`ctxext methods`, and the methods that `ctxext extend` gets from it, through the real command."""

import json
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import ctxext
from ctxext.api.extend import extend
from ctxext.api.perplexity import perplexity
from ctxext.checkpoints.config.detect import detect
from ctxext.encodings.rope_types import follows_length
from ctxext.engines import ENGINES
from ctxext.methods import METHODS
from support.command import run_ctxext

ROOT = Path(__file__).parent.parent.parent


def test_the_table_names_every_method_with_its_facts():
    done = run_ctxext("methods")
    assert done.returncode == 0
    lines = {line.split(" | ")[0].strip("| "): line for line in done.stdout.splitlines()}
    assert set(METHODS) <= set(lines)
    assert "arXiv:2309.00071" in lines["yarn"]
    assert "all; transformers from 4.51 on" in lines["yarn"]
    assert "ExLlamaV3 (refuses)" in lines["dynamic"]
    assert re.search(r"\| vLLM \(in 0.8.5 to 0.10 only\), SGLang \|", lines["dual-chunk"])


def test_one_method_in_full():
    done = run_ctxext("methods", "ntk_by_parts")
    assert "| alpha | 1 |" in done.stdout
    assert "| beta | 32 |" in done.stdout
    for engine in ENGINES:
        assert f"| {engine.name} | " in done.stdout
    assert "has to be given" in run_ctxext("methods", "longrope").stdout


def test_the_document_is_that_of_python():
    done = run_ctxext("methods", "--json")
    document = json.loads(done.stdout)
    assert document["schema"] == "ctxext.methods/1"
    assert document == json.loads(json.dumps(ctxext.list_methods().to_dict()))
    rows = {row["name"]: row for row in document["methods"]}
    assert list(rows) == sorted(METHODS)
    assert rows["yarn"]["parameters"]["beta_fast"] == 32
    assert rows["longrope"]["required"] == ["long_factor"]
    assert rows["dual-chunk"]["written_as"] == "dual_chunk_attention_config"
    assert {cell["engine"] for cell in rows["abf"]["engines"]} == {e.name for e in ENGINES}


def test_an_unknown_name_offers_the_nearest():
    done = run_ctxext("methods", "yran", "--json")
    assert done.returncode == 2
    assert "yarn" in json.loads(done.stdout)["hint"]


def test_readme_and_docs_name_every_method():
    for file in ("README.md", "docs/methods.md"):
        text = (ROOT / file).read_text()
        assert [name for name in METHODS if f"`{name}`" not in text] == [], file


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("name", ["ntk-by-parts", "resonance", "cope", "p-rope", "abf"])
def test_transformers_runs_what_is_written(tmp_path, tiny_llama, family, name):
    """Logits past the window are those of the weights with the intended frequencies put in."""
    from support.checkpoints import build_tiny

    base = build_tiny(tmp_path / "base", family)
    done = extend(str(base), method=name, target=1024, output_dir=tmp_path / "out", check=True)
    assert done.checked_relative_difference < 1e-6
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    rope = detect(config, where="config.json").rope
    assert not rope.block.follows_length
    wanted = AutoModelForCausalLM.from_pretrained(base).eval()
    rotary = wanted.model.rotary_emb
    rotary.inv_freq.copy_(torch.tensor(rope.inv_freq, dtype=torch.float32))
    rotary.attention_scaling = rope.attention_factor
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    ids = torch.arange(300)[None] % 250
    with torch.no_grad():
        for length in (60, 300):  # within the window, and past it
            ours, theirs = model(ids[:, :length]).logits, wanted(ids[:, :length]).logits
            assert torch.allclose(ours, theirs, atol=2e-4), length


def test_equal_lists_read_in_chunks_alike(tmp_path, tiny_llama, book):
    """What follows the length is refused in chunks; one rotation at every length is not."""
    out = tmp_path / "out"
    extend(str(tiny_llama), method="ntk-by-parts", target=512, output_dir=out)
    rows = [
        perplexity(str(out), data=str(book), lengths=512, tokens=2048, prefill_chunk=chunk)
        for chunk in (0, 128)
    ]
    whole, chunked = (result.results[0].nll for result in rows)
    assert chunked == pytest.approx(whole, rel=1e-5)


def test_a_block_follows_the_length_or_not():
    lists = {"rope_type": "longrope", "short_factor": [1, 2], "long_factor": [1, 2]}
    assert follows_length(lists)  # the attention factor is the reader's
    assert not follows_length(lists | {"attention_factor": 1.0})
    assert follows_length(lists | {"attention_factor": 1.0, "long_factor": [1, 3]})
    assert follows_length({"rope_type": "dynamic"})
    assert not follows_length({"type": "yarn"})
    assert not follows_length({})


FACTORS = [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("factors.json", json.dumps({"long_factor": FACTORS})),
        ("config.json", json.dumps({"rope_scaling": {"long_factor": FACTORS}})),
        ("result_final.csv", "\n".join(f"{factor:.18e}" for factor in FACTORS) + "\n"),
    ],
)
def test_factors_from_a_file(tmp_path, tiny_llama, file, text):
    (tmp_path / file).write_text(text)
    done = run_ctxext(
        "extend", tiny_llama, "--method", "longrope", "--target", "512", "--factors",
        tmp_path / file, "-o", tmp_path / "out", "--check", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    block = json.loads((tmp_path / "out" / "config.json").read_text())["rope_parameters"]
    assert block["long_factor"] == FACTORS
    assert block["short_factor"] == [1.0] * 8
    assert "attention_factor" not in block


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no number"),
        ("1\n2\nthree\n", "line 3 is 'three'"),
        ("1,2,3", "line 1"),
        ("1\n2\n", "long_factor has 2 numbers, and 8 are needed"),
        ("\n".join(["nan"] * 8), "nan, and has to be a list of finite numbers"),
        ("\n".join(["1e-9"] * 8), "long_factor[0] is 1e-09"),
        ("{}", "has no long_factor"),
        ('{"long_factor": "many"}', "has to be a list of finite numbers"),
        ('{"long_factor": [1, 2', "not valid JSON"),
        ("[1, 2]", "holds a list, not a JSON object"),
    ],
)
def test_factors_that_cannot_be_used_are_one_sentence(tmp_path, tiny_llama, text, words):
    path = tmp_path / "factors"
    path.write_text(text)
    done = run_ctxext(
        "extend", tiny_llama, "--method", "longrope", "--target", "512", "--factors", path,
        "--dry-run", "--json",
    )  # fmt: skip
    assert done.returncode == 2, done.stdout
    assert words in json.loads(done.stdout)["error"]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "longrope"], "needs the factor of every rotary pair"),
        (["--method", "longrope", "--factors", "nowhere"], "nowhere does not exist"),
        (["--method", "yarn", "--factors", "nowhere"], "method yarn computes them"),
        (["--method", "p-rope", "--set", "p=2"], "p above 0"),
        (["--method", "p-rope", "--set", "n=2"], "no parameter 'n'"),
    ],
)
def test_arguments_that_do_not_go_together(tiny_llama, arguments, words):
    done = run_ctxext("extend", tiny_llama, "--target", "512", *arguments, "--dry-run", "--json")
    assert done.returncode == 2
    assert words in json.loads(done.stdout)["error"]


def test_dual_chunk_is_written_and_replaced(tmp_path, tiny_llama):
    done = extend(str(tiny_llama), method="dual_chunk", target=512, output_dir=tmp_path / "dual")
    assert done.method == "dual-chunk"
    assert any("there the rope is unscaled" in warning for warning in done.warnings)
    config = json.loads((tmp_path / "dual" / "config.json").read_text())
    assert config["dual_chunk_attention_config"] == {
        "chunk_size": 96, "local_size": 16, "original_max_position_embeddings": 128
    }  # fmt: skip
    assert config["max_position_embeddings"] == 512
    assert config["rope_scaling"] is None
    again = extend(str(tmp_path / "dual"), target=512, output_dir=tmp_path / "yarn")
    assert any("dual_chunk_attention_config is removed" in warning for warning in again.warnings)
    config = json.loads((tmp_path / "yarn" / "config.json").read_text())
    assert "dual_chunk_attention_config" not in config
    assert config["rope_parameters"]["factor"] == 4.0


def test_a_recipe_may_hold_the_factors(tiny_llama):
    from ctxext.api.extension_plan import planned_window
    from ctxext.runs.recipe.extend_config import ExtendConfig

    config = json.loads((Path(tiny_llama) / "config.json").read_text())
    wanted = ExtendConfig(method="longrope", target=512, parameters={"long_factor": FACTORS})
    assert planned_window(config, wanted).rope.block.long_factor == tuple(FACTORS)
    with pytest.raises(ctxext.BadInput, match="needs long_factor"):
        planned_window(config, ExtendConfig(method="longrope", target=512))


def test_the_list_needs_no_torch():
    import subprocess
    import sys

    code = "import ctxext, sys; ctxext.list_methods(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "transformers"} & set(done.stdout.split())
