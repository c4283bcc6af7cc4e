"""A run's checkpoint put back in one process, as `training.run.resume` does it for all ranks."""

from ctxext.training.run.state import read_state, restore


def load_state(out, recipe, data_sha256, model, optimizer):
    """Where the newest checkpoint stands, its tensors restored; None without one."""
    saved = read_state(out, recipe, data_sha256, model)
    if saved is None:
        return None
    restore(saved, model, optimizer)
    return saved.state
