"""Which numbers may stand side by side."""

from dataclasses import replace

from ctxext.report.findings.collected import findings
from ctxext.report.findings.differences import by_nll, by_value, differences
from ctxext.report.findings.groups import Run
from ctxext.report.page.sections.training import thinned
from ctxext.report.tables.retrieval import effective_table, threshold_words
from ctxext.runs.rows.record import RunRecord
from ctxext.runs.rows.training import StepRow
from ctxext.runs.run_documents import DOCUMENTS
from support.report_samples import (
    CONFIG_DIFF,
    fertility_document,
    harness_document,
    perplexity_document,
    retrieval_document,
    sha256,
)


def run(name, kind, document=None, log=(), **record):
    rows = DOCUMENTS[kind].from_dict(document) if document is not None else None
    return Run(name, kind, RunRecord.from_dict(record), rows, log)


def test_the_three_models_apart():
    found = findings(
        [
            run("eval", "eval-ppl", perplexity_document()),
            run("keys", "eval-retrieval", retrieval_document()),
        ]
    )
    words = {one.model: one.word for one in found.verdicts}
    assert words == {
        "base": "collapses", "yarn": "holds, not used", "lora": "gains, used but not the middle",
    }  # fmt: skip
    assert (found.window, found.target) == (256, 2048)
    assert len(found.perplexity) == len(found.retrieval) == 1
    noise = {
        (d.model, d.place[0]): d.apart.beyond_noise
        for d in differences(found.perplexity[0].results, by_nll)
    }
    assert noise["lora", 256] is False  # ln(2.7 / 2.6) = 0.038 against 0.055
    assert noise["yarn", 256] is True
    assert [name for name, _ in found.failed] == ["keys"]
    assert ("keys", "text was short") in found.warnings


def test_other_text_is_another_group_and_the_same_rows_come_once():
    other = perplexity_document(data={"source": "b.txt", "tokens": 1, "sha256": "cd" * 32})
    runs = [
        run("one", "eval-ppl", perplexity_document()),
        run("two", "eval-ppl", perplexity_document()),
        run("three", "eval-ppl", other),
        run("four", "eval-ppl", perplexity_document(stride=64)),
    ]
    found = findings(runs)
    assert [len(group.results) for group in found.perplexity] == [12, 12, 12]
    assert [len(group.by_position) for group in found.perplexity] == [12, 12, 12]


def test_one_name_for_two_checkpoints_is_told_apart():
    later = perplexity_document()
    later["results"] = [
        row | {"config_sha256": sha256("other"), "nll": row["nll"] + 1, "perplexity": None}
        for row in later["results"]
    ]
    found = findings([run("one", "eval-ppl", perplexity_document()), run("two", "eval-ppl", later)])
    models = found.perplexity[0].models
    assert models == ["base", "yarn", "lora", "base (two)", "yarn (two)", "lora (two)"]
    assert len(found.perplexity[0].by_position) == 24
    scores = retrieval_document()
    for row in scores["results"]:
        row["accuracy"] = 0.5
    found = findings(
        [run("one", "eval-retrieval", retrieval_document()), run("two", "eval-retrieval", scores)]
    )
    assert len(found.retrieval[0].models) == 6


def test_a_task_that_nobody_solves_counts_in_no_verdict():
    scores = retrieval_document()
    for row in scores["effective"]:
        if row["task"] == "passkey":
            row["effective_length"] = None
    scores["middle"] = []
    found = findings(
        [run("eval", "eval-ppl", perplexity_document()), run("keys", "eval-retrieval", scores)]
    )
    assert {one.model: one.word for one in found.verdicts}["lora"] == "gains, used"
    assert any("passkey" in sentence for sentence in found.not_measured)


def test_an_effective_length_by_choice_is_called_so():
    scores = retrieval_document(tasks=("copy",))
    for row in scores["effective"]:
        row["metric"] = "choice" if row["model"] == "yarn" else "accuracy"
    found = findings(
        [run("eval", "eval-ppl", perplexity_document()), run("keys", "eval-retrieval", scores)]
    )
    assert (
        "retrieval holds to 256 (copy by choice)"
        in {v.model: v for v in found.verdicts}["yarn"].sentence
    )
    assert effective_table(found.retrieval[0])[1] == [
        ["base", "256"], ["yarn", "256 by choice"], ["lora", "2k"],
    ]  # fmt: skip


def test_forced_choice_over_depths_against_chance():
    scores = retrieval_document(tasks=("copy",))
    for row in scores["results"]:
        far = row["model"] == "base" and row["length"] > 256
        row |= {"choice": 0.5 if far else 0.9, "chance": 0.5}
    for row in scores["effective"]:
        row["effective_length"] = None
    scores["middle"] = []
    found = findings(
        [run("eval", "eval-ppl", perplexity_document()), run("keys", "eval-retrieval", scores)]
    )
    row = found.retrieval[0].by_choice[1]
    # 5 depths of 40: 100 of 200 right, Wilson's 95 % is 0.4314 to 0.5686
    assert (row.model, row.length, row.accuracy) == ("base", 512, 0.5)
    assert (round(row.low, 4), round(row.high, 4)) == (0.4314, 0.5686)
    assert row.gain == 1.5
    told = {one.model: one for one in found.verdicts}
    base, lora = told["base"], told["lora"]
    assert "from distractors to 256 (copy)" in base.sentence
    assert "from distractors to 2k (copy)" in lora.sentence
    assert lora.word == "gains, use not shown"


