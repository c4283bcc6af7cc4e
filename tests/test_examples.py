"""The examples in docstrings give what they say."""

import doctest
import importlib
from pathlib import Path

import pytest

import ctxext

ROOT = Path(ctxext.__file__).parent
MODULES = sorted(
    ".".join(("ctxext", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    for path in ROOT.rglob("*.py")
    if ">>> " in path.read_text()
)


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings(module):
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted, "the examples stand where doctest does not look"
    assert not result.failed
