"""What `extend` writes, for every family and method, as every reader will see it."""

import json
import math
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, DynamicCache

from ctxext.api.extend import extend
from ctxext.api.extension_plan import planned_window
from ctxext.checkpoints.live.rotary import one_live_rope
from ctxext.checkpoints.opened import open_checkpoint
from ctxext.checkpoints.provenance import origin_of
from ctxext.errors import BadInput
from ctxext.evaluation.reading.room import cache_as_argument
from ctxext.runs.recipe.extend_config import ExtendConfig
from support.checkpoints import build_tiny
from support.command import run_ctxext
from support.sparse import make_sparse
from support.tiny_models import cached_numbers, tiny_config

METHODS = ["linear", "ntk", "dynamic", "yarn", "llama3"]


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_transformers_rotates_as_the_method_says(tmp_path, family, method):
    base = build_tiny(tmp_path / "base", family)
    out = tmp_path / "out"
    result = extend(str(base), method=method, target=1024, output_dir=out, check=True)
    assert result.checked_relative_difference < 1e-6
    model = AutoModelForCausalLM.from_pretrained(out)
    rotary = one_live_rope(model, family)
    if method == "dynamic":
        rotary.at(1024)
    rope = open_checkpoint(str(out)).position.rope
    assert rotary.inv_freq.tolist() == pytest.approx(rope.inv_freq, rel=1e-6)
    plain = AutoModelForCausalLM.from_pretrained(base)
    ids = torch.arange(200)[None]
    with torch.no_grad():  # the patch has an effect beyond the window
        assert not torch.allclose(model(ids).logits[0, -1], plain(ids).logits[0, -1], atol=1e-3)
    for name, tensor in load_file(base / "model.safetensors").items():
        assert torch.equal(load_file(out / "model.safetensors")[name], tensor)


@pytest.mark.parametrize("method", METHODS)
def test_both_dialects_by_the_rules(tmp_path, tiny_llama, method):
    out = tmp_path / "out"
    extend(str(tiny_llama), method=method, target=1024, output_dir=out)
    config = config_of(out)
    new, old = config["rope_parameters"], config["rope_scaling"]
    assert new["rope_theta"] == config["rope_theta"]
    if method == "ntk":
        assert old is None
        assert new["rope_type"] == "default"
    else:
        assert old == {k: v for k, v in new.items() if k != "rope_theta"}
        assert old["rope_type"] == old["type"] == method
        assert old["factor"] == 8.0
    window = 128 if method == "dynamic" else 1024
    assert config["max_position_embeddings"] == window
    assert isinstance(config["max_position_embeddings"], int)
    assert ("original_max_position_embeddings" in config) == (method == "llama3")
    assert "attention_factor" not in new
    tokenizer = json.loads((out / "tokenizer_config.json").read_text())
    assert tokenizer["model_max_length"] == 1024
    # unknown keys and their order stay
    before = [k for k in config_of(tiny_llama) if k in config]
    assert [k for k in config if k in before] == before
    # transformers 5 reads it without a complaint about its keys
    assert AutoConfig.from_pretrained(out).rope_parameters["rope_type"] == new["rope_type"]
    assert AutoTokenizer.from_pretrained(out).model_max_length == 1024


def test_a_scaled_checkpoint_is_extended_from_its_original_window(tmp_path, tiny_llama):
    for first in METHODS:
        one, two = tmp_path / f"{first}-1", tmp_path / f"{first}-2"
        extend(str(tiny_llama), method=first, target=512, output_dir=one)
        again = extend(str(one), method="yarn", target=2048, output_dir=two)
        assert again.window.original == 128, first
        assert again.parameters["factor"] == 16.0
        assert any("scaled before" in w and "replaced" in w for w in again.warnings)
        direct = tmp_path / f"{first}-direct"
        extend(str(tiny_llama), method="yarn", target=2048, output_dir=direct)
        keys = ("rope_parameters", "rope_scaling", "rope_theta", "max_position_embeddings")
        assert [config_of(two)[k] for k in keys] == [config_of(direct)[k] for k in keys]
        assert "original_max_position_embeddings" not in config_of(two)


