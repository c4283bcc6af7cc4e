"""lm-evaluation-harness itself, on tasks made here: `pip install -e '.[harness]'` first."""

import json
import math
import re
import shutil

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from ctxext.api.extend import extend
from ctxext.api.harness import harness
from ctxext.checkpoints.live.load import load_model
from ctxext.checkpoints.live.tokenizer import load_tokenizer
from ctxext.checkpoints.opened import open_checkpoint
from ctxext.errors import BadInput, CtxextError
from support.checkpoints import build_tiny
from support.command import run_ctxext

pytest.importorskip(
    "lm_eval", reason="lm-eval is not installed (the extra `harness`): nothing of it is tested"
)
pytestmark = pytest.mark.slow

ROLLING = """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{page}}"
metric_list:
  - metric: word_perplexity
  - metric: byte_perplexity
  - metric: bits_per_byte
"""
CHOICE = """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""
GENERATE = """
output_type: generate_until
doc_to_text: "{{text}}"
doc_to_target: answer
generation_kwargs: {until: ["\\n"], max_gen_toks: 12}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""
AT_LENGTHS = '''
"""A task that makes its documents at lengths, as RULER does."""
import datasets

def documents(tokenizer=None, max_seq_lengths=None, **kwargs):
    from transformers import AutoTokenizer
    print("a line on stdout")
    assert tokenizer, "No tokenizer or pretrained provided."  # RULER's words
    AutoTokenizer.from_pretrained(tokenizer, trust_remote_code=True)
    rows = [
        {"text": "x" * (length // 2), "answer": "y", "max_length": length}
        for length in max_seq_lengths for _ in range(5)
    ]
    return {"test": datasets.Dataset.from_list(rows)}

def process_results(doc, results):
    return {"4096": -1.0, str(doc["max_length"]): float(doc["max_length"])}
'''
LENGTHS_TASK = """
task: own_lengths
dataset_path: ""
test_split: test
custom_dataset: !function own_lengths.documents
process_results: !function own_lengths.process_results
output_type: generate_until
doc_to_text: "{{text}}"
doc_to_target: answer
generation_kwargs: {until: ["\\n"], max_gen_toks: 2}
metric_list:
  - {metric: "4096", aggregation: mean, higher_is_better: true}
metadata: {version: 1.0}
"""


def write_task(folder, name, body, rows):
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / f"{name}.yaml").write_text(
        f"task: {name}\ndataset_path: json\ntest_split: test\n"
        f"dataset_kwargs: {{data_files: {{test: {folder / name}.jsonl}}}}\n"
        f"metadata: {{version: 1.0}}\n{body}"
    )
    return folder


@pytest.fixture(scope="module")
def pages(book):
    text = book.read_text()
    return [text[:3000], text[3000:3700], text[3700:3705]]


@pytest.fixture
def tasks(tmp_path, pages):
    folder = tmp_path / "tasks"
    write_task(folder, "own_rolling", ROLLING, [{"page": page} for page in pages])
    choices = [" the", " the a", " zzz", " of the"]
    rows = [{"question": p[:60], "choices": choices, "answer": i} for i, p in enumerate(pages[:2])]
    write_task(folder, "own_choice", CHOICE, rows)
    rows = [{"text": pages[0][:n], "answer": "?"} for n in (40, 90, 400)]
    write_task(folder, "own_generate", GENERATE, rows)
    (folder / "own_lengths.py").write_text(AT_LENGTHS)
    (folder / "own_lengths.yaml").write_text(LENGTHS_TASK)
    return folder


def rolling_nll(checkpoint, text, window, *, prefix):
    """Sum of NLL of a text in windows side by side, by a plain loop; a model of its own each."""
    ids = AutoTokenizer.from_pretrained(checkpoint).encode(text, add_special_tokens=False)
    ids = [prefix, *ids]
    total = 0.0
    for begin in range(1, len(ids), window):
        end = min(begin + window, len(ids))
        # the last one is filled up from before, as the harness does
        read = torch.tensor(ids[max(0, end - window - 1) : end])[None]
        model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
        with torch.no_grad():
            logits = model(read[:, :-1]).logits[0].log_softmax(-1)
        nll = -logits.gather(1, read[0, 1:, None])[:, 0]
        total += float(nll[-(end - begin) :].double().sum())
    return total


