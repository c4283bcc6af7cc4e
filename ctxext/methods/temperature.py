"""Temperature: attention that is told no positions is sharpened beyond its trained window."""

from ctxext.encodings.none import WindowSpec, temperature as scale_of
from ctxext.encodings.rope import RopeSpec
from ctxext.errors import BadInput
from ctxext.methods._registry import ScoreExtension, method


@method(
    formula="scores' = (1 + c ln s) scores, in layers without positions",
    applies_to=("none", "rope", "partial-rope", "mixed"),
    paper="Gelberg et al., DroPE, arXiv:2512.12167; Wang et al., arXiv:2404.12224",
    training="none, but c has to be measured: --calibrate TEXT; or learn it: finetune --train "
    "temperature",
    writes="the weights of the queries",
)
def temperature(spec: WindowSpec | RopeSpec, target: int, *, c: float = 0.1) -> ScoreExtension:
    """Multiply attention scores by 1 + c ln s, in the weights of the queries.

        beta = 1 + c ln s,    s = L' / L
        softmax(beta q k^T / sqrt(d)) = softmax((beta W_q x) k^T / sqrt(d))

    Among more tokens than it was trained on, attention gives each of them less; multiplied, the
    largest scores count as much as before. A rope has to stand still (`drop`), or its layers are
    left alone, those beside it without positions being meant.

    Args:
        spec: trained window L.
        target: L', tokens.
        c: 0 changes nothing.

    Returns:
        `scale`, beta.

    Raises:
        BadInput: beta is not above 0.
    """
    factor = target / spec.window
    beta = scale_of(c, factor)
    if not beta > 0:
        raise BadInput(f"--set c={c:g}: at factor {factor:g} scores vanish or turn over")
    return ScoreExtension(
        parameters={"factor": factor, "c": float(c)}, scale=beta, max_position_embeddings=target
    )
