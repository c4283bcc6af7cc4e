"""Adapters that somebody broke: config, patterns and headers, read, merged, and read back."""

import json
import re
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, strategies as st
from safetensors.numpy import load_file, save_file

from ctxext.api.merge import merge
from ctxext.checkpoints.weights.adapter import read_adapter
from ctxext.checkpoints.weights.adapter_fit import check_fits
from ctxext.checkpoints.weights.files import read_weights
from support.checkpoints import build_tiny
from support.fuzzing import answers, as_text, broken, broken_bytes, fuzzed

CONFIG = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4, "bias": "none",
    "target_modules": ["q_proj", "lm_head"], "modules_to_save": ["norm"], "use_rslora": False,
    "use_dora": False, "fan_in_fan_out": False, "init_lora_weights": True,
    "rank_pattern": {r"layers\.1\..*q_proj": 3}, "alpha_pattern": {"lm_head": 8, "(a|b)+": 1},
    "base_model_name_or_path": "org/base", "trainable_token_indices": None,
}  # fmt: skip
LAYER = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"
HEAD = "base_model.model.lm_head.lora_{}.weight"
SHAPES = {
    LAYER.format(0, "A"): (2, 64), LAYER.format(0, "B"): (64, 2),
    LAYER.format(1, "A"): (3, 64), LAYER.format(1, "B"): (64, 3),
    HEAD.format("A"): (2, 64), HEAD.format("B"): (256, 2),
    **{f"base_model.model.model.layers.{i}.{n}_layernorm.weight": (64,)
       for i in (0, 1) for n in ("input", "post_attention")},
    "base_model.model.model.norm.weight": (64,),
}  # fmt: skip
SOME = st.integers(0, 7).map(lambda n: n == 0)  # a merge writes a checkpoint and reads it back
REGEX = st.one_of(
    st.text("ab.*+?()[]{}|^$\\1,-", max_size=40),
    st.text(max_size=20),
    st.lists(
        st.sampled_from([".*", "(a+)+", "q_proj", "(", ")", "*", "{9,999}", "|", "[a-z]", "(?=a)"]),
        max_size=60,
    ).map("".join),
)


@pytest.fixture(scope="module")
def place():
    """A tied base and an adapter of it, on a file system in memory where there is one."""
    import numpy as np

    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if shm.is_dir() else None) as root:
        folder = Path(root)
        build_tiny(folder / "base", tied=True)
        (folder / "adapter").mkdir()
        rng = np.random.default_rng(0)
        tensors = {k: rng.normal(size=s).astype(np.float32) for k, s in SHAPES.items()}
        save_file(tensors, folder / "adapter.safetensors")
        yield folder


@pytest.fixture(scope="module")
def base(place):
    return read_weights(place / "base")


def write(place, config, data=None):
    adapter = place / "adapter"
    (adapter / "adapter_config.json").write_text(config, encoding="utf-8", errors="surrogatepass")
    good = (place / "adapter.safetensors").read_bytes()
    (adapter / "adapter_model.safetensors").write_bytes(good if data is None else data)
    return adapter


def check(place, base):
    """Read an adapter and hold it against its base; the adapter, if it belongs there."""
    adapter, _ = answers(read_adapter, place / "adapter")
    if adapter is None:
        return None
    warnings, _ = answers(check_fits, adapter, base, tied=True)
    return adapter if warnings is not None else None


def check_merge(place):
    out = place / "out"
    done, said = answers(
        merge, place / "adapter", base=str(place / "base"), output_dir=out, verify=True
    )
    assert out.exists() is (said is None)
    if done is not None:
        for name in ("config.json", "ctxext.json"):
            json.loads((out / name).read_text(), parse_constant=pytest.fail)
        assert len(load_file(out / "model.safetensors")) == done.tensors
        shutil.rmtree(out)
    assert not [p for p in place.iterdir() if p.name.startswith(".")]
    return done


def test_the_whole_adapter_is_right(place, base):
    write(place, json.dumps(CONFIG))
    assert check(place, base).low_rank["lm_head.weight"].scale == 4.0
    assert check_merge(place).merged_tensors == 2 + 5 + 1


@fuzzed
@given(config=broken(CONFIG), merged=SOME)
def test_a_broken_config(place, base, config, merged):
    write(place, as_text(config))
    if check(place, base) is not None and merged:
        check_merge(place)


@fuzzed
@given(pattern=REGEX, value=st.sampled_from([1, 2, 3, 0, -1, 2.5, None, "2", 10**30]))
@example(pattern="(([a-z._0-9]+)+)+!", value=2)
@example(pattern="(" * 500, value=2)
def test_broken_patterns_of_ranks(place, base, pattern, value):
    write(place, as_text(CONFIG | {"rank_pattern": {pattern: value, **CONFIG["rank_pattern"]}}))
    adapter = check(place, base)
    if adapter is not None:  # then the pattern changed nothing that it matches
        for module in (name.removesuffix(".weight") for name in adapter.low_rank):
            rank = SHAPES[f"base_model.model.{module}.lora_A.weight"][0]
            if re.fullmatch(r"[\w.]*", pattern) and re.match(rf"(.*\.)?({pattern})$", module):
                assert rank == value


@fuzzed
@given(data=st.data())
def test_broken_tensors(place, base, data):
    good = (place / "adapter.safetensors").read_bytes()
    end = 8 + int.from_bytes(good[:8], "little")
    if data.draw(st.booleans()):
        header = json.loads(good[8:end])
        text = as_text(data.draw(broken(header))).encode("utf-8", "surrogatepass")
        bad = len(text).to_bytes(8, "little") + text + good[end:]
    else:
        bad = data.draw(broken_bytes(good[:end])) + good[end:]
    write(place, json.dumps(CONFIG), bad)
    if check(place, base) is not None and data.draw(SOME):
        check_merge(place)
