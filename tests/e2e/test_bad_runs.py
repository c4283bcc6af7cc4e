"""Bad text, tokenizers, recipes and run folders of finetune and eval-ppl; the real command line."""

import gzip
import json
import os
import pickle
import shutil

import pytest
from safetensors.torch import load_file, save_file

from support.bad_inputs import Bomb, accepted, content, copy_of, names, refused
from support.checkpoints import build_tiny, write_byte_tokenizer
from support.command import run_ctxext
from support.warm import MODEL_MADE

WEIGHTS = "model.safetensors"
SHORT = [
    "--seq-length", "64", "--steps", "3", "--save-every", "1", "--gradient-accumulation", "1",
    "--device", "cpu", "--warmup-steps", "0",
]  # fmt: skip


def finetune(model, data, out, *more, **keywords):
    return run_ctxext("finetune", model, "--data", data, "-o", out, *SHORT, *more, **keywords)


def too_early_for_a_model(done, *words):
    refused(done, 2, *words)
    assert MODEL_MADE not in done.stderr


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_llama, book):
    """A finished run with the checkpoints of its last two steps."""
    out = tmp_path_factory.mktemp("run") / "out"
    done = finetune(tiny_llama, book, out, watch_models=True)
    accepted(done)
    assert MODEL_MADE in done.stderr  # else the tests below could not fail
    return out


def test_a_checkpoint_without_a_tokenizer_is_refused(tmp_path, tiny_llama, book):
    model = copy_of(tiny_llama, tmp_path / "m")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (model / name).unlink()
    too_early_for_a_model(
        finetune(model, book, tmp_path / "out", watch_models=True), "m has no tokenizer"
    )
    done = run_ctxext("eval-ppl", model, "--data", book, "--lengths", "64", watch_models=True)
    too_early_for_a_model(done, "m has no tokenizer")
    assert names(tmp_path) == ["m"]
    done = run_ctxext("extend", model, "--target", "512", "-o", tmp_path / "out")
    accepted(done, "no tokenizer", "--tokenizer")


def test_more_tokens_than_embeddings(tmp_path, book):
    model = build_tiny(tmp_path / "m", vocabulary=100)
    done = finetune(model, book, tmp_path / "out", watch_models=True)
    too_early_for_a_model(done, "the model has 100 embeddings")
    done = run_ctxext("eval-ppl", model, "--data", book, "--lengths", "64", watch_models=True)
    too_early_for_a_model(done, "the model has 100 embeddings")
    assert names(tmp_path) == ["m"]


def test_sizes_that_are_no_numbers(tmp_path, tiny_llama, book):
    model = copy_of(tiny_llama, tmp_path / "m", vocab_size="many")
    refused(finetune(model, book, tmp_path / "out"), 2, "m/config.json", "vocab_size is 'many'")
    model = copy_of(tiny_llama, tmp_path / "n", intermediate_size="wide")
    refused(finetune(model, book, tmp_path / "out"), 2, "of n: ", "intermediate_size", "'wide'")
    assert names(tmp_path) == ["m", "n"]


DATA = {
    "missing": ("nothing.txt", None, "nothing.txt does not exist"),
    "empty": ("a.txt", b"", "a.txt holds no text"),
    "blank": ("a.txt", b" \n\n", "a.txt holds no text"),
    "binary": ("a.txt", b"\x7fELF\0\0\0" * 99, "a.txt is a binary file"),
    "damaged-gz": ("a.txt.gz", gzip.compress(b"text " * 999)[:-20], "a.txt.gz is damaged"),
    "flipped-gz": (
        "a.txt.gz", gzip.compress(bytes(range(256)) * 99)[:20] + b"\xff" * 99, "a.txt.gz is damaged"
    ),
    "no-gz": ("a.txt.gz", b"plain", "a.txt.gz is damaged"),
    "jsonl-no-json": ("a.jsonl", b'\nnonsense\n{"text": "x"}\n', "a.jsonl, line 2, is not JSON"),
    "jsonl-nested": ("a.jsonl", b"[" * 200_000, "line 1, holds lists", "nested too deep"),
    "jsonl-digits": ("a.jsonl", b'{"text": ' + b"9" * 5000 + b"}", "line 1, holds a number"),
    "jsonl-no-field": ("a.jsonl", b'{"x": "y"}\n', "it has: x", "--field NAME"),
    "parquet": ("a.parquet", b"PAR1", "a.parquet is not a parquet file"),
    "unknown-ending": ("a.docx", b"text", "a.docx has an unknown ending"),
    "three-tokens": ("a.txt", b"abc", "--data has 3 tokens, and one row needs --seq-length 64"),
}  # fmt: skip


