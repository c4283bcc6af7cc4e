"""What engines make of each method: every pair has a verdict, and the notes say the bad ones."""

from typing import get_args

import pytest

from ctxext.api.extend import extend
from ctxext.api.inspect import inspect
from ctxext.engines import ENGINES, Engine, Verdict, cell
from ctxext.engines.notes import engine_notes, first_transformers, serve_commands
from ctxext.methods import METHODS, rope_methods
from support.families import build_family

ROPE = [method.name for method in rope_methods()]


@pytest.mark.parametrize("method", ROPE)
@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_every_pair_has_a_verdict_that_is_said(method, engine):
    found = cell(engine, METHODS[method])
    assert found.verdict in get_args(Verdict)
    assert found.engine == engine.name
    assert found.source
    assert "{" not in found.sentence
    assert found.sentence
    said = " ".join(engine_notes(method, {}, 8192))
    # what transformers is needed is said for the family, in the card
    needs = found.verdict != "ok" and not found.releases
    asks = "pass " in found.sentence
    assert (engine.name in said) == (needs or asks or "unscaled" in found.sentence)
    if asks:
        assert f"{engine.window_flag} " in f"{said} "


def verdicts(verdict):
    return {
        (engine.name, method)
        for engine in ENGINES
        for method in ROPE
        if cell(engine, METHODS[method]).verdict == verdict
    }


PAIRS = ("cope", "drop", "ntk-by-parts", "p-rope", "resonance")


def test_what_was_read_in_their_sources():
    """By hand: the matrix that was published with the sources."""
    lists = {(e, m) for e in ("llama.cpp", "Ollama") for m in ("longrope", *PAIRS)}
    # sqrt(1 + ln s / ln L), whatever the file says
    attention = {(e, m) for e in ("MLX", "ExLlamaV3", "TensorRT-LLM") for m in PAIRS}
    chunks = {e.name for e in ENGINES} - {"vLLM", "SGLang"}
    assert verdicts("wrong") == {
        ("TGI", "linear"), ("llama.cpp", "dynamic"), ("Ollama", "dynamic"), ("TGI", "resonance"),
        *lists, *attention, *((engine, "dual-chunk") for engine in chunks),
    }  # fmt: skip
    assert verdicts("refuses") == {
        (engine, "dynamic") for engine in ("ExLlamaV3", "MLX", "TensorRT-LLM")
    }
    assert verdicts("needs version") == {
        ("vLLM", "dual-chunk"), ("transformers", "yarn"), ("transformers", "longrope"),
        *(("transformers", method) for method in PAIRS),
    }  # fmt: skip


def test_releases_of_transformers_by_hand():
    """As run in each: yarn is wrong in 4.46 and right from 4.51 on; ntk is right in all."""
    transformers = ENGINES[0]
    yarn = cell(transformers, METHODS["yarn"])
    assert yarn.releases == {"4.46": "needs version", "4.51": "ok", "4.57": "ok", "5": "ok"}
    assert yarn.sentence == "runs it from 4.51 on"
    assert set(cell(transformers, METHODS["ntk"]).releases.values()) == {"ok"}
    assert set(cell(transformers, METHODS["llama3"]).releases.values()) == {"ok"}
    assert set(cell(transformers, METHODS["dual-chunk"]).releases.values()) == {"wrong"}


def test_a_new_reading_would_be_seen_in_the_matrix():
    engine = Engine("Toy", 99, "a/b: c.py", readings={"yarn": "refused"}, list_attention="one")
    assert cell(engine, METHODS["yarn"]).verdict == "refuses"
    assert cell(engine, METHODS["resonance"]).verdict == "wrong"
    assert cell(engine, METHODS["p-rope"]).verdict == "ok"
    assert cell(engine, METHODS["dual-chunk"]).verdict == "wrong"