def value(result, task, metric):
    rows = [r for r in result.tasks if (r.task, r.metric) == (task, metric)]
    assert len(rows) == 1
    return rows[0].value


def truth(checkpoint, pages, window, prefix):
    nll = sum(rolling_nll(checkpoint, page, window, prefix=prefix) for page in pages)
    words = sum(len(re.split(r"\s+", page)) for page in pages)
    size = sum(len(page.encode()) for page in pages)
    return math.exp(nll / words), math.exp(nll / size), nll / size / math.log(2)


def check_rolling(result, checkpoint, pages, window, prefix):
    expected = truth(checkpoint, pages, window, prefix)
    for metric, number in zip(
        ("word_perplexity", "byte_perplexity", "bits_per_byte"), expected, strict=True
    ):
        assert value(result, "own_rolling", metric) == pytest.approx(number, rel=1e-4)


@pytest.mark.parametrize("method", ["yarn", "dynamic"])
def test_rolling_perplexity_in_the_extended_window(tmp_path, shipped, tasks, pages, method):
    out = tmp_path / method
    extend(str(shipped), method=method, target=1024, output_dir=out)
    flags = {"tasks": ["own_rolling"], "include_path": tasks}
    result = harness(str(out), **flags)
    assert (result.window, result.original_window) == (1024, 256)
    check_rolling(result, out, pages, 1024, prefix=10)  # a new line: there is no BOS
    short = harness(str(out), max_length=256, **flags)
    assert short.window == 256
    check_rolling(short, out, pages, 256, prefix=10)
    # what was read reaches further back than the original window
    assert value(result, "own_rolling", "bits_per_byte") != pytest.approx(
        value(short, "own_rolling", "bits_per_byte"), rel=1e-3
    )
    assert any("new line" in w for w in result.warnings)


def test_rolling_perplexity_on_foreign_weights(stories, tasks, pages):
    result = harness(str(stories), tasks=["own_rolling"], include_path=tasks)
    assert result.window == 512
    check_rolling(result, stories, pages, 512, prefix=1)
    assert any("add_bos_token=False" in warning for warning in result.warnings)


def test_the_model_sees_one_bos(stories, tasks):
    from lm_eval import evaluate

    from ctxext.evaluation.harness.model import Windowed
    from ctxext.evaluation.harness.tasks import Tasks

    opened = open_checkpoint(str(stories))
    live = load_model(opened.source, opened.position)
    seen = []
    live.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True
    )
    reader = Windowed(live, load_tokenizer(opened.source), window=512)
    names = ["own_rolling", "own_choice", "own_generate"]
    for name in names:
        seen.clear()
        found = Tasks.load([name], tasks, (512,), tokenizer=None, on_progress=lambda *_: None)
        found.configure(None, 0)
        evaluate(reader, {"tasks": found.tasks, "groups": {}, "group_map": {}}, log_samples=False)
        prompts = [ids for ids in seen if ids.shape[1] > 1]  # the others go on from the cache
        assert prompts
        firsts = [int((ids == 1).sum()) for ids in prompts]
        assert set(firsts) <= {0, 1}
        assert firsts.count(1) == sum(int(ids[0, 0]) == 1 for ids in prompts)
        # every prompt begins with it, and of texts longer than the window the first part does
        assert firsts.count(1) == (3 if name == "own_rolling" else len(prompts))