def test_original_length_corrects_a_config_that_lies(tmp_path):
    base = build_tiny(tmp_path / "base", "qwen3", window=160)
    result = extend(
        str(base), target=512, original_length=128, output_dir=tmp_path / "out", check=True
    )
    assert result.parameters["factor"] == 4.0
    assert config_of(tmp_path / "out")["rope_scaling"]["original_max_position_embeddings"] == 128


def test_sliding_window(tmp_path):
    base = build_tiny(tmp_path / "base", "mistral")
    config = config_of(base)
    config["sliding_window"] = 64
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match="last 64 tokens only"):
        extend(str(base), target=512, output_dir=tmp_path / "no")
    assert not (tmp_path / "no").exists()
    extend(str(base), target=512, output_dir=tmp_path / "off", sliding_window=None)
    assert config_of(tmp_path / "off")["sliding_window"] is None
    extend(str(base), target=512, output_dir=tmp_path / "wide", sliding_window=512)
    assert config_of(tmp_path / "wide")["sliding_window"] == 512
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "off").config.sliding_window is None


def last_sees_first(model, steps):
    """Whether the last of 40 tokens sees the first, in one pass or after a pass and so many steps
    with a cache."""
    logits = []
    for first in (1, 2):
        tokens, cache = torch.arange(40)[None] + 3, DynamicCache(config=model.config)
        tokens[0, 0] = first
        with torch.no_grad():
            for part in tokens.split([40 - steps, *[1] * steps], dim=1):
                out = model(part, **cache_as_argument(model.forward, cache))
        logits.append(out.logits[0, -1])
    return not torch.equal(*logits)


