"""What the laboratory's decoder is called in a config.json, and its words; without transformers."""

from typing import Final, Literal, get_args

MODEL_TYPE: Final = "ctxext_lab"
LabEncoding = Literal["sinusoidal", "learned", "rope", "alibi", "none"]
ENCODINGS: Final[tuple[LabEncoding, ...]] = get_args(LabEncoding)
"""Its `position_encoding`, in the order in which they were invented."""
