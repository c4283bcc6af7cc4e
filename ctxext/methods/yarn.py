"""YaRN: leave fast pairs alone, interpolate slow ones, ramp in between."""

import math

from ctxext.encodings.rope import RopeSpec, inv_freq_of
from ctxext.errors import BadInput
from ctxext.methods._registry import RopeExtension, Scaling, Value, method
from ctxext.methods.ntk import check_pair

DEFAULT_BETAS = {"beta_fast": 32.0, "beta_slow": 1.0}
"""What every reader takes where a block has none."""


def yarn_inv_freq(
    spec: RopeSpec, factor: float, beta_fast: float, beta_slow: float, *, truncate: bool = True
) -> list[float]:
    """Compute the formula of `yarn` for any positive betas, as transformers does from a file.

    Args:
        spec: d = `rotary_dim`; original window in tokens.
        factor: s, how many times longer the window becomes.
        beta_fast, beta_slow: full turns in the original window, positive.
        truncate: round the two ends of the ramp outwards.

    Returns:
        (d/2,) radians per token, float64.
    """
    d, window = spec.rotary_dim, spec.original_max_position_embeddings

    def pair_that_turns(times: float) -> float:
        return d * math.log(window / (2 * math.pi * times)) / (2 * math.log(spec.rope_theta))

    low, high = pair_that_turns(beta_fast), pair_that_turns(beta_slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, d - 1)
    # Tiny windows: low == high. The same small width as transformers, so that the ramp is a step.
    width = 0.001 if low == high else high - low
    ramp = [min(max((i - low) / width, 0.0), 1.0) for i in range(d // 2)]
    return [f * (1 - r) + f / factor * r for f, r in zip(inv_freq_of(spec), ramp, strict=True)]


def yarn_attention(factor: float, mscale: float = 1.0) -> float:
    """Compute 0.1 m ln s + 1, the paper's attention factor at m = 1; 1 where nothing is scaled."""
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0


def keep_yarn(scaling: Scaling, spec: RopeSpec, target: int) -> dict[str, Value]:
    """Keep what is not the default: betas, `truncate`, the attention factor or its two parts."""
    numbers = scaling.numbers
    kept: dict[str, Value] = {} if scaling.truncate else {"truncate": False}
    fast, slow = numbers.get("beta_fast") or 32.0, numbers.get("beta_slow") or 1.0
    if (fast, slow) != (32.0, 1.0):
        kept |= {"beta_fast": fast, "beta_slow": slow}
    if "critical_pair" in scaling.given:
        kept.pop("beta_slow", None)
    scale, all_dims = numbers.get("mscale"), numbers.get("mscale_all_dim")
    given = numbers.get("attention_factor")
    if given is not None and not math.isclose(given, yarn_attention(scaling.factor), rel_tol=1e-6):
        kept["attention_factor"] = given
    elif given is None and scale and all_dims:
        kept |= {"mscale": scale, "mscale_all_dim": all_dims}
    return kept


@method(
    formula="inv_freq'[i] = (1 - r) inv_freq[i] + r inv_freq[i] / s, "
    "r = clip((i - low) / (high - low), 0, 1)",
    applies_to=("rope", "partial-rope", "mixed"),
    paper="Peng et al., YaRN, arXiv:2309.00071, sections 3.2 and 3.4",
    training="usable without; 200 to 400 steps make it the best of these",
    rope_type="yarn",
    since="4.51",
    default_for=("rope", "partial-rope", "mixed"),
    keep=keep_yarn,
)
def yarn(
    spec: RopeSpec,
    target: int,
    *,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    critical_pair: int | None = None,
    attention_factor: float | None = None,
    mscale: float | None = None,
    mscale_all_dim: float | None = None,
    truncate: bool = True,
) -> RopeExtension:
    """Blend "no change" and linear interpolation, pair by pair.

        inv_freq'[i] = (1 - r[i]) * inv_freq[i] + r[i] * inv_freq[i] / s,    i = 0 .. d/2-1
        r[i] = clip((i - low) / (high - low), 0, 1)

    `low`, `high`: the pairs that turn `beta_fast` and `beta_slow` times in the original window,
    rounded outwards. The paper ramps over turns; the authors' code and transformers ramp over the
    pair index, and published checkpoints were trained so: we follow the code.

    Args:
        spec: d = `rotary_dim`; original window in tokens = `original_max_position_embeddings`.
        target: window to reach, tokens; s = target / original >= 1 (the caller has checked).
        beta_fast, beta_slow: full turns in the original window, beta_fast >= beta_slow > 0; where
            they are equal (Kimi-K2: 1 and 1) the ramp lies between two neighbouring pairs.
        critical_pair: the first pair that is slowed by all of s, in place of `beta_slow`, and
            written as the `beta_slow` that it turns. LongRoPE2 (arXiv:2502.20082) found that it
            comes earlier than theory says, and that YaRN gains by it.
        attention_factor: None: 0.1 ln s + 1, the paper's, which every reader computes itself.
            Another value is written to the config, where several engines ignore it.
        mscale, mscale_all_dim: DeepSeek's form, both or none: without an `attention_factor` it is
            (0.1 mscale ln s + 1) / (0.1 mscale_all_dim ln s + 1).
        truncate: round `low` and `high` outwards; False is read by transformers only.

    Returns:
        `inv_freq` (d/2,), radians per token, float64. `attention_factor` goes on cos and on sin,
        so logits grow by its square.

    Raises:
        BadInput: betas, attention_factor or one of its parts out of range.
    """
    if critical_pair is not None:
        if beta_slow != DEFAULT_BETAS["beta_slow"]:
            raise BadInput("yarn takes beta_slow or critical_pair, which says the same of a pair")
        beta_slow = _turns_of(spec, critical_pair)
    if not beta_fast >= beta_slow > 0:
        raise BadInput(
            f"YaRN needs beta_fast >= beta_slow > 0, and got {beta_fast} and {beta_slow}"
        )
    window = spec.original_max_position_embeddings
    factor = target / window
    attention, said = _attention(factor, attention_factor, mscale, mscale_all_dim)
    betas = {"beta_fast": float(beta_fast), "beta_slow": float(beta_slow)}
    # Defaults stay out of the file: several engines misread the keys, none misses their absence.
    block: dict[str, object] = {
        "rope_type": "yarn", "factor": factor, "original_max_position_embeddings": window,
        **{key: value for key, value in betas.items() if value != DEFAULT_BETAS[key]},
        **({} if truncate else {"truncate": False}), **said,
    }  # fmt: skip
    parameters = {"factor": factor, **betas, "attention_factor": attention}
    if critical_pair is not None:
        parameters["critical_pair"] = int(critical_pair)
    return RopeExtension(
        parameters=parameters | said | {"attention_factor": attention, "truncate": truncate},
        inv_freq=yarn_inv_freq(spec, factor, beta_fast, beta_slow, truncate=truncate),
        attention_factor=attention,
        rope_theta=spec.rope_theta,
        rope_block=block,
        max_position_embeddings=target,
    )


def _turns_of(spec: RopeSpec, critical_pair: int) -> float:
    """Compute the turns that a pair makes in the original window, as a `beta_slow`.

    A millionth of a millionth more, so that `truncate` rounds up to the pair, and not past it.

    Raises:
        BadInput: there is no such pair.
    """
    check_pair(spec, critical_pair)
    window, frequency = spec.original_max_position_embeddings, inv_freq_of(spec)[critical_pair]
    return window * frequency / (2 * math.pi) * (1 + 1e-12)


def _attention(
    factor: float, given: float | None, mscale: float | None, mscale_all_dim: float | None
) -> tuple[float, dict[str, float]]:
    """Compute the attention factor, and the config keys that have to say it: none by default.

    Raises:
        BadInput: one of the values is not positive, or half of DeepSeek's pair is missing.
    """
    if given is not None and not given > 0:
        raise BadInput(f"attention_factor must be positive, and is {given}")
    if (mscale is None) != (mscale_all_dim is None):
        raise BadInput("YaRN takes mscale and mscale_all_dim together, or neither")
    if mscale is not None and mscale_all_dim is not None:
        if not (mscale > 0 and mscale_all_dim > 0):
            raise BadInput(f"mscale {mscale} and mscale_all_dim {mscale_all_dim} must be positive")
        if given is None:
            pair = {"mscale": float(mscale), "mscale_all_dim": float(mscale_all_dim)}
            return yarn_attention(factor, mscale) / yarn_attention(factor, mscale_all_dim), pair
    default = yarn_attention(factor)
    if given is None or given == default:
        return default, {}
    return given, {"attention_factor": float(given)}
