"""Read the JSON documents of runs: what is missing is None, what is broken has a sentence."""

import os
from collections.abc import Mapping
from pathlib import Path

from ctxext.errors import BadInput, about_its_path
from ctxext.runs.checked import read_checked
from ctxext.runs.rows.demo import DemoResult
from ctxext.runs.rows.fertility import FertilityResult
from ctxext.runs.rows.harness import HarnessResult
from ctxext.runs.rows.lab import LabResult
from ctxext.runs.rows.perplexity import PerplexityResult
from ctxext.runs.rows.retrieval import RetrievalResult
from ctxext.runs.rows.row import Document

DOCUMENTS: Mapping[str, type[Document]] = {
    "eval-ppl": PerplexityResult,
    "eval-retrieval": RetrievalResult,
    "eval-harness": HarnessResult,
    "fertility": FertilityResult,
    "demo": DemoResult,
    "lab": LabResult,
}
"""Commands whose runs leave a document, `<command>.json`."""


@about_its_path
def read_document(folder: Path, command: str) -> Document:
    """Read the document of a run folder; numbers that are missing or not finite are None.

    Raises:
        BadInput: it is not there, of a newer schema, or a value in it is not what it should be;
            folder, file and key are named.
    """
    path = folder / f"{command}.json"
    if not os.path.lexists(path):
        raise BadInput(
            f"{folder} has no {path.name}: its {command} was stopped before its end",
            "run its command again",
        )
    document = DOCUMENTS[command]
    return read_checked(path, document.schema, document.from_dict, hint="run its command again")
