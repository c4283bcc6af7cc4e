"""Tell transformers of the laboratory's decoder."""

from ctxext.checkpoints.lab_decoder.model_type import MODEL_TYPE


def register() -> None:
    """Let `AutoConfig`, `AutoModel` and `AutoModelForCausalLM` know it; again is no harm.

    Here and not where the laboratory is, because what loads checkpoints calls it.
    """
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    from ctxext.checkpoints.lab_decoder.lab_config import LabConfig
    from ctxext.checkpoints.lab_decoder.lab_model import LabForCausalLM, LabModel

    AutoConfig.register(MODEL_TYPE, LabConfig, exist_ok=True)
    AutoModel.register(LabConfig, LabModel, exist_ok=True)
    AutoModelForCausalLM.register(LabConfig, LabForCausalLM, exist_ok=True)
