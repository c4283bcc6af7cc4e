"""Inputs of recomputed layers kept in host memory, copied beside the computation.

torch's non-reentrant checkpoint saves a layer's inputs through whatever saved-tensor hooks are
active around it, and everything inside the layer through its own: hooks put around the call of
`checkpoint` see exactly the inputs.

By hand, because torch's `save_on_cpu` copies in the stream that computes, and TRL's
`OffloadActivations` parks every saved tensor, where recomputed layers need their inputs only.
"""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint


class Offloader:
    """A checkpoint function for transformers' layers that parks their inputs in host memory.

    On a GPU the host memory is pinned, copies run on a stream of their own, and in the backward
    pass the layer before the one at work is fetched already. On a CPU the same code copies plainly.

    Attributes:
        parked: bytes that lie in host memory at the moment.
        most: the largest number of them so far.
    """

    def __init__(self) -> None:
        self.parked = self.most = 0
        self._newest: weakref.ref[_Parked] | None = None
        self._streams: dict[torch.device, Any] = {}

    def __call__(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run `checkpoint(function, *args)` with the tensors among `args` parked."""
        with saved_tensors_hooks(self._park, self._fetch):
            return checkpoint(function, *args, use_reentrant=False)

    def stream(self, device: torch.device) -> Any:
        """Return the side stream of a GPU; None on a CPU."""
        if device.type != "cuda":
            return None
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        return self._streams[device]

    def _park(self, tensor: torch.Tensor) -> "_Parked | torch.Tensor":
        if not tensor.numel():  # which torch before 2.13 saves beside the inputs
            return tensor
        before = self._newest() if self._newest else None
        parked = _Parked(self, tensor, before)
        self._newest = weakref.ref(parked)
        self.parked += parked.bytes
        self.most = max(self.most, self.parked)
        weakref.finalize(parked, self._freed, parked.bytes)
        return parked

    def _fetch(self, parked: "_Parked | torch.Tensor") -> torch.Tensor:
        if isinstance(parked, torch.Tensor):
            return parked
        tensor = parked.take()
        before = parked.before() if parked.before else None
        if before is not None:
            before.prefetch()
        return tensor

    def _freed(self, number: int) -> None:
        self.parked -= number


class _Parked:
    """One tensor in host memory, and who was parked before it."""

    def __init__(self, owner: Offloader, tensor: torch.Tensor, before: "_Parked | None") -> None:
        self.device, self.owner = tensor.device, owner
        self.before = weakref.ref(before) if before is not None else None
        self.bytes = tensor.numel() * tensor.element_size()
        self._device_copy: torch.Tensor | None = None
        self._arrived: Any = None
        source = tensor.detach()
        stream = owner.stream(self.device)
        if stream is None:
            self._host = source.clone()
            return
        self._host = torch.empty(source.shape, dtype=source.dtype, pin_memory=True)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            self._host.copy_(source, non_blocking=True)
        source.record_stream(stream)  # its memory is not given away before the copy is done

    def prefetch(self) -> None:
        """Begin the copy back, beside whatever the GPU is computing."""
        stream = self.owner.stream(self.device)
        if stream is None or self._device_copy is not None:
            return
        with torch.cuda.stream(stream):
            self._device_copy = self._host.to(self.device, non_blocking=True)
            self._arrived = stream.record_event()

    def take(self) -> torch.Tensor:
        """Return the tensor on its device, ready for the current stream."""
        stream = self.owner.stream(self.device)
        if stream is None:
            return self._host
        self.prefetch()
        tensor, self._device_copy = self._device_copy, None
        if tensor is None:
            raise RuntimeError("an offloaded tensor was fetched by two threads at once")
        current = torch.cuda.current_stream(self.device)
        current.wait_event(self._arrived)
        tensor.record_stream(current)
        return tensor
