"""What comes along with a checkpoint's weights, and what stays behind."""

import json
import os
import shutil

import pytest

from ctxext.api.extend import extend
from ctxext.api.inspect import inspect
from ctxext.checkpoints.live.tokenizer import has_tokenizer
from ctxext.checkpoints.weights.carry import (
    carry_side_files,
    carry_tokenizer,
    patch_tokenizer,
)
from ctxext.checkpoints.weights.front_matter import read_front_matter
from ctxext.errors import BadInput
from support.checkpoints import build_tiny


def carried(source, out):
    out.mkdir()
    warnings = []
    carry_side_files(source, out, warnings)
    names = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    return names, warnings


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "base"
    folder.mkdir()
    for name in ("tokenizer.json", "vocab.json", "merges.txt", "qwen.tiktoken", "spiece.model",
                 "chat_template.jinja", "LICENSE", "modeling_x.py"):  # fmt: skip
        (folder / name).write_text("{}")
    return folder


def test_further_chat_templates_and_a_tokenizer_folder_come_along(source, tmp_path):
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "tool_use.jinja").write_text("TOOLS")
    (source / "tokenizer").mkdir()
    (source / "tokenizer" / "vocab.txt").write_text("a")
    (source / "tokenizer" / "weights.bin").write_text("no")
    (source / "onnx").mkdir()
    (source / "onnx" / "config.json").write_text("{}")
    names, warnings = carried(source, tmp_path / "out")
    assert "additional_chat_templates/tool_use.jinja" in names
    assert "tokenizer/vocab.txt" in names
    assert {"qwen.tiktoken", "spiece.model", "merges.txt", "modeling_x.py"} <= set(names)
    assert not any("onnx" in name or name.endswith(".bin") for name in names)
    assert warnings == ["subfolders were not carried over: onnx/"]


def test_only_regular_files_inside_the_folder_are_read(source, tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    (source / "link.txt").symlink_to(tmp_path / "secret.txt")
    (source / "zero.json").symlink_to("/dev/zero")
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "x.jinja").symlink_to(tmp_path / "secret.txt")
    (source / "additional_chat_templates" / "up").symlink_to(tmp_path)
    os.mkfifo(source / "NOTICE")
    with (source / "notes.txt").open("wb") as file:
        file.truncate(20 * 2**30)
    names, warnings = carried(source, tmp_path / "out")
    assert names == ["LICENSE", "chat_template.jinja", "merges.txt", "modeling_x.py",
                     "qwen.tiktoken", "spiece.model", "tokenizer.json", "vocab.json"]  # fmt: skip
    said = " ".join(warnings)
    for name in ("link.txt", "zero.json", "x.jinja", "up", "NOTICE", "notes.txt"):
        assert name in said


def test_links_of_the_hubs_cache_are_followed(source, tmp_path):
    blobs, snapshot = tmp_path / "models--o--n" / "blobs", tmp_path / "models--o--n/snapshots/r"
    shutil.copytree(source, blobs)
    (snapshot / "additional_chat_templates").mkdir(parents=True)
    for name in ("tokenizer.json", "LICENSE"):
        (snapshot / name).symlink_to(f"../../blobs/{name}")
    (snapshot / "additional_chat_templates" / "t.jinja").symlink_to("../../../blobs/LICENSE")
    (snapshot / "README.md").symlink_to("../../blobs/merges.txt")
    (blobs / "merges.txt").write_text("---\nlicense: mit\n---\n")
    names, warnings = carried(snapshot, tmp_path / "out")
    assert names == ["LICENSE", "additional_chat_templates/t.jinja", "tokenizer.json"]
    assert warnings == []
    assert read_front_matter(snapshot).license == {"license": "mit"}


@pytest.mark.parametrize("kind", ["pipe", "device", "sparse", "outside"])
def test_a_readme_that_never_ends(tmp_path, kind):
    readme = tmp_path / "base" / "README.md"
    readme.parent.mkdir()
    if kind == "pipe":
        os.mkfifo(readme)
    elif kind == "device":
        readme.symlink_to("/dev/zero")
    elif kind == "outside":
        (tmp_path / "other.md").write_text("---\nlicense: mit\n---\n")
        readme.symlink_to(tmp_path / "other.md")
    else:
        readme.write_text("---\nlicense: mit\n---\n")
        with readme.open("ab") as file:
            file.truncate(20 * 2**30)
    assert read_front_matter(readme.parent).license == (
        {"license": "mit"} if kind == "sparse" else {}
    )