@pytest.mark.parametrize(
    ("family", "alone"), [("llama", True), ("gemma", True), ("granite", True), ("mistral", False)]
)
def test_a_window_of_a_class_that_has_none_shapes_its_cache_alone(tmp_path, family, alone):
    config = tiny_config(
        family, num_hidden_layers=2, sliding_window=8, max_position_embeddings=128, vocab_size=64
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(tmp_path / "base")
    assert last_sees_first(model, steps=0) == alone
    assert not last_sees_first(model, steps=24)
    words = "attends to all in a forward pass, and steps with a cache"
    shown = run_ctxext("inspect", tmp_path / "base", "--target", "512")
    assert "last 8 tokens only" in shown.stderr
    assert (words in shown.stderr) == (words in shown.stdout) == alone
    refused = run_ctxext("extend", tmp_path / "base", "--target", "512", "--dry-run")
    assert refused.returncode == 2
    assert (words in refused.stderr) == alone
    off = ("--sliding-window", "off", "--check")
    done = run_ctxext("extend", tmp_path / "base", "--target", "512", "-o", tmp_path / "out", *off)
    assert done.returncode == 0, done.stderr
    assert ("the weights were trained with it" in done.stderr) != alone
    wide = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert last_sees_first(wide, steps=0)
    assert last_sees_first(wide, steps=24)


def test_a_mistral_whose_layers_are_not_all_alike_is_what_transformers_makes_of_it(tmp_path):
    base = build_tiny(tmp_path / "base", "mistral")
    kinds = ["sliding_attention", "full_attention"]
    config = config_of(base) | {"sliding_window": 64, "layer_types": kinds}
    (base / "config.json").write_text(json.dumps(config))
    done = run_ctxext("inspect", base)
    assert "1 x sliding attention over 64, 1 x full attention" in done.stdout
    done = run_ctxext("extend", base, "--target", "512", "-o", tmp_path / "out", "--check")
    assert done.returncode == 0, done.stderr
    assert "1 of 2 layers attend to the last 64 tokens only" in done.stderr
    written = config_of(tmp_path / "out")
    assert (written["model_type"], written["layer_types"]) == ("mistral", kinds)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert (type(model).__name__, model.config.layer_types) == ("MinistralForCausalLM", kinds)
    read = open_checkpoint(str(tmp_path / "out")).position
    live = one_live_rope(model, "ministral")
    assert read.rope.inv_freq == pytest.approx(live.inv_freq.tolist(), rel=1e-6)
    # keys and values of 2 heads of 16 dims; a window of 64 keeps the 63 before the next token
    assert cached_numbers(model.config, 200) == [64 * 63, 64 * 200]
    assert [layer.window for layer in read.layers] == [64, None]


def test_qwen_layers_that_slide_are_switched_off(tmp_path):
    base = build_tiny(tmp_path / "base", "qwen2")
    config = config_of(base) | {
        "use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1,
        "layer_types": ["full_attention", "sliding_attention"],
    }  # fmt: skip
    (base / "config.json").write_text(json.dumps(config))
    mixed = extend(str(base), target=512, output_dir=tmp_path / "mixed")
    assert any("1 of 2 layers" in w for w in mixed.warnings)
    extend(str(base), target=512, output_dir=tmp_path / "off", sliding_window=None)
    off = AutoConfig.from_pretrained(tmp_path / "off")
    assert set(off.layer_types) == {"full_attention"}
    assert off.sliding_window is None


def test_files_are_linked_or_copied_and_carried(tmp_path, tiny_llama):
    base = tmp_path / "base"
    build_tiny(base, shard="60KB")
    for name in ("chat_template.jinja", "LICENSE", "special_tokens_map.json"):
        (base / name).write_text(f"{{# {name} #}}")
    (base / "pytorch_model.bin").write_bytes(b"x")
    (base / "README.md").write_text("---\nlicense: llama3.1\nlicense_link: LICENSE\n---\n# base")
    linked = extend(str(base), target=512, output_dir=tmp_path / "linked")
    copied = extend(str(base), target=512, output_dir=tmp_path / "copied", weights="copy")
    assert (linked.weights, copied.weights) == ("linked", "copied")
    for file in base.glob("*.safetensors"):
        assert (tmp_path / "copied" / file.name).stat().st_nlink == 1
        assert (tmp_path / "copied" / file.name).read_bytes() == file.read_bytes()
    for name in ("chat_template.jinja", "LICENSE", "special_tokens_map.json", "tokenizer.json"):
        assert (tmp_path / "linked" / name).read_bytes() == (base / name).read_bytes()
    assert "pytorch_model.bin" not in linked.files
    assert "README.md" not in linked.files
    record = json.loads((tmp_path / "linked" / "ctxext.json").read_text())
    assert record["license"] == {"license": "llama3.1", "license_link": "LICENSE"}
    assert str(tmp_path) not in json.dumps(record)
    assert set(linked.files) == {p.name for p in (tmp_path / "linked").iterdir()}


def test_a_dry_run_says_all_that_the_real_one_does(tmp_path, tiny_llama):
    """Files beside the config too: what is raised in them, and what of them stays behind."""
    base = tmp_path / "base"
    shutil.copytree(tiny_llama, base)
    (base / "generation_config.json").write_text('{"max_length": 128}')
    (base / "images").mkdir()
    (base / "notes.txt").symlink_to("/etc/hostname")
    foreseen = extend(str(base), target=512, dry_run=True)
    done = extend(str(base), target=512, output_dir=tmp_path / "out")
    assert foreseen.config_diff == done.config_diff
    assert foreseen.warnings == done.warnings
    assert done.config_diff["generation_config.max_length"] == (128, 512)
    assert done.config_diff["tokenizer_config.model_max_length"] == (128, 512)
    assert "subfolders were not carried over: images/" in done.warnings
    assert any("notes.txt" in warning for warning in done.warnings)


def test_dry_run_writes_nothing_and_shows_the_diff(tmp_path, tiny_llama):
    done = run_ctxext("extend", tiny_llama, "--target", "1k", "--dry-run", "--json")
    document = json.loads(done.stdout)
    assert document["dry_run"] is True
    assert document["output_dir"] is None
    assert document["config_diff"]["max_position_embeddings"] == [128, 1024]
    assert document["window"] == {"original": 128, "target": 1024}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["extend", "inspect"])
