"""None: take an earlier extension back."""

from ctxext.encodings.rope import RopeSpec
from ctxext.methods._base import by_base
from ctxext.methods._registry import Extension, Spec, WindowExtension, method


@method(
    formula="the encoding as trained (inv_freq' = inv_freq), the window L",
    applies_to=("rope", "partial-rope", "mixed", "alibi", "none", "sinusoidal"),
    paper="Su et al., RoFormer, arXiv:2104.09864, equation 15",
    training="none; weights that were trained under the extension have moved away from it",
    rope_type="default",
    since="any",
    takes_back=True,
    told_apart=False,
)
def none(spec: Spec, target: int) -> Extension:
    """Go back to the encoding and the window that the checkpoint was trained with.

    Where a `ctxext.json` beside the config says what was changed, exactly that is changed back;
    without one it is what the rope block says of its original window and base. A base that was
    raised without a record of it cannot be known, and is refused. Rows of a learned table that were
    replaced are gone: its base has them.

    Args:
        spec: the trained encoding; window L in tokens.
        target: not used.

    Returns:
        Of a rope `inv_freq` (d/2,) unscaled, radians per token, float64, and `attention_factor` 1;
        of other encodings the window.
    """
    if isinstance(spec, RopeSpec):
        window = spec.original_max_position_embeddings
        return by_base(spec, window, spec.rope_theta, {"factor": 1.0})
    return WindowExtension(parameters={"factor": 1.0}, max_position_embeddings=spec.window)