def with_lengths(folder, *, cut=None, padded=None):
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    if cut is not None:
        tokenizer["truncation"] = {"direction": "Right", "max_length": cut,
                                   "strategy": "LongestFirst", "stride": 0}  # fmt: skip
    if padded is not None:
        tokenizer["padding"] = {"strategy": {"Fixed": padded}, "direction": "Right",
                                "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
                                "pad_token": "x"}  # fmt: skip
    path.write_text(json.dumps(tokenizer))


def test_a_tokenizer_that_cuts_every_text_is_lifted_and_named(tmp_path):
    from tokenizers import Tokenizer

    base = build_tiny(tmp_path / "base")
    with_lengths(base, cut=100, padded=64)
    done = extend(str(base), target=1024, output_dir=tmp_path / "out")
    assert done.config_diff["tokenizer.truncation.max_length"] == (100, 1024)
    assert any("pads every text to 64" in w for w in done.warnings)
    # the library's own reading of the file, which is what servers written in Rust do
    assert len(Tokenizer.from_file(str(base / "tokenizer.json")).encode("a" * 2000).ids) == 100
    after = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert len(after.encode("a" * 2000).ids) == 1024
    said = inspect(str(base)).warnings
    assert any("cuts every text at 100 tokens" in w for w in said)
    assert any("pads every text to 64 tokens" in w for w in said)


def test_padding_to_a_multiple_is_named(tmp_path):
    from tokenizers import Tokenizer

    base = build_tiny(tmp_path / "base")
    with_lengths(base, padded=64)
    path = base / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["padding"] |= {"strategy": "BatchLongest", "pad_to_multiple_of": 256}
    path.write_text(json.dumps(tokenizer))
    assert len(Tokenizer.from_file(str(path)).encode("a" * 300).ids) == 512
    done = extend(str(base), target=1024, output_dir=tmp_path / "out")
    for warnings in (done.warnings, inspect(str(base)).warnings):
        assert any("pads every text to a multiple of 256 tokens" in w for w in warnings)
    tokenizer["padding"]["pad_to_multiple_of"] = 1
    path.write_text(json.dumps(tokenizer))
    assert not any("pads every text" in w for w in inspect(str(base)).warnings)


def test_a_longer_cut_stays(tmp_path):
    base = build_tiny(tmp_path / "base")
    with_lengths(base, cut=4096)
    extend(str(base), target=1024, output_dir=tmp_path / "out")
    same = (base / "tokenizer.json").read_bytes()
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == same


def test_a_damaged_tokenizer_is_named(tmp_path):
    source, out = tmp_path / "base", tmp_path / "out"
    for folder in (source, out):
        folder.mkdir()
        (folder / "tokenizer_config.json").write_text("{}")
        (folder / "tokenizer.json").write_text("{")
    with pytest.raises(BadInput, match=r"base/tokenizer\.json is not valid JSON"):
        patch_tokenizer(source, out, 1024, [])


@pytest.mark.parametrize("flag", ["true", "absent", "false"])
def test_a_stored_head_of_a_tied_model_is_counted_once(tmp_path, flag):
    from safetensors.torch import load_file, save_file

    base = build_tiny(tmp_path / "base", tied=True)
    counted = inspect(str(base)).parameters
    tensors = load_file(base / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((base / "config.json").read_text())
    if flag == "absent":  # Gemma's class ties, Llama's does not
        config.pop("tie_word_embeddings")
        config["model_type"] = "gemma"
    else:
        config["tie_word_embeddings"] = flag == "true"
    (base / "config.json").write_text(json.dumps(config))
    head = 256 * 64
    assert inspect(str(base)).parameters == counted + (head if flag == "false" else 0)


@pytest.mark.parametrize("name", ["tekken.json", "qwen.tiktoken", "spiece.model", "a.spm"])
def test_a_tokenizer_that_is_named_comes_along_whatever_its_files_are_called(tmp_path, name):
    for folder in ("named", "out"):
        (tmp_path / folder).mkdir()
    (tmp_path / "named" / name).write_text("words")
    (tmp_path / "out" / "tokenizer.json").write_text("{}")
    carry_tokenizer(tmp_path / "named", tmp_path / "out", [])
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]
    assert has_tokenizer(tmp_path / "out")
