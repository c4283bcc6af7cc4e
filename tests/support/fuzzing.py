"""What every reader owes to a broken or hostile file: a right result or one sentence."""

import copy
import json
import logging
import os
import resource
import time
import traceback

from hypothesis import HealthCheck, settings, strategies as st

from ctxext.errors import CtxextError

# 200 inputs a reader in `make test`; `make test-slow` sets CTXEXT_FUZZ_CASES to 10000.
CASES = int(os.environ.get("CTXEXT_FUZZ_CASES", "200"))
fuzzed = settings(
    max_examples=CASES,
    deadline=None,  # `answers` has its own, for hangs; a busy machine is none
    suppress_health_check=list(HealthCheck),
    derandomize=CASES <= 200,  # the same inputs for everybody, and new ones each long run
)

SECONDS = 20  # a hang, not a timing: the inputs are small
BYTES = 2 * 1024**3


class Overheard(logging.Handler):
    """What transformers says past the reader, with words of the file in it."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())

    def __enter__(self):
        logging.getLogger("transformers").addHandler(self)
        return self

    def __exit__(self, *_):
        logging.getLogger("transformers").removeHandler(self)


def answers(read, *arguments, **keywords):
    """Call a reader on a file somebody broke, and hold it to its promise.

    Returns:
        (result, None), or (None, error) where it said one sentence. Anything else that it raises,
        a sentence of several lines, a hang, more than 2 GiB, or a library that speaks to the
        terminal on its own fails the test.
    """
    begun = time.monotonic()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = said = None
    try:
        with Overheard() as overheard:
            result = read(*arguments, **keywords)
    except CtxextError as error:
        said = error
        sentence = str(error)
        assert sentence.strip(), "an error without a sentence"
        assert "\n" not in sentence, f"an error of several lines: {sentence!r}"
        assert len(sentence) < 2000, f"an error of {len(sentence)} characters"
    except Exception as error:
        told = traceback.format_exc()
        raise AssertionError(f"a traceback where a sentence is owed:\n{told}") from error
    assert not overheard.lines, f"transformers spoke on its own: {overheard.lines[:2]}"
    seconds = time.monotonic() - begun
    assert seconds < SECONDS, f"{seconds:.0f} s for one file"
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB
    assert grown * 1024 < BYTES, f"{grown / 1024:.0f} MiB for one file"
    return result, said


_STRANGE = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 1, 2**31, 2**63, 10**30, -0.0, 0.5, 1e308, 1e-320]),
    st.sampled_from([float("nan"), float("inf"), float("-inf")]),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["", "0", "nan", "../x", "/etc/passwd", "[/red]x", "<b>", "\ud800", "a\nb"]),
    st.sampled_from([[], {}, [[]], [None], {"": None}, [1, 2, 3], {"a": {"b": []}}]),
)


def _places(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    for key, inner in items:
        yield from _places(inner, (*path, key))


@st.composite
def broken(draw, document):
    """A JSON document with one to four places replaced, removed, renamed or repeated."""
    out = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 4))):
        places = [p for p in _places(out) if p]
        if not places:
            break
        *above, last = draw(st.sampled_from(places))
        parent = out
        for key in above:
            parent = parent[key]
        how = draw(st.sampled_from(["replace", "replace", "remove", "rename", "repeat"]))
        if how == "replace":
            parent[last] = copy.deepcopy(draw(_STRANGE))
        elif how == "remove":
            del parent[last]
        elif how == "rename" and isinstance(parent, dict):
            parent[draw(st.text(max_size=8))] = parent.pop(last)
        elif isinstance(parent, list):
            parent.extend([copy.deepcopy(parent[last])] * draw(st.integers(1, 50)))
    return out


@st.composite
def broken_bytes(draw, data):
    """Bytes with a piece cut out, overwritten, repeated or inserted."""
    out = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(out)))
        stop = min(len(out), start + draw(st.integers(0, 40)))
        filling = draw(st.one_of(st.binary(max_size=12), st.just(bytes(out[start:stop]) * 2)))
        out[start:stop] = filling
    return bytes(out)


def as_text(document):
    """JSON as a careless writer leaves it: NaN, Infinity and lone surrogates included."""
    return json.dumps(document)