def test_thresholds_of_their_own_are_said():
    scores = retrieval_document(threshold="own:0.85")
    for at, row in enumerate(scores["effective"]):
        row["threshold"] = 0.8 + at / 100
    group = findings([run("keys", "eval-retrieval", scores)]).retrieval[0]
    head = effective_table(group)[0][0]
    assert head == "effective length (at least 85 % of its own in its window)"
    assert threshold_words(0.8) == "at least 80 %"
    assert threshold_words(None) == ""


def test_the_demo_by_its_copying():
    document = {
        "window": {"original": 256, "target": 2048},
        "by_position": perplexity_document()["by_position"],
        "copying": [
            {"model": model, "distance": n, "accuracy": 0.9 if model == "lora" else 0.1}
            for model in ("base", "yarn", "lora") for n in (64, 1024)
        ],
    }  # fmt: skip
    found = findings([run("demo", "demo", document)])
    words = {one.model: (one.word, one.used_to) for one in found.verdicts}
    assert words["lora"] == ("gains, used", 1024)
    assert words["yarn"] == ("holds, not used", None)


def test_what_was_not_measured_is_said():
    found = findings([run("fert", "fertility", fertility_document())])
    text = " ".join(found.not_measured)
    for word in ("eval-ppl", "eval-retrieval", "eval-harness"):
        assert word in text
    assert "fertility" not in text
    short = perplexity_document()
    short["results"] = [
        row
        for row in short["results"]
        if row["length"] < 2048 and (row["model"], row["length"]) != ("yarn", 1024)
    ]
    text = " ".join(findings([run("eval", "eval-ppl", short)]).not_measured)
    assert "Perplexity of yarn at 1k." in text
    assert "from 1k up to the target, 2k" in text
    assert "LongPPL" not in text


def test_harness_and_configs():
    found = findings(
        [
            run("a", "eval-harness", harness_document("base", 0.40)),
            run("b", "eval-harness", harness_document("lora", 0.50)),
            run("x", "extend", config_diff=CONFIG_DIFF),
            run(
                "y", "finetune", config_diff=CONFIG_DIFF, log=[StepRow(step=1, tokens=1, loss=2.0)]
            ),
        ]
    )
    (difference,) = differences(found.harness.scores, by_value)
    assert difference.apart.beyond_noise is True
    assert [name for name, _ in found.configs] == ["x, y"]
    assert [one.name for one in found.trainings] == ["y"]


def test_a_model_that_the_harness_measured_twice_stands_twice():
    documents = [harness_document("merged", value) for value in (0.4, 0.5)]
    other = harness_document("merged", 0.6)
    other["tasks"][0]["task"] = "piqa"
    found = findings(
        [run(name, "eval-harness", d) for name, d in zip("abc", [*documents, other], strict=True)]
    )
    assert found.harness.models == ["merged", "merged (b)"]
    assert [score.row.value for score in found.harness.scores] == [0.4, 0.5, 0.6]


def test_a_long_log_is_drawn_by_its_means():
    log = [StepRow(step=n, tokens=n, loss=float(n)) for n in range(1, 4001)]
    log[7] = replace(log[7], loss=None)
    log[8] = replace(log[8], skipped="spike")
    lines = thinned(log)
    assert len(lines) <= 400
    assert lines[-1].step == 4000
    assert lines[1].loss == sum(range(13, 23)) / 10  # steps 8 and 9 are not there
    assert len(thinned(log[:300])) == 300


def test_a_document_that_knows_more_hashes_is_of_the_same_checkpoint():
    later = perplexity_document()
    later["results"] = [row | {"weights_sha256": sha256(row["model"])} for row in later["results"]]
    found = findings([run("one", "eval-ppl", perplexity_document()), run("two", "eval-ppl", later)])
    assert found.perplexity[0].models == ["base", "yarn", "lora"]


def test_a_checkpoint_has_one_name_by_its_hashes():
    def known(names):
        document = perplexity_document(names)
        rows = zip([*"abc"], names, strict=True)
        weights = {name: sha256(weights) for weights, name in rows}
        for row in document["results"]:
            row["weights_sha256"] = weights[row["model"]]
        return document

    first, second = known(("base", "yarn", "lora")), known(("base", "mine", "yarn"))
    found = findings([run("one", "eval-ppl", first), run("two", "eval-ppl", second)])
    assert found.perplexity[0].models == ["base", "yarn", "lora"]
    for row in second["results"]:
        row["weights_sha256"] = sha256("other" + row["model"])
    found = findings([run("one", "eval-ppl", first), run("two", "eval-ppl", second)])
    assert found.perplexity[0].models == [
        "base", "yarn", "lora", "base (two)", "mine", "yarn (two)",
    ]  # fmt: skip
