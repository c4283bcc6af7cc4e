"""The model card of documents that somebody broke: its own front matter, headings and no HTML."""

import json

import pytest
import yaml
from hypothesis import given
from markdown_it import MarkdownIt

from ctxext.api.extend import extend
from ctxext.api.push import push
from ctxext.checkpoints.provenance import sha256_of
from support.checkpoints import build_tiny
from support.fuzzing import answers, as_text, broken, fuzzed
from support.report_samples import perplexity_document, retrieval_document

HEADINGS = [
    "Perplexity", "Retrieval", "How to load it", "What changed in the config", "Training", "Limits",
    "How to repeat it", "License", "References",
]  # fmt: skip
MARKDOWN = MarkdownIt("commonmark").enable("table")
TRAINING = {
    "steps": 2, "tokens": 4096, "final_loss": 1.5, "data": {"source": "a book"},
    "recipe": {"lora": {"rank": 8, "alpha": 16.0, "targets": ["q_proj"], "train_norms": True},
               "train": {"lr": 1e-4, "schedule": "cosine", "seed": 0, "seq_length": 512,
                         "batch_size": 1, "gradient_accumulation": 1}},
    "stages": [{"steps": 2, "tokens": 4096, "final_loss": 1.5, "window": 512, "method": "yarn",
                "seq_length": 512, "lr": 1e-4}],
}  # fmt: skip
HOSTILE = "X`\n\n<script>alert(1)</script> ![x](http://evil/x.png)\n\n# INJECTED\n\n- `"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """An extended checkpoint with a record that has all that a card can show."""
    root = tmp_path_factory.mktemp("card")
    build_tiny(root / "base")
    (root / "base" / "README.md").write_text("---\nlicense: mit\n---\n")
    extend(str(root / "base"), method="yarn", target=512, output_dir=root / "yarn")
    record = json.loads((root / "yarn" / "ctxext.json").read_text())
    record["training"] = TRAINING
    (root / "yarn" / "ctxext.json").write_text(json.dumps(record))
    for name in ("eval", "retrieval"):
        (root / "yarn" / name).mkdir()
    return root / "yarn", record


def check_card(folder, **how):
    """Hold the card of a folder to its form, where there is one."""
    (folder / "README.md").unlink(missing_ok=True)
    pushed, _ = answers(push, folder, repo_id="me/Tiny-512", dry_run=True, **how)
    if pushed is None:
        return None
    card = (folder / "README.md").read_text(encoding="utf-8")
    begin, matter, body = card.split("---\n", 2)
    assert begin == ""
    assert yaml.safe_load(matter)["library_name"] == "transformers"
    tokens = MARKDOWN.parse(body)
    inline = [inner for token in tokens for inner in token.children or ()]
    kinds = {token.type for token in [*tokens, *inline]}
    assert not kinds & {"html_block", "html_inline", "link_open"}, kinds
    pictures = {token.attrs["src"] for token in inline if token.type == "image"}
    assert pictures <= {"perplexity.png", "retrieval.png"}
    heads = [tokens[at + 1] for at, token in enumerate(tokens) if token.type == "heading_open"]
    assert [head.content for head in heads] == ["Tiny-512", *HEADINGS]
    return card


def set_record(folder, text):
    (folder / "ctxext.json").write_text(text)


def set_evaluations(folder, perplexity, retrieval):
    (folder / "eval" / "eval-ppl.json").write_text(perplexity)
    (folder / "retrieval" / "eval-retrieval.json").write_text(retrieval)


def of_this(document, folder):
    """The document with its last model measured on this checkpoint."""
    config, record = sha256_of(folder / "config.json"), sha256_of(folder / "ctxext.json")
    for row in document["results"]:
        if row["model"] == "lora":
            row |= {"config_sha256": config, "record_sha256": record}
    return document


