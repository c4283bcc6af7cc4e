"""What `--dtype` comes to in a run: what is loaded, and what is computed in."""

from dataclasses import dataclass

from ctxext.checkpoints.config.dtype import Dtype, DtypeName
from ctxext.errors import BadInput


@dataclass(frozen=True)
class RunDtype:
    """The dtypes of a run.

    Attributes:
        load: the base is loaded so. Full fine-tuning starts its float32 masters from what is
            stored, not from a rounding of it.
        compute: bfloat16 = under autocast; `auto` = what was loaded.
        notes: sentences for the user.
    """

    load: DtypeName
    compute: DtypeName
    notes: tuple[str, ...] = ()


def run_dtype(chosen: Dtype, *, full: bool) -> RunDtype:
    """Choose the dtypes of a run, when `compute_dtype` has chosen for its device.

    Raises:
        BadInput: float16, whose gradients vanish without loss scaling.
    """
    if chosen.name == "float16":
        raise BadInput(
            "--dtype float16: small gradients vanish in it, and fine-tuning scales no loss",
            "leave --dtype out, or give --dtype bfloat16",
        )
    load: DtypeName = "float32" if full and chosen.name != "auto" else chosen.name
    return RunDtype(load, chosen.name, chosen.notes)