def test_choices_and_answers_are_those_of_transformers(shipped, tasks, pages):
    result = harness(str(shipped), tasks=["own_choice", "own_generate"], include_path=tasks)
    tokenizer = AutoTokenizer.from_pretrained(shipped)
    model = AutoModelForCausalLM.from_pretrained(shipped, dtype=torch.float32).eval()
    rows = [json.loads(line) for line in (tasks / "own_choice.jsonl").read_text().splitlines()]
    right = 0
    for row in rows:
        scores = []
        for choice in row["choices"]:
            prompt, ids = (tokenizer.encode(t) for t in (row["question"], row["question"] + choice))
            with torch.no_grad():
                logits = model(torch.tensor(ids)[None]).logits[0, :-1].log_softmax(-1)
            nll = logits.gather(1, torch.tensor(ids)[1:, None])[len(prompt) - 1 :, 0]
            scores.append(float(nll.sum()))
        right += max(range(4), key=scores.__getitem__) == row["answer"]
    assert value(result, "own_choice", "acc") == right / 2
    assert [r.cut for r in result.tasks] == [0, 1]  # 400 bytes do not fit in 256 - 12
    assert any("1 of 3 documents are longer" in w for w in result.warnings)

    rows = [json.loads(line) for line in (tasks / "own_generate.jsonl").read_text().splitlines()]
    for row in rows:
        ids = torch.tensor(tokenizer.encode(row["text"]))[None, -(256 - 12) :]
        with torch.no_grad():
            made = model.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=0)
        row["answer"] = tokenizer.decode(made[0, ids.shape[1] :]).split("\n")[0]
    write_task(tasks, "own_generate", GENERATE, rows)
    for batch in (1, 3):
        again = harness(str(shipped), tasks=["own_generate"], include_path=tasks, batch_size=batch)
        assert value(again, "own_generate", "exact_match") == 1.0
        assert again.tasks[0].cut == 1


def test_lengths_and_limit(tmp_path, shipped, tasks):
    flags = {"tasks": ["own_lengths"], "include_path": tasks}
    result = harness(str(shipped), **flags, lengths=[64, 128], limit=2)
    assert [(r.metric, r.value, r.samples) for r in result.tasks] == [
        ("64", 64.0, 2),
        ("128", 128.0, 2),
    ]
    assert result.lengths == (64, 128)
    whole = harness(str(shipped), **flags)
    assert [(r.metric, r.samples) for r in whole.tasks] == [("256", 5)]
    out = tmp_path / "yarn"
    extend(str(shipped), method="dynamic", target=1024, output_dir=out)
    assert [r.metric for r in harness(str(out), **flags, limit=1).tasks] == ["1024"]
    with pytest.raises(BadInput, match=r"--lengths has 512, and base is read at 256"):
        harness(str(shipped), **flags, lengths=[512])
    beyond = harness(str(shipped), **flags, lengths=[512], max_length=512, limit=1)
    assert any("beyond the window of 256" in w for w in beyond.warnings)
    with pytest.raises(BadInput, match="none of --tasks makes its documents at lengths"):
        harness(str(shipped), tasks=["own_choice"], include_path=tasks, lengths=[128])


def test_what_is_written(tmp_path, stories, tasks):
    out = tmp_path / "run"
    flags = ["--tasks", "own_lengths,own_choice", "--include-path", tasks, "--limit", "2"]
    done = run_ctxext(
        "eval-harness", stories, *flags, "--num-fewshot", "1", "--seed", "3", "--json", "-o", out
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)  # although the task prints
    assert document["schema"] == "ctxext.eval-harness/1"
    assert {r["task"]: r["n_shot"] for r in document["tasks"]} == {
        "own_lengths": 1,
        "own_choice": 1,
    }
    assert document["seeds"] == [3] * 4
    written = json.loads((out / "eval-harness.json").read_text())
    assert {**written, "output_dir": str(out)} == document
    record = json.loads((out / "ctxext.json").read_text())
    assert record["kind"] == "eval-harness"
    assert record["evaluations"] == ["eval-harness.json"]
    assert record["versions"]["lm_eval"] == document["harness_version"]
    full = json.loads((out / "harness.json").read_text())
    assert full["results"]["own_choice"]["acc,none"] == document["tasks"][1]["value"]
    assert full["config"]["model_args"] == {"max_length": 512}
    for path in out.iterdir():
        assert str(tmp_path) not in path.read_text(), path.name
        assert str(stories.parent) not in path.read_text(), path.name
    again = run_ctxext("eval-harness", stories, *flags, "-o", out)
    assert again.returncode == 2
    assert "not empty" in again.stderr
    table = run_ctxext("eval-harness", stories, *flags)
    assert "| own_choice | 1.0 | none | 0 | acc |" in table.stdout
    assert "| own_lengths | 1.0 | none | 0 | score at 512 |" in table.stdout


