"""The model card: what was done and what was measured, from the records only.

Front matter as the Hub reads it, then always the same sections; one without numbers says "not
measured". A pure function: no file is read here, no network asked.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ctxext.checkpoints.config.patch import ABSENT
from ctxext.engines.notes import engine_notes, first_transformers, serve_commands
from ctxext.lengths import show_length
from ctxext.methods import METHODS
from ctxext.report.comparison_tables import (
    accuracy_table,
    choice_table,
    effective_table,
    threshold_words,
)
from ctxext.report.findings import RetrievalGroup
from ctxext.report.tables import escape_markdown, markdown, markdown_code, perplexity, shown
from ctxext.runs.checked import printable_text


@dataclass(frozen=True)
class CardFacts:
    """What a card is made of.

    Attributes:
        repo_id: where it will stand.
        record: the checkpoint's ctxext.json.
        identity: (config_sha256, record_sha256) of the checkpoint, as evaluations note them.
        evaluations, retrievals: eval-ppl and eval-retrieval documents that measured it.
        base_model: Hub id of the original base; None where it has none.
        adapter: whether `adapter/` is uploaded too.
        plots, heat_maps: pictures of these, uploaded beside the card.
    """

    repo_id: str
    record: Mapping[str, Any]
    identity: tuple[str | None, str | None]
    evaluations: Sequence[Mapping[str, Any]]
    base_model: str | None
    adapter: bool
    plots: Sequence[str]
    retrievals: Sequence[Mapping[str, Any]] = ()
    heat_maps: Sequence[str] = ()

    @property
    def origin(self) -> Mapping[str, Any]:
        """The base before any extension."""
        found: Mapping[str, Any] = self.record.get("extended_from") or self.record["base"]
        return found

    @property
    def license(self) -> Mapping[str, str]:
        return self.record.get("license") or {}

    @property
    def target(self) -> int:
        return int(self.record["window"]["target"])

    @property
    def original(self) -> int:
        return int(self.record["window"]["original"])


def is_llama_license(license: Mapping[str, str]) -> bool:
    """Llama's licenses ask that a derived model's name begins with "Llama"."""
    return (license.get("license_name") or license.get("license") or "").lower().startswith("llama")


def model_card(facts: CardFacts) -> str:
    """The whole README.md."""
    body = [
        f"# {escape_markdown(facts.repo_id.rpartition('/')[2])}",
        _summary(facts),
        "## What changed in the config\n\n" + _config(facts),
        "## Perplexity\n\n" + _perplexity(facts),
        "## Retrieval\n\n" + _retrieval(facts),
        "## How to load it\n\n" + _load(facts),
        "## Training\n\n" + _training(facts),
        "## Limits\n\n" + _limits(facts),
        "## How to repeat it\n\n" + _repeat(facts),
        "## License\n\n" + _license(facts),
        "## References\n\n" + _references(facts),
    ]
    return f"---\n{_front_matter(facts)}\n---\n\n" + "\n\n".join(body) + "\n"


def _front_matter(facts: CardFacts) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    # The Hub keeps one entry for each task and data set; a window length is a metric of it.
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type="text",
            dataset_name=document["data"]["source"],
            metric_type="perplexity",
            metric_name=f"perplexity at {row['length']} tokens",
            metric_value=round(row["perplexity"], 4),
            metric_args={"length": row["length"], "tokens": row["tokens"]},
            dataset_args={"protocol": document["protocol"], "stride": document["stride"]},
        )
        for document in facts.evaluations
        for row in document["results"]
        if _is_this(row, facts) and row["perplexity"] is not None  # else it exploded there
    ]
    method = str(facts.record.get("method") or "")
    data = ModelCardData(
        base_model=facts.base_model,
        library_name="transformers",
        license=facts.license.get("license"),
        license_name=facts.license.get("license_name"),
        license_link=facts.license.get("license_link"),
        metrics=["perplexity"] if results else None,
        pipeline_tag="text-generation",
        tags=[
            "long-context",
            "context-extension",
            "rope-scaling",
            *filter(None, [method]),
            "ctxext",
        ],
        model_name=facts.repo_id.rpartition("/")[2] if results else None,
        eval_results=results or None,
    )
    if facts.base_model:  # without one on the Hub the relation would point nowhere
        data["base_model_relation"] = "finetune"
    return str(data.to_yaml()).strip()


def _summary(facts: CardFacts) -> str:
    base = escape_markdown(facts.base_model or _name_of(facts.origin))
    how = f"{markdown_code(str(facts.record.get('method')))} scaling of its RoPE"
    training = facts.record.get("training") or {}
    done = (
        f"fine-tuned with LoRA for {training['steps']} steps ({training['tokens']:,} tokens)"
        if training.get("steps")
        else "config only, no training: the weights are the base's"
    )
    return f"{base}, extended from {facts.original:,} to {facts.target:,} tokens by {how}; {done}."


def _name_of(checkpoint: Mapping[str, Any]) -> str:
    return str(checkpoint.get("id") or "a checkpoint without a name")


def _config(facts: CardFacts) -> str:
    diff = facts.record.get("config_diff") or {}
    if not diff:
        return "Not recorded."
    rows = [[key, _shown(before), _shown(after)] for key, (before, after) in diff.items()]
    return markdown((["key", "base", "here"], rows))


def _shown(value: Any) -> str:
    return "absent" if value == ABSENT else json.dumps(value, ensure_ascii=False)


def _is_this(row: Mapping[str, Any], facts: CardFacts) -> bool:
    return (row.get("config_sha256"), row.get("record_sha256")) == facts.identity


def _label(row: Mapping[str, Any], facts: CardFacts) -> str:
    """What a measured model is to this one, told by its config and record."""
    if _is_this(row, facts):
        return "this model"
    config = row.get("config_sha256")
    if config is not None and config == facts.origin.get("config_sha256"):
        return f"{row['model']} (base)"
    if config == facts.identity[0] and facts.record.get("training"):
        return f"{row['model']} (extended, not trained)"
    return str(row["model"])


def _perplexity(facts: CardFacts) -> str:
    parts = []
    for document in facts.evaluations:
        results = document["results"]
        lengths = sorted({row["length"] for row in results})
        rows = [
            [label, *(_cell(results, facts, label, n) for n in lengths)]
            for label in dict.fromkeys(_label(row, facts) for row in results)
        ]
        rows += _difference(results, facts, lengths)
        data = document["data"]
        parts.append(
            f"On {markdown_code(data['source'])} ({shown(data['tokens'], ',.0f')} tokens read, "
            f"sha256 `{data['sha256'][:12]}`), {_word(document['protocol'])} windows, "
            f"stride {document['stride']}; ± is one standard error. The base was trained at "
            f"{show_length(facts.original)}: columns up to there show what the extension costs.\n\n"
            + markdown((["window length", *(show_length(n) for n in lengths)], rows))
        )
    parts += [f"![perplexity by window length and by position]({name})" for name in facts.plots]
    return "\n\n".join(parts) or "Not measured."


def _retrieval(facts: CardFacts) -> str:
    parts = []
    for document in facts.retrievals:
        names = {row["model"]: _label(row, facts) for row in document["results"]}
        group = RetrievalGroup(
            "", document["window"], document["threshold"],
            results=[{**row, "model": names[row["model"]]} for row in document["results"]],
            effective=[{**row, "model": names[row["model"]]} for row in document["effective"]],
        )  # fmt: skip
        parts.append(
            f"Right answers over all depths, {_word(document['samples'])} questions for each "
            f"length and depth, in {_source(document)}, by {_word(document['score'])}, with 95 % "
            "intervals; then the longest length at which the score stays "
            f"{threshold_words(document['threshold'])}.\n\n" + markdown(accuracy_table(group))
        )
        choices = choice_table(group)
        if choices[1]:
            parts.append(
                "Told from wrong answers (chance 25 %), and nats a token that the needle gains:"
                "\n\n" + markdown(choices)
            )
        parts.append(markdown(effective_table(group)))
    parts += [f"![right answers by length and depth]({name})" for name in facts.heat_maps]
    return "\n\n".join(parts) or (
        "Not measured. Perplexity that stays low at a length does not show that far text is used."
    )


def _source(document: Mapping[str, Any]) -> str:
    source = (document["data"] or {}).get("source")
    return markdown_code(source) if source else "a text without a name"


def _word(value: Any) -> str:
    return escape_markdown(str(value))


def _cell(results: Sequence[Mapping[str, Any]], facts: CardFacts, label: str, length: int) -> str:
    for row in results:
        if row["length"] == length and _label(row, facts) == label:
            return perplexity(row)
    return ""


def _difference(
    results: Sequence[Mapping[str, Any]], facts: CardFacts, lengths: Sequence[int]
) -> list[list[str]]:
    """The row that says what the extension costs or brings at each length; none without a base."""
    known = [row for row in results if row["perplexity"] is not None]
    here = {row["length"]: row["perplexity"] for row in known if _is_this(row, facts)}
    origin = facts.origin.get("config_sha256")
    base = {
        row["length"]: row["perplexity"]
        for row in known
        if origin is not None and row["config_sha256"] == origin
    }
    if not here or not base:
        return []
    changes = [
        f"{100 * (here[n] / base[n] - 1):+.1f} %" if n in here and n in base else ""
        for n in lengths
    ]
    return [["this model against its base", *changes]]


def _load(facts: CardFacts) -> str:
    repo, method = facts.repo_id, str(facts.record.get("method"))
    first = first_transformers(method, str(facts.record.get("model_type")))
    lines = [
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'model = AutoModelForCausalLM.from_pretrained("{repo}", dtype="auto")',
        f'tokenizer = AutoTokenizer.from_pretrained("{repo}")',
        "```",
        "",
        "Nothing has to be set by hand: `config.json` carries the scaling in both forms, "
        "`rope_parameters` (transformers 5) and `rope_theta` with `rope_scaling` (transformers 4 "
        f"from {first}, serving engines).",
        "",
        *(f"- {e}: `{c}`" for e, c in serve_commands(repo, facts.target)),
    ]
    block = (facts.record.get("config_diff") or {}).get("rope_parameters") or [None, {}]
    notes = engine_notes(method, block[1] if isinstance(block[1], dict) else {}, facts.target)
    if notes:
        lines += ["", "Known to go wrong elsewhere:", "", *(f"- {note}" for note in notes)]
    if facts.adapter:
        lines += [
            "",
            "The LoRA adapter alone is in `adapter/`. It belongs on the *extended* base: the "
            "original weights with the config of this repository, whose own weights hold the "
            "adapter already.",
        ]
    return "\n".join(lines)


def _training(facts: CardFacts) -> str:
    training = facts.record.get("training") or {}
    if not training.get("steps"):
        return "None."
    recipe = training.get("recipe") or {}
    lora, train = recipe.get("lora") or {}, recipe.get("train") or {}
    data = training.get("data") or {}
    also = [n for n in ("norms", "embeddings") if lora.get(f"train_{n}")]
    batch = (train.get("batch_size") or 1) * (train.get("gradient_accumulation") or 1)
    rows = [
        ["data", str(data.get("source") or "not recorded")],
        ["sequence length", f"{train.get('seq_length') or 0:,} tokens"],
        ["steps", f"{training['steps']} of {batch} sequences a rank"],
        ["tokens", f"{training['tokens']:,}"],
        ["final loss", f"{shown(training.get('final_loss'), '.4f')} nats/token"],
        ["learning rate", f"{train.get('lr')} ({train.get('schedule')})"],
        ["LoRA", f"rank {lora.get('rank')}, alpha {lora.get('alpha')}"],
        ["on", ", ".join([*(lora.get("targets") or []), *also])],
        ["seed", str(train.get("seed"))],
    ]
    table = markdown((["what", "value"], rows))
    stages = training.get("stages") or []
    if not stages:
        return table
    return (
        f"{table}\n\nIn {len(stages)} stages, each from what the one before had trained, with a "
        "fresh optimizer; above stand the steps and tokens of all, and the rest of the last:\n\n"
        + _stages(stages)
    )


def _stages(stages: Sequence[Mapping[str, Any]]) -> str:
    columns = ["stage", "window", "method", "sequence length", "steps", "tokens", "lr", "loss"]
    rows = [
        [
            str(number),
            shown(stage["window"], ",.0f"),
            str(stage.get("method") or "as the base"),
            shown(stage["seq_length"], ",.0f"),
            str(stage["steps"]),
            f"{stage['tokens']:,}",
            str(stage["lr"]),
            shown(stage.get("final_loss"), ".4f"),
        ]
        for number, stage in enumerate(stages, start=1)
    ]
    return markdown((columns, rows))


def _limits(facts: CardFacts) -> str:
    found = [f"- Beyond {facts.target:,} tokens nothing is claimed."]
    method = METHODS.get(str(facts.record.get("method")))
    if method is None or not method.facts.follows_length:
        found.append(
            "- The scaling is static: it also acts on short texts. The table above says what that "
            "costs, where it has lengths inside the original window."
        )
    found.append(
        "- Not measured here: downstream tasks, "
        + ("" if facts.retrievals else "retrieval, ")
        + "other languages than the text's."
    )
    return "\n".join(found)


def _repeat(facts: CardFacts) -> str:
    origin = facts.origin
    # One command where a recipe extended and trained.
    commands = dict.fromkeys(facts.record.get(key) for key in ("extend_command", "command"))
    versions = ", ".join(f"{k} {v}" for k, v in (facts.record.get("versions") or {}).items())
    # A line of a block ends it with three backticks only.
    typed = [printable_text(command).replace("`", "'") for command in commands if command]
    lines = ["```", *typed, "```", ""]
    revision = f", revision `{origin['revision']}`" if origin.get("revision") else ""
    lines.append(
        f"Base: {escape_markdown(_name_of(origin))}{revision}, sha256 of its config.json "
        f"`{origin.get('config_sha256')}`. Versions: {escape_markdown(versions)}. All of it, for "
        "machines: "
        "`ctxext.json`."
    )
    return "\n".join(lines)


def _license(facts: CardFacts) -> str:
    name = facts.license.get("license_name") or facts.license.get("license")
    if not name:
        return "The base's card names no license; its terms apply."
    text = f"As the base: {escape_markdown(name)}."
    return text + " Built with Llama." if is_llama_license(facts.license) else text


def _references(facts: CardFacts) -> str:
    method = METHODS.get(str(facts.record.get("method")))
    papers = [f"- {method.name}: {method.paper}"] if method else []
    if (facts.record.get("training") or {}).get("steps"):
        papers.append("- LoRA: arXiv:2106.09685; LongLoRA (norms, embeddings): arXiv:2309.12307")
    return "\n".join(papers) or "None."