def test_neither_torch_nor_transformers_is_imported(tmp_path, command):
    """On 16 GB of weights, of which only the headers are there."""
    assert make_sparse(tmp_path / "base") > 16e9
    out = ["-o", str(tmp_path / "out")] if command == "extend" else []
    arguments = ["ctxext", command, str(tmp_path / "base"), "--target", "128k", *out]
    code = (
        "import sys; from ctxext.cli.main import main\n"
        f"sys.argv = {arguments!r}\n"
        "try: main()\n"
        "except SystemExit as done: assert not done.code\n"
        "heavy = {'torch', 'transformers', 'numpy'} & set(sys.modules); assert not heavy, heavy\n"
        "status = open('/proc/self/status').read()\n"  # ru_maxrss would count pytest itself
        "peak = int(status.split('VmHWM:')[1].split()[0])\n"
        "assert peak < 60 * 1024, peak\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_same_output_bytes_every_time(tmp_path, tiny_llama):
    for name in ("a", "b"):
        assert run_ctxext(
            "extend", tiny_llama, "--target", "1k", "-o", tmp_path / name / "out"
        ).returncode == 0  # fmt: skip
    for file in (tmp_path / "a" / "out").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / "out" / file.name).read_bytes(), file.name


def test_foreign_weights(tmp_path, stories):
    result = extend(str(stories), target=2048, output_dir=tmp_path / "s", check=True)
    assert result.window.original == 512
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "s")
    assert model.config.rope_parameters["factor"] == 4.0


@pytest.mark.parametrize("method", METHODS)
def test_the_planned_window_is_the_written_one_and_needs_no_weights(tmp_path, tiny_llama, method):
    written = tmp_path / "written"
    extend(str(tiny_llama), method=method, target=1024, output_dir=written)
    found = open_checkpoint(str(written)).position
    plain = planned_window(config_of(tiny_llama), ExtendConfig(method, target=1024))
    assert (plain.window.original, plain.window.current) == (128, 1024)
    assert plain.rope.sha256 == found.rope.sha256
    assert plain.rope.inv_freq == found.rope.inv_freq
    # Of what is extended already: from the window before, which ctxext.json beside it tells.
    again = planned_window(
        config_of(written), ExtendConfig(method, factor=16), origin=origin_of(written)
    )
    further = planned_window(config_of(tiny_llama), ExtendConfig(method, target=2048))
    assert again.rope.sha256 == further.rope.sha256


def test_a_plan_that_cannot_be_names_the_keys_of_the_recipe(tiny_llama):
    for wanted, message in (
        (ExtendConfig(target=64), r"extend\.target 64 is below the trained window of 128"),
        (ExtendConfig(target=129), r"extend\.target 129 is odd"),
        (ExtendConfig(factor=0.5), r"extend\.factor is 0\.5"),
        (ExtendConfig(), r"neither extend\.target nor extend\.factor"),
        (ExtendConfig(target=256, parameters={"beta": 1}), "no parameter 'beta'"),
    ):
        with pytest.raises(BadInput, match=message):
            planned_window(config_of(tiny_llama), wanted)


def scaled(folder, base, block, **changes):
    """A copy of a checkpoint whose config holds this rope block, in both dialects."""
    shutil.copytree(base, folder)
    config = config_of(folder) | {"rope_theta": 10000.0, "rope_scaling": block}
    config["rope_parameters"] = {**block, "rope_theta": 10000.0}
    (folder / "config.json").write_text(json.dumps(config | changes))
    return str(folder)


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}


