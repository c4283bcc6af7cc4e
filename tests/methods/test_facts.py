"""A method and a rope type carry their facts; nobody else asks for their names."""

import ast
from pathlib import Path
from typing import get_args

import pytest
import transformers

import ctxext
from ctxext.encodings.kinds import ROTARY, PositionEncoding
from ctxext.encodings.rope_types import ROPE_TYPES, rope_type_facts
from ctxext.methods import METHODS, name_of_scaling, rope_methods

ROOT = Path(ctxext.__file__).parent
NAMES = set(METHODS) | set(ROPE_TYPES) - {"default"}


def constants(node):
    """The texts in a constant, or in a tuple, list or set of them."""
    parts = node.elts if isinstance(node, ast.Tuple | ast.List | ast.Set) else [node]
    return {part.value for part in parts if isinstance(part, ast.Constant)}


def comparisons(source):
    """(line, text) of each comparison with a method's name; layers may be called linear too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            words = " ".join(ast.unparse(side) for side in sides)
            of_layers = any(word in words for word in ("attention", "kind"))
            if ".protocol" in words:  # of an evaluation, named after the paper that used it
                continue
            named = set().union(*map(constants, sides)) & NAMES
            if "method" not in words:
                named -= {"none"}  # of encodings, learning-rate schedules and much else
            if named - ({"linear"} if of_layers else set()):
                yield node.lineno, words
        if isinstance(node, ast.MatchValue) and constants(node.value) & NAMES:
            yield node.lineno, ast.unparse(node)


def test_nobody_outside_compares_a_method_s_name():
    found = [
        f"{path.relative_to(ROOT)}:{line}: {words}"
        for path in ROOT.rglob("*.py")
        if path.relative_to(ROOT).parts[0] not in ("methods", "engines")
        for line, words in comparisons(path.read_text())
    ]
    assert found == []


def test_a_comparison_would_be_seen():
    assert list(comparisons('if block.rope_type == "yarn": pass'))
    assert list(comparisons('x = method in ("dynamic", "longrope")'))
    assert list(comparisons('match x:\n    case "llama3": pass'))
    assert not list(comparisons('x = layer.attention == "linear"'))
    assert list(comparisons('if method == "none": pass'))
    assert not list(comparisons('x = position.encoding == "none"'))


def test_rope_types_are_those_of_transformers():
    known = set(transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS) | {"default"}
    assert set(ROPE_TYPES) == known
    assert rope_type_facts("what") == ROPE_TYPES["default"]


@pytest.mark.parametrize("method", rope_methods(), ids=lambda method: method.name)
def test_a_rope_method_writes_a_rope_type_that_has_facts(method):
    assert method.rope_type in ROPE_TYPES
    assert method.facts == ROPE_TYPES[method.rope_type]
    assert name_of_scaling(method.rope_type) in METHODS
    assert set(method.applies_to) & set(ROTARY)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_says_what_it_is(name):
    method = METHODS[name]
    assert bool(method.rope_type) != bool(method.writes)
    assert method.written_as
    assert set(method.default_for) <= set(method.applies_to) <= set(get_args(PositionEncoding))
    assert method.since == "any" or method.since.startswith("4.")
    assert method.formula
    assert "\n" not in method.formula
    assert method.summary.endswith(".")
    assert method.training
    assert method.paper
