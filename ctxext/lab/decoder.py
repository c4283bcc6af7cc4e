"""The laboratory's decoder as its users import it; transformers knows it from then on.

    import ctxext.lab.decoder
    model = transformers.AutoModelForCausalLM.from_pretrained("runs/lab/alibi")

The classes themselves stand in `checkpoints/lab_decoder`, where loading can see them.
"""

from ctxext.checkpoints.lab_decoder.lab_config import LabConfig
from ctxext.checkpoints.lab_decoder.lab_model import LabForCausalLM, LabModel
from ctxext.checkpoints.lab_decoder.model_type import ENCODINGS, LabEncoding
from ctxext.checkpoints.lab_decoder.registered import register

__all__ = ["ENCODINGS", "LabConfig", "LabEncoding", "LabForCausalLM", "LabModel", "register"]

register()