def test_equal_betas_of_a_yarn_checkpoint_are_kept(tmp_path, tiny_llama):
    """Kimi-K2's block has 1 and 1: the ramp lies between two neighbouring pairs."""
    block = YARN | {"beta_fast": 1.0, "beta_slow": 1.0}
    base = scaled(tmp_path / "base", tiny_llama, block, max_position_embeddings=512)
    with pytest.raises(BadInput, match="nothing was extended"):
        extend(base, method="yarn", target=512, dry_run=True)
    longer = extend(base, method="yarn", target=1024, output_dir=tmp_path / "out", check=True)
    assert longer.checked_relative_difference < 1e-6  # to transformers' own frequencies
    written = config_of(tmp_path / "out")["rope_scaling"]
    assert (written["beta_fast"], written["factor"]) == (1.0, 8.0)
    assert "beta_slow" not in written  # 1 is what every reader takes


@pytest.mark.parametrize("trained", [8.0, 32.0])
def test_the_trained_factor_of_llama3_stays_up_to_its_window_and_grows_beyond(
    tmp_path, tiny_llama, trained
):
    """8 in Llama 3.1 and 32 in 3.2, both for a window of 16 times the original one."""
    block = LLAMA3 | {"factor": trained, "original_max_position_embeddings": 128}
    base = scaled(tmp_path / "base", tiny_llama, block, max_position_embeddings=2048)
    for target in (1024, 2048):
        with pytest.raises(BadInput, match=r"nothing was extended.* 2048"):
            extend(base, method="llama3", target=target, dry_run=True)
    longer = extend(base, method="llama3", target=8192, output_dir=tmp_path / "out", check=True)
    assert config_of(tmp_path / "out")["rope_scaling"]["factor"] == 4 * trained
    assert longer.parameters["factor"] == 4 * trained
    by_hand = extend(base, method="llama3", target=8192, parameters={"factor": 64}, dry_run=True)
    assert by_hand.parameters["factor"] == 64
    fresh = extend(str(tiny_llama), method="llama3", target=2048, dry_run=True)
    assert fresh.parameters["factor"] == 16


@pytest.mark.parametrize("method", METHODS)
def test_what_turns_as_before_is_not_called_extended(tmp_path, tiny_llama, method):
    extend(str(tiny_llama), method=method, target=512, output_dir=tmp_path / "one")
    with pytest.raises(BadInput, match="nothing was extended"):
        extend(str(tmp_path / "one"), method=method, target=512, output_dir=tmp_path / "two")
    assert not (tmp_path / "two").exists()
    extend(str(tmp_path / "one"), method=method, target=1024, output_dir=tmp_path / "two")


def test_a_base_that_is_left_as_it_is_was_not_extended(tiny_llama):
    with pytest.raises(BadInput, match="nothing was extended"):
        extend(str(tiny_llama), method="ntk", target=512, parameters={"alpha": 1}, dry_run=True)


def test_a_target_within_what_is_read_already_is_called_shorter(tmp_path, tiny_llama):
    """A card's block beside a max_position_embeddings that nobody raised reads 4 x 128 tokens."""
    base = scaled(tmp_path / "base", tiny_llama, YARN)
    result = extend(base, target=256, dry_run=True)
    assert any("256 tokens is shorter than the 512" in w for w in result.warnings)
    assert not any("shorter" in w for w in extend(base, target=1024, dry_run=True).warnings)


def test_a_window_that_nobody_raised_is_raised_and_the_rotation_stays(tmp_path, tiny_llama):
    """The block of Qwen's card, pasted: most readers would stop at max_position_embeddings."""
    base = scaled(tmp_path / "base", tiny_llama, YARN)
    before = open_checkpoint(base).position
    result = extend(base, target=512, output_dir=tmp_path / "out", check=True)
    assert any("from 128 to 512, where most readers look" in w for w in result.warnings)
    assert not any("replaced" in w for w in result.warnings)
    after = open_checkpoint(str(tmp_path / "out")).position
    assert after.window.max_position_embeddings == after.window.current == before.window.current
    assert after.rope.inv_freq == before.rope.inv_freq
    assert after.rope.attention_factor == before.rope.attention_factor
    with pytest.raises(BadInput, match="nothing was extended"):
        extend(str(tmp_path / "out"), target=512, dry_run=True)