def test_a_whole_card(checkpoint):
    folder, record = checkpoint
    set_record(folder, json.dumps(record))
    documents = (perplexity_document(), retrieval_document())
    set_evaluations(folder, *(json.dumps(of_this(d, folder)) for d in documents))
    card = check_card(folder)
    assert "| this model | 2.700 ± 0.054 |" in card
    assert "| passkey | this model |" in card


@pytest.mark.parametrize(
    "place",
    [
        ("method",), ("command",), ("base", "id"), ("license", "license"), ("versions", "torch"),
        ("training", "data", "source"), ("training", "recipe", "train", "lr"),
        ("training", "recipe", "train", "schedule"), ("training", "stages", 0, "method"),
        ("config_diff", "max_position_embeddings"),
    ],
)  # fmt: skip
def test_nothing_is_injected_by_a_record(checkpoint, place):
    folder, record = checkpoint
    hostile = json.loads(json.dumps(record))
    inner = hostile
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = [HOSTILE, {HOSTILE: 1}] if "config_diff" in place else HOSTILE
    set_record(folder, json.dumps(hostile))
    check_card(folder)


@pytest.mark.parametrize("place", ["model", "protocol", "source", "task", "score"])
def test_nothing_is_injected_by_an_evaluation(checkpoint, place):
    folder, record = checkpoint
    set_record(folder, json.dumps(record))

    def hostile(value, key=None):
        if isinstance(value, dict):
            return {k: hostile(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [hostile(v) for v in value]
        return f"{value}{HOSTILE}" if key == place else value

    documents = (perplexity_document(), retrieval_document())
    texts = [json.dumps(hostile(of_this(document, folder))) for document in documents]
    set_evaluations(folder, *texts)
    check_card(folder)
    shown = check_card(folder, evaluations=[folder / "eval", folder / "retrieval"])
    assert "INJECTED" in (shown or "")


def test_a_newer_or_broken_evaluation_is_left_out_and_named(checkpoint):
    folder, record = checkpoint
    set_record(folder, json.dumps(record))
    newer = of_this(perplexity_document(schema="ctxext.eval-ppl/9"), folder)
    broken_one = of_this(retrieval_document(samples=[1]), folder)
    set_evaluations(folder, json.dumps(newer), json.dumps(broken_one))
    warnings = " ".join(push(folder, repo_id="me/Tiny-512", dry_run=True).warnings)
    assert "'ctxext.eval-ppl/9'" in warnings
    assert "samples is [1]" in warnings
    assert "Not measured." in check_card(folder)


def test_what_exploded_is_a_dash(checkpoint):
    folder, record = checkpoint
    set_record(folder, json.dumps(record))
    document = of_this(perplexity_document(), folder)
    for row in document["results"]:
        if row["length"] == 512:
            row |= {"perplexity": None, "nll": None, "stderr": None}
    set_evaluations(folder, json.dumps(document), json.dumps(retrieval_document()))
    card = check_card(folder)
    assert "| this model | 2.700 ± 0.054 | – | 2.500 ± 0.050 |" in card
    assert "nan" not in card.lower()


@pytest.fixture(scope="module")
def sample(checkpoint):
    folder, record = checkpoint
    set_record(folder, json.dumps(record))
    return folder, record, of_this(perplexity_document(), folder), of_this(
        retrieval_document(tasks=("copy",)), folder
    )  # fmt: skip


def test_broken_records(sample):
    folder, record, perplexity, retrieval = sample
    set_evaluations(folder, json.dumps(perplexity), json.dumps(retrieval))

    @fuzzed
    @given(broken(record))
    def run(document):
        set_record(folder, as_text(document))
        check_card(folder)

    run()


def test_broken_evaluations(sample):
    folder, record, perplexity, retrieval = sample
    set_record(folder, json.dumps(record))

    @fuzzed
    @given(broken(perplexity), broken(retrieval))
    def run(one, other):
        set_evaluations(folder, as_text(one), as_text(other))
        check_card(folder)

    run()
