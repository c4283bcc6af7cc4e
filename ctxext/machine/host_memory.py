"""Count the host memory that offloaded layer inputs take, and check that this machine has it.

On a GPU they are pinned, and what is pinned cannot be swapped: too much of it ends in the kernel
killing a process, long after the run has begun.
"""

from ctxext.errors import BadInput


def parked_bytes(layers: int, layer_input: int, *, pinned: bool) -> int:
    """Count the bytes that one process parks: an input for each layer.

    Args:
        layer_input: bytes of one; torch (2.13) pins powers of two.

    >>> parked_bytes(28, 896 * 2**20, pinned=True) // 2**20
    28672
    """
    return layers * (1 << (layer_input - 1).bit_length() if pinned else layer_input)


def check_host_memory(needed: int, processes: int, available: int | None) -> None:
    """Check that the processes of this machine can all park that much.

    Args:
        needed: bytes of one process (`parked_bytes`).
        processes: on this machine.
        available: bytes that are free here; None = nobody says so, and nothing is checked.

    Raises:
        BadInput: they cannot; both numbers are named.
    """
    together = needed * processes
    if available is None or together <= available:
        return
    who = f"{processes} processes" if processes > 1 else "this process"
    raise BadInput(
        f"--offload activations: {who} would hold {together / 2**30:.1f} GiB of layer inputs in "
        f"host memory, and {available / 2**30:.1f} GiB are free here",
        "recompute fewer layers (--recompute N), take shorter rows, share them "
        "(--context-parallel), or leave --offload out",
    )