def test_what_cannot_be_run_is_one_sentence(tmp_path, shipped, tasks):
    write_task(tasks, "own_long", CHOICE, [{"question": "a", "choices": ["b" * 300], "answer": 0}])
    score = "output_type: loglikelihood\ndoc_to_text: a\ndoc_to_target: '{{b}}'\n"
    score += "target_delimiter: ''\nmetric_list:\n  - metric: perplexity\n"
    write_task(tasks, "own_empty", score, [{"b": ""}])
    write_task(tasks, "own_greedy", GENERATE.replace("12", "256"), [{"text": "a", "answer": "b"}])
    write_task(tasks, "own_broken", ROLLING.replace("{{page}}", "{{page"), [{"page": "a"}])
    write_task(tasks, "own_unsafe", GENERATE + "unsafe_code: true\n", [{"text": "a", "answer": ""}])
    (tasks / "own_far.yaml").write_text(
        f"task: own_far\ndataset_path: nobody/nothing\ntest_split: test\n{CHOICE}"
    )
    out = tmp_path / "out"
    for name, message in {
        "own_long": "answer of document 0 has 301 tokens",
        "own_empty": "no token at all",
        "own_greedy": "generates up to 256 tokens",
        "own_broken": "own_broken",
        "own_unsafe": "runs code that the model writes",
        "own_far": "needs data from the network",
    }.items():
        with pytest.raises(CtxextError, match=message):
            harness(str(shipped), tasks=[name], include_path=tasks, output_dir=out)
        assert not out.exists()
    done = run_ctxext("eval-harness", shipped, "--tasks", "own_far", "--include-path", tasks)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "HF_HUB_OFFLINE" in done.stderr


def test_an_unknown_task_is_named_with_its_neighbours(shipped, tasks):
    with pytest.raises(BadInput, match="'own_rollin'") as caught:
        harness(str(shipped), tasks=["own_choice", "own_rollin"], include_path=tasks)
    assert "own_rolling" in caught.value.hint


def test_an_old_harness_is_refused(shipped, monkeypatch):
    monkeypatch.setattr("ctxext.api.harness.OLDEST", "99.0")
    with pytest.raises(BadInput, match=r"needs lm-eval 99.0 or newer") as caught:
        harness(str(shipped), tasks=["own_choice"])
    assert "ctxext[harness]" in caught.value.hint


def test_a_model_that_returns_nan(tmp_path, tasks):
    folder = build_tiny(tmp_path / "nan")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    model.lm_head.weight.data[:] = float("nan")
    model.save_pretrained(folder)
    with pytest.raises(CtxextError, match="returned NaN"):
        harness(str(folder), tasks=["own_choice"], include_path=tasks)


def test_code_of_a_tokenizer_is_not_run_behind_our_back(tmp_path, stories, tasks):
    folder = tmp_path / "evil"
    shutil.copytree(stories, folder)
    ran = tmp_path / "ran"
    (folder / "evil.py").write_text(
        f"open({str(ran)!r}, 'w').close()\n"
        "from transformers import PreTrainedTokenizerFast\n"
        "class Evil(PreTrainedTokenizerFast):\n    pass\n"
    )
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "auto_map": {"AutoTokenizer": [None, "evil.Evil"]}}))
    with pytest.raises(BadInput, match="brings its own"):
        harness(str(folder), tasks=["own_lengths"], include_path=tasks, limit=1)
    assert not ran.exists()


def test_ruler_of_lm_eval_runs(stories):
    pytest.importorskip("wonderwords", reason="RULER's own packages are not installed")
    flags = {"tasks": ["niah_single_1"], "max_length": 1024, "limit": 2}
    result = harness(str(stories), **flags, lengths=[512, 1024])
    assert [(r.metric, r.samples) for r in result.tasks] == [("512", 2), ("1024", 2)]
    assert not any("same number of documents" in warning for warning in result.warnings)
    assert result.tasks[0].value == 0.0  # 0.26 M parameters that tell stories
