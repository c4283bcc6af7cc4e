"""Extrapolate: the encoding is defined at any length, and nothing but the window is raised."""

from ctxext.encodings.alibi import AlibiSpec
from ctxext.encodings.none import WindowSpec
from ctxext.methods._registry import WindowExtension, method


@method(
    formula="the same encoding; the window L' in place of L",
    applies_to=("alibi", "none", "sinusoidal"),
    paper="Press et al., Train Short, Test Long, arXiv:2108.12409; without positions Kazemnejad et "
    "al., arXiv:2305.19466",
    training="measure first: ALiBi may hardly use far text, sinusoids fail soon, without positions "
    "attention spreads",
    writes="the window of the config alone",
    default_for=("alibi", "none", "sinusoidal"),
    keeps_short=True,
)
def extrapolate(spec: AlibiSpec | WindowSpec, target: int) -> WindowExtension:
    """Leave the encoding and the weights as they are, and raise the window that the config says.

    The bias of ALiBi, a sinusoid and the causal mask are there at any position, so that nothing
    has to be computed. Whether the model reads what lies beyond its trained window is another
    matter, which perplexity alone does not show.

    Args:
        spec: trained window L in tokens.
        target: L', window to reach, tokens.
    """
    return WindowExtension(
        parameters={"factor": target / spec.window}, max_position_embeddings=target
    )