def test_the_attention_factor_that_is_written_decides():
    """A longrope with the standard factor is right where resonance's is not."""
    assert engine_notes("longrope", {"rope_type": "longrope"}, 8192) == [
        "longrope scaling is ignored by llama.cpp and Ollama",
        "the original window is offered by vLLM: pass --max-model-len 8192",
    ]
    one = engine_notes("longrope", {"attention_factor": 1.0}, 8192)[-1]
    assert one.endswith("not taken as it is said by MLX, ExLlamaV3 and TensorRT-LLM")
    own = engine_notes("longrope", {"attention_factor": 1.2}, 8192)[-1]
    assert own.endswith("by MLX, TGI, ExLlamaV3 and TensorRT-LLM")


def test_only_two_run_dual_chunk_attention():
    ignored, releases = engine_notes("dual-chunk", {}, 8192)
    assert "transformers, llama.cpp" in ignored
    assert "SGLang" not in ignored + releases
    assert releases.endswith("read by vLLM in 0.8.5 to 0.10 only")


def test_notes_join_engines_that_err_alike():
    assert engine_notes("linear", {}, 8192) == [
        "linear scaling is ignored by TGI",
        "the window is multiplied by the factor once more in vLLM and SGLang: "
        "pass --max-model-len / --context-length 8192",
    ]
    assert engine_notes("yarn", {"rope_type": "yarn", "factor": 4.0}, 8192) == []
    (note,) = engine_notes("yarn", {"beta_fast": 16.0}, 8192)
    assert note == "beta_fast is ignored by older llama.cpp, older Ollama and TGI"
    assert "older vLLM, SGLang" in engine_notes("yarn", {"attention_factor": 1.0}, 8192)[0]
    assert engine_notes("of another version", {}, 8192) == []


def test_each_says_where_it_was_read_and_who_is_served():
    assert all("/" in engine.source and engine.name for engine in ENGINES)
    assert [engine.rank for engine in ENGINES] == sorted({engine.rank for engine in ENGINES})
    commands = dict(serve_commands("me/m", 32768))
    assert commands["vLLM"] == "vllm serve me/m --max-model-len 32768"
    assert list(commands) == ["vLLM", "SGLang", "llama.cpp", "Ollama", "MLX"]


@pytest.mark.parametrize(
    ("method", "model_type", "release"),
    [
        ("yarn", "llama", "4.51"), ("yarn", "mistral", "4.51"), ("linear", "llama", "4.31"),
        ("linear", "mistral", "4.48"), ("llama3", "mistral", "4.48"), ("ntk", "mistral", "any"),
    ],
)  # fmt: skip
def test_since_which_transformers(method, model_type, release):
    assert first_transformers(method, model_type) == release


@pytest.mark.parametrize(
    ("method", "model_type", "keys", "note"),
    [
        ("yarn", "olmo2", {}, "yarn scaling of olmo2 needs transformers 5: older releases refuse"),
        ("linear", "olmo2", {}, None),
        ("linear", "nemotron", {}, "linear scaling of nemotron needs transformers 5: older"),
        ("ntk", "nemotron", {}, None),
        ("ntk", "olmo3", {}, "a new rope_theta of olmo3 needs transformers 5"),
        ("longrope", "phi3", {}, None),
        ("longrope", "phi3", {"attention_factor": 1.2}, "longrope scaling of phi3 needs"),
        ("yarn", "deepseek_v2", {"mscale_all_dim": 1.0}, "leave its temperature out"),
        ("yarn", "mistral", {}, None),
    ],
)
def test_a_family_that_older_transformers_read_otherwise_is_said(method, model_type, keys, note):
    notes = " ".join(engine_notes(method, keys, 8192, model_type))
    if note is None:
        assert "older releases" not in notes
        assert first_transformers(method, model_type, keys) != "5"
    else:
        assert note in notes
        assert first_transformers(method, model_type, keys) == "5"


def test_extend_and_inspect_say_which_transformers_a_family_needs(tmp_path):
    model = str(build_family(tmp_path / "olmo2", "olmo2"))
    plan = extend(model, method="yarn", target=512, dry_run=True)
    assert any("olmo2 needs transformers 5" in warning for warning in plan.warnings)
    rows = {row["name"]: row for row in inspect(model).to_dict()["methods"]}
    assert any("olmo2 needs transformers 5" in note for note in rows["yarn"]["engines"])
    assert not any("needs transformers 5" in note for note in rows["linear"]["engines"])
