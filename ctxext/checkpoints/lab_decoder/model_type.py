"""The name of the laboratory's decoder in a config.json; read without transformers."""

from typing import Final

MODEL_TYPE: Final = "ctxext_lab"
