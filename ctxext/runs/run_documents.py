"""The JSON documents of runs, read back: what is missing is None, what is broken has a sentence."""

import os
from collections.abc import Mapping
from pathlib import Path

from ctxext.errors import BadInput, about_its_path
from ctxext.runs.checked import read_checked
from ctxext.runs.rows.demo import DemoResult
from ctxext.runs.rows.fertility import FertilityResult
from ctxext.runs.rows.harness import HarnessResult
from ctxext.runs.rows.perplexity import PerplexityResult
from ctxext.runs.rows.retrieval import RetrievalResult
from ctxext.runs.rows.row import Document

DOCUMENTS: Mapping[str, type[Document]] = {
    "eval-ppl": PerplexityResult,
    "eval-retrieval": RetrievalResult,
    "eval-harness": HarnessResult,
    "fertility": FertilityResult,
    "demo": DemoResult,
}
"""Kinds of runs that leave a document, `<kind>.json`."""


@about_its_path
def read_document(folder: Path, kind: str) -> Document:
    """Read the document of a run folder; numbers that are missing or not finite are None.

    Raises:
        BadInput: it is not there, of a newer schema, or a value in it is not what it should be;
            folder, file and key are named.
    """
    path = folder / f"{kind}.json"
    if not os.path.lexists(path):
        raise BadInput(
            f"{folder} has no {path.name}: its {kind} was stopped before its end",
            "run its command again",
        )
    row = DOCUMENTS[kind]
    return read_checked(path, row.schema, row.from_dict, hint="run its command again")
