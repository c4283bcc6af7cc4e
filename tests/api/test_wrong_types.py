"""Every argument of every public function, handed what it does not take: a sentence that names it.

What each takes stands here a second time, by its name: a new argument has to be added.
"""

import inspect

import numpy as np
import pytest

import ctxext
from ctxext.errors import BadInput

VALUES = {
    "none": None,
    "flag": True,
    "whole": 3,
    "number": 2.5,
    "text": "some words",
    "texts": ["a", "b"],
    "dict": {"a": 1},
    "bytes": b"a",
    "object": object(),
    "objects": [object()],
    "function": print,
}
TAKES = {
    "text": "model data score field device repo_id weights method protocol dtype merge_dtype what "
    "bos source first second quantize attention schedule offload documents reference run adapter "
    "output_dir preset",
    "text none": "calibrate finetune.model plan_finetune.model revision tokenizer base_model token "
    "commit_message gpu report_to prefer start factors list_methods.name "
    "include_path output base gguf fertility.reference perplexity.output_dir retrieval.output_dir "
    "harness.output_dir extend.output_dir extend.method ExtendConfig.method "
    "fertility.output_dir retrieval.data",
    "text texts": "models tasks runs evaluations targets",
    "text texts none": "names encodings",
    "flag": "overwrite resume dry_run check probe verify private create_pr trust_remote_code "
    "aligned train_norms train_embeddings rslora dora compile gradient_checkpointing self_check "
    "keep_best fold_attention_factor",
    # Words are no lengths: they are refused as values.
    "whole": "samples seed batch_size rank gradient_accumulation steps warmup_steps save_every "
    "max_skipped pose_chunks ParallelConfig.context shard stride prefill_chunk seq_length "
    "loss_chunk pose_target mlp_tile harness.lengths min_tokens max_tokens tokens every rows",
    "whole none": "perplexity.batch_size num_fewshot limit gpus harness.seed target "
    "original_length max_length lengths "
    "perplexity.tokens KeyTokens.context extend.sliding_window train_length test_lengths seeds "
    "run_lab.steps workers",
    "whole number": "gain loss alpha dropout plus_ratio lr weight_decay max_grad_norm spike_factor "
    "weight limit_gib depths",
    "whole number none": "factor budget",
    "whole number text": "threshold",
    "whole number text none": "run_lab.budget",
    "whole flag": "sliding_window",
    "whole text": "recompute",
    "function": "on_progress on_note",
    "function none": "on_start",
    "dict": "recipe ExtendConfig.parameters",
    "dict none": "finetune.recipe parameters training",
    "none": "key_tokens FinetuneConfig.extend",
    "": "FinetuneConfig.data lora train memory parallel validation sources",
}
RIGHT = {name: kinds.split() for kinds, names in TAKES.items() for name in names.split()}
REQUIRED = {
    "models": "base", "data": "text.txt", "tasks": "copy", "output_dir": "out", "recipe": {},
    "adapter": "adapter", "run": "run", "runs": "run", "repo_id": "a/b", "source": "text.txt",
    "reference": "base", "first": "base", "second": "base",
}  # fmt: skip


def public():
    """Functions, and classes that people make themselves."""
    for name in ctxext.__all__:
        public = getattr(ctxext, name)
        made = name.endswith("Config") or name == "KeyTokens"
        if inspect.isfunction(public) or made:
            yield name, public


CASES = [
    pytest.param(call, argument, [VALUES[kind] for kind in VALUES if kind not in right], id=name)
    for public_name, call in public()
    for argument in inspect.signature(call).parameters
    for name in [f"{public_name}.{argument}"]
    for right in [RIGHT.get(name, RIGHT.get(argument, ()))]
]


def test_every_function_is_walked():
    names = [name for name, _ in public()]
    assert {"extend", "finetune", "make_report", "perplexity", "push", "TrainConfig"} <= set(names)
    arguments = {a for _, call in public() for a in inspect.signature(call).parameters}
    assert arguments <= {name.rpartition(".")[2] for name in RIGHT}


@pytest.mark.parametrize(("call", "argument", "values"), CASES)
def test_a_wrong_type_is_named(tmp_path, monkeypatch, tiny_llama, call, argument, values):
    monkeypatch.chdir(tmp_path)
    arguments = {
        name: {**REQUIRED, "model": str(tiny_llama)}[name]
        for name, parameter in inspect.signature(call).parameters.items()
        if parameter.default is parameter.empty and name != argument
    }
    for value in values:
        with pytest.raises(BadInput) as caught:
            call(**arguments, **{argument: value})
        assert caught.value.argument == argument, value
        assert argument in str(caught.value).replace("-", "_")
    assert not list(tmp_path.iterdir())  # refused before anything was written


def test_numbers_of_numpy_and_paths_are_taken(tiny_llama):
    result = ctxext.extend(tiny_llama, target=np.int64(1024), dry_run=True)
    assert type(result.window.target) is int
    assert ctxext.extend(tiny_llama, factor=np.float32(4), dry_run=True).window.target == 512
    assert ctxext.inspect(tiny_llama, target="1k").to_dict()["model"] == tiny_llama.name
    train = ctxext.TrainConfig(seq_length="16k", steps=np.int32(3), lr=1)
    assert (train.seq_length, type(train.steps), type(train.lr)) == (16384, int, float)


def test_python_still_says_what_is_missing_or_unknown(tiny_llama):
    with pytest.raises(TypeError, match="required positional argument: 'model'"):
        ctxext.inspect()
    with pytest.raises(TypeError, match="tarjet"):
        ctxext.inspect(str(tiny_llama), tarjet=1)
    assert "target" in inspect.signature(ctxext.inspect).parameters


@pytest.mark.parametrize("target", [0, -5, 2**31, 10**400, "0", "8x", ""])
def test_a_length_out_of_bounds_is_named(tiny_llama, target):
    for argument in ("target", "original_length", "sliding_window"):
        with pytest.raises(BadInput, match=f"^{argument} is ") as caught:
            ctxext.extend(tiny_llama, **{"target": 1024, argument: target}, dry_run=True)
        assert caught.value.argument == argument
    with pytest.raises(BadInput, match=r"^factor has to be a number"):
        ctxext.extend(tiny_llama, factor=10**400, dry_run=True)
    with pytest.raises(BadInput, match=r"^output_dir is .*NUL"):
        ctxext.extend(tiny_llama, target=1024, output_dir="a\0b")


@pytest.mark.parametrize("value", [1024, "1k", [1024], ["1k"], (1024,), np.int64(1024)])
def test_one_length_or_several(tiny_llama, value):
    result = ctxext.retrieval(
        [tiny_llama], lengths=value, tasks="copy", samples=1, depths=0.5, names="a", threshold=0.9
    )
    assert set(result.lengths) == {1024}
    assert {row.model for row in result.results} == {"a"}