@pytest.mark.parametrize("case", DATA)
def test_texts_that_cannot_be_read_are_refused_first(tmp_path, run, tiny_llama, case):
    """Refused before a model is loaded, and before --overwrite has touched the older run."""
    name, text, *words = DATA[case]
    if text is not None:
        (tmp_path / name).write_bytes(text)
    before = content(run)
    done = finetune(tiny_llama, tmp_path / name, run, "--overwrite", watch_models=True)
    too_early_for_a_model(done, "--data", *words)
    assert content(run) == before


def test_a_pipe_and_a_line_without_end(tmp_path, tiny_llama):
    os.mkfifo(tmp_path / "pipe.txt")
    done = finetune(tiny_llama, tmp_path / "pipe.txt", tmp_path / "out", timeout=60)
    refused(done, 2, "pipe.txt is not a regular file")
    with (tmp_path / "line.jsonl").open("wb") as file:
        file.truncate(10 * 2**30)  # one line of 10 GiB that takes no space on the disk
    done = finetune(tiny_llama, tmp_path / "line.jsonl", tmp_path / "out", timeout=60)
    refused(done, 2, "line.jsonl, line 1, has more than 64 MiB")
    assert names(tmp_path) == ["line.jsonl", "pipe.txt"]


def test_odd_text_is_read(tmp_path, tiny_llama):
    """Bad bytes are replaced and counted; line ends, marks and half characters do no harm."""
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "bad.txt").write_bytes(b"\xef\xbb\xbfabc\r\n\xff\xfe" + b"word\r\n" * 50)
    (folder / "packed.txt.gz").write_bytes(gzip.compress(b"word\n" * 50))
    (folder / "half.jsonl").write_text(json.dumps({"text": "a\ud800b" + "word " * 50}) + "\n")
    flags = ("--data", folder, "--lengths", "64", "--json")
    done = run_ctxext("eval-ppl", tiny_llama, *flags, watch_models=True)
    accepted(done, "texts: 3 bytes were not UTF-8", MODEL_MADE)
    document = json.loads(done.stdout)
    # bad.txt without mark and carriage returns, packed.txt, and half.jsonl
    replaced = 3  # U+FFFD is three bytes, and three tokens
    assert document["data"]["tokens"] == (4 + 2 * replaced + 250) + 250 + (2 + replaced + 250)


def test_text_shorter_than_a_window(tmp_path, tiny_llama):
    (tmp_path / "a.txt").write_text("word " * 10)
    done = run_ctxext(
        "eval-ppl", tiny_llama, "--data", tmp_path / "a.txt", "--lengths", "64", watch_models=True
    )
    too_early_for_a_model(done, "a.txt has no document of 64 tokens (the longest read has 50)")


LAUGHS = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n"
RECIPES = {
    "object": ("train: !!python/object/apply:os.system ['touch SENTINEL']\n", "python/"),
    "aliases": (LAUGHS, "line 2", "aliases"),
    "tabs": ("train:\n\tsteps: 1\n", "line 2"),
    "key-twice": ("train: {steps: 1, steps: 2}\n", "'steps' stands twice"),
    "section-twice": ("train: {}\ntrain: {}\n", "line 2", "'train' stands twice"),
    "unknown-key": ("train: {stepz: 1}\n", "no key 'stepz'", "did you mean steps?"),
    "unknown-section": ("trian: {steps: 1}\n", "no key 'trian'", "did you mean train?"),
    "boolean": ("train: {steps: yes}\n", "recipe.train.steps has to be a whole number", "True"),
    "number-as-flag": ("train: {self_check: 1}\n", "self_check has to be true or false"),
    "boolean-key": ("no: {steps: 1}\n", "the key False is not text"),
    "day": ("train: {steps: 2020-13-45}\n", "recipe.yaml is not YAML"),
    "digits": (f"train: {{steps: {'9' * 5000}}}\n", "recipe.yaml is not YAML"),
    "nested": ("[" * 50_000, "recipe.yaml is not YAML"),
    "list": ("- train\n", "holds no sections"),
    "text-section": ("train: fast\n", "recipe.train has to be a section"),
    "not-utf-8": (b"\xff\xfe", "not UTF-8"),
}  # fmt: skip