@pytest.mark.parametrize("method", ["llama3", "yarn"])
def test_a_trained_window_beyond_the_one_of_the_formula_is_refused(tmp_path, tiny_llama, method):
    """Llama 3.1 was trained at 128k, and its frequencies come from 8k."""
    block = {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 128,
    }  # fmt: skip
    base = scaled(tmp_path / "base", tiny_llama, block, max_position_embeddings=2048)
    with pytest.raises(BadInput, match="frequencies from a window of 128"):
        extend(base, method=method, original_length=2048, target=4096, dry_run=True)
    kept = extend(base, method="llama3", target=4096, dry_run=True)
    assert kept.parameters["factor"] == 16.0
    assert not any("factor 32" in w for w in kept.warnings)


def test_two_steps_with_parts_of_the_attention_factor_are_one(tmp_path, tiny_llama):
    block = YARN | {"mscale": 1.0, "mscale_all_dim": 0.707}
    base = scaled(tmp_path / "base", tiny_llama, block, max_position_embeddings=512)
    once = extend(base, target=2048, output_dir=tmp_path / "once", check=True)
    extend(base, target=1024, output_dir=tmp_path / "half", check=True)
    twice = extend(str(tmp_path / "half"), target=2048, output_dir=tmp_path / "twice", check=True)
    s = math.log(2048 / 128)
    wanted = (0.1 * s + 1) / (0.0707 * s + 1)
    assert once.parameters["attention_factor"] == pytest.approx(wanted, rel=1e-12)
    assert twice.parameters == once.parameters
    assert config_of(tmp_path / "twice") == config_of(tmp_path / "once")


def test_a_family_that_was_trained_on_less_than_it_claims_is_named(tmp_path):
    folder = tmp_path / "qwen3"
    build_tiny(folder, "qwen3", window=40960)
    said = extend(str(folder), target="128k", dry_run=True).warnings
    assert any("--original-length 32768" in w for w in said)
    known = extend(str(folder), target="128k", original_length="32k", dry_run=True)
    assert known.parameters["factor"] == 4.0
    assert not any("--original-length" in w for w in known.warnings)


@pytest.mark.parametrize("target", [2.5, True, "8 k", ["8k"]])
def test_a_target_that_is_no_length_is_one_sentence(tiny_llama, target):
    with pytest.raises(BadInput, match="no length in tokens"):
        extend(str(tiny_llama), target=target, dry_run=True)


def test_what_the_training_before_decided_is_kept_and_the_rest_dropped_by_name(
    tmp_path, tiny_llama
):
    block = YARN | {"beta_fast": 16, "mscale": 1.0, "mscale_all_dim": 1.0, "attn_factor": 0.9}
    base = scaled(tmp_path / "base", tiny_llama, block, max_position_embeddings=512)
    result = extend(base, target=1024, output_dir=tmp_path / "out", check=True)
    said = " ".join(result.warnings)
    assert "which decides: beta_fast 16, mscale 1, mscale_all_dim 1" in said
    assert "these keys are dropped: attn_factor" in said
    new = config_of(tmp_path / "out")["rope_scaling"]
    assert (new["beta_fast"], new["mscale"], new["mscale_all_dim"]) == (16.0, 1.0, 1.0)
    assert result.parameters["attention_factor"] == 1.0  # 1 / 1 at any factor
    assert not {"attn_factor", "attention_factor"} & set(new)
    other = extend(base, target=1024, parameters={"attention_factor": 1.1}, dry_run=True)
    assert other.parameters["attention_factor"] == 1.1
    assert other.parameters["beta_fast"] == 16.0


def test_a_partial_factor_that_was_ignored_is_not_written_where_it_would_count(
    tmp_path, tiny_llama
):
    base = scaled(tmp_path / "base", tiny_llama, {}, partial_rotary_factor=0.5, rope_scaling=None)
    extend(base, target=512, output_dir=tmp_path / "out", check=True)
    config = config_of(tmp_path / "out")
    assert "partial_rotary_factor" not in config
    assert "partial_rotary_factor" not in config["rope_parameters"]
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")(torch.arange(4)[None])
