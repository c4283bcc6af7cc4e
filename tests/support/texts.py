"""Tokens as the store keeps them, made in the simplest way."""

import numpy as np


def stream(corpus, separator):
    """All documents in one array, `separator` (an end-of-text id) after each that lacks it."""
    tokens = []
    for document in corpus.documents:
        tokens += document.tolist()
        if separator is not None and document.tolist()[-1:] != [separator]:
            tokens.append(separator)
    return np.array(tokens, dtype=np.uint32)