@pytest.mark.parametrize("case", RECIPES)
def test_recipes_that_are_none_are_refused_first(tmp_path, case):
    """Refused before the model is looked for: here there is none."""
    text, *words = RECIPES[case]
    text = text if isinstance(text, bytes) else text.encode()
    text = text.replace(b"SENTINEL", str(tmp_path / "executed").encode())
    (tmp_path / "recipe.yaml").write_bytes(text)
    done = run_ctxext(
        "finetune",
        tmp_path / "no-model",
        "--recipe",
        tmp_path / "recipe.yaml",
        "-o",
        tmp_path / "o",
    )
    refused(done, 2, "recipe", *words)
    assert names(tmp_path) == ["recipe.yaml"]


def test_a_pipe_is_no_recipe(tmp_path):
    os.mkfifo(tmp_path / "recipe.yaml")
    flags = ("--recipe", tmp_path / "recipe.yaml", "-o", tmp_path / "o")
    done = run_ctxext("finetune", tmp_path / "no-model", *flags, timeout=60)
    refused(done, 2, "recipe.yaml is not a regular file")


def test_exponents_are_numbers(tmp_path):
    """YAML 1.1 reads 1e-4 as text; the recipe passes, and only the model is missing."""
    (tmp_path / "recipe.yaml").write_text("train: {lr: 1e-4, self_check: off}\n")
    flags = ("--recipe", tmp_path / "recipe.yaml", "-o", tmp_path / "o")
    refused(run_ctxext("finetune", tmp_path / "no-model", *flags), 2, "no-model does not exist")


SETS = {
    "unknown-key": ("train.stepz=3", "no key 'stepz'", "did you mean steps?"),
    "unknown-section": ("trian.steps=3", "no key 'trian'", "did you mean train?"),
    "no-section": ("steps=3", "write SECTION.KEY=VALUE"),
    "too-deep": ("train.steps.x=3", "write SECTION.KEY=VALUE"),
    "list-index": ("lora.targets[0]=q_proj", "write SECTION.KEY=VALUE"),
    "no-value": ("train.steps", "is not KEY=VALUE"),
    "word": ("train.steps=many", "train.steps has to be a whole number, and is 'many'"),
    "fraction": ("train.steps=1.5", "train.steps has to be a whole number, and is 1.5"),
    "nan": ("train.lr=nan", "train.lr is nan"),
    "list": ("train.lr=[1]", "train.lr has to be a number"),
    "mapping": ("train.lr={a: 1}", "not a single value"),
    "day": ("train.lr=2020-13-45", "no value that YAML can read"),
    "object": ("train.lr=!!python/name:os.system", "no value that YAML can read"),
}


@pytest.mark.parametrize("case", SETS)
def test_values_behind_set_are_checked(tmp_path, case):
    text, *words = SETS[case]
    flags = ("--set", text, "-o", tmp_path / "o")
    refused(run_ctxext("finetune", tmp_path / "no-model", *flags), 2, *words)
    assert names(tmp_path) == []


METHOD_SETS = {
    "method-unknown": ("beta_fst=16", "no parameter 'beta_fst'", "did you mean beta_fast?"),
    "method-word": ("beta_fast=many", "beta_fast is 'many'"),
    "method-nan": ("beta_fast=nan", "beta_fast is nan"),
    "method-null": ("beta_fast=null", "beta_fast is None"),
    "method-list": ("beta_fast=[1]", "beta_fast is [1]"),
    "method-flag": ("truncate=1", "truncate is 1", "true or false"),
    "method-bool": ("beta_fast=true", "beta_fast is True"),
    "method-twice": ("beta_fast=8 beta_fast=9", "--set beta_fast is given twice"),
}


@pytest.mark.parametrize("case", METHOD_SETS)
def test_values_behind_set_of_a_method_are_checked(tmp_path, tiny_llama, case):
    text, *words = METHOD_SETS[case]
    flags = [word for one in text.split() for word in ("--set", one)]
    done = run_ctxext("extend", tiny_llama, "--target", "512", *flags, "-o", tmp_path / "out")
    refused(done, 2, *words)
    assert names(tmp_path) == []


def test_ntk_beyond_all_numbers(tmp_path, tiny_llama):
    flags = ("--method", "ntk", "--target", "512", "--set", "alpha=1e300")
    refused(run_ctxext("extend", tiny_llama, *flags, "-o", tmp_path / "out"), 2, "rope_theta")
    assert names(tmp_path) == []


def test_lora_targets_that_are_not_there(tmp_path, tiny_llama, book):
    flags = ("--lora-targets", "q_proj,w_proj")
    done = finetune(tiny_llama, book, tmp_path / "out", *flags, watch_models=True)
    too_early_for_a_model(done, "lora.targets names 'w_proj'", "q_proj")
    assert names(tmp_path) == []


@pytest.mark.parametrize("flags", [(), ("--dry-run",)])
def test_float64_is_refused_before_the_first_step(tmp_path, tiny_llama, book, flags):
    model = copy_of(tiny_llama, tmp_path / "m")
    wide = {name: tensor.double() for name, tensor in load_file(model / WEIGHTS).items()}
    save_file(wide, model / WEIGHTS, metadata={"format": "pt"})
    done = finetune(model, book, tmp_path / "out", *flags, watch_models=True)
    too_early_for_a_model(done, "stored as float64", "float32 first")
    assert names(tmp_path) == ["m"]


@pytest.fixture(scope="module")
def shared_block(tmp_path_factory):
    """A decoder that runs one transformer block at two places."""
    import torch
    from transformers import Zamba2Config, Zamba2ForCausalLM

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("shared") / "m"
    config = Zamba2Config(
        vocab_size=256, hidden_size=64, intermediate_size=64, num_hidden_layers=4, chunk_size=32,
        layers_block_type=["mamba", "hybrid"] * 2, num_attention_heads=4, num_key_value_heads=4,
        mamba_d_state=16, mamba_headdim=16, n_mamba_heads=8, mamba_ngroups=1, num_mem_blocks=1,
        adapter_rank=8, use_mem_rope=True, max_position_embeddings=128, bos_token_id=None,
        eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    Zamba2ForCausalLM(config).save_pretrained(folder)
    write_byte_tokenizer(folder, 128)
    return folder


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        ((), "lora.targets"),
        (("--dry-run",), "lora.targets"),
        (("--lora-targets", "all-linear"), "lora.targets"),
        (("--lora-targets", "in_proj", "--train-norms"), "lora.train_norms"),
    ],
)
def test_adapters_of_a_block_at_two_places_cannot_be_merged(
    tmp_path, shared_block, book, flags, word
):
    done = finetune(shared_block, book, tmp_path / "out", *flags, watch_models=True)
    too_early_for_a_model(done, word, "model.layers.1.shared_transformer", "--train full")
    assert names(tmp_path) == []


@pytest.mark.parametrize("flags", [("--train", "full"), ("--lora-targets", "in_proj")])
def test_a_block_at_two_places_is_trained_whole_or_not(tmp_path, shared_block, book, flags):
    accepted(finetune(shared_block, book, tmp_path / "out", *flags), "merged")


def test_resume_passes_over_damage_and_loads_no_pickle(tmp_path, run, tiny_llama, book):
    """What a SIGKILL while saving can leave, and pickles that somebody put beside."""
    out = tmp_path / "out"
    shutil.copytree(run, out)
    newest = out / "checkpoints" / "step-3"
    file = newest / "optimizer.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    leftover = out / "checkpoints" / ".step-3.ctxext-tmp-killed"
    leftover.mkdir()
    (leftover / "trained.safetensors").write_bytes(b"half")
    sentinel = tmp_path / "executed"
    for folder in (newest, newest.with_name("step-2"), out / "adapter"):
        for name in ("optimizer.pt", "rng_state.pth", "pytorch_model.bin", "adapter_model.bin"):
            (folder / name).write_bytes(pickle.dumps(Bomb(sentinel)))
    done = finetune(tiny_llama, book, out, "--resume")
    accepted(done, "resumed at step 2", "3 steps")
    assert not sentinel.exists()
    assert sorted(names(out / "checkpoints")) == ["step-2", "step-3"]
    for name in ("adapter/adapter_model.safetensors", "merged/model.safetensors"):
        assert (out / name).read_bytes() == (run / name).read_bytes()
