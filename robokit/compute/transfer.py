"""Copies of tensors to another device, packed into one transfer that does not block the host."""

from collections.abc import Mapping

import torch
from torch import Tensor


class Transfer:
    """Packs named float32 and bool tensors into one buffer, copies it, and unpacks them on the device.

    To a GPU the copy is asynchronous, from a pinned buffer. Use it from one thread at a time; a call waits
    until the previous copy has left the buffer.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._buffer = torch.empty(0)
        self._left = torch.cuda.Event() if device.type == "cuda" else None  # last copy done

    def __call__(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Contiguous copies on the device, by the same names; later calls do not overwrite them."""
        flags = [name for name, x in tensors.items() if x.dtype == torch.bool]
        order = [name for name in tensors if name not in flags] + flags
        sizes = [tensors[name].numel() for name in order]
        self._wait()
        packed = self._room(sum(sizes))
        torch.cat([tensors[name].reshape(-1) for name in order], out=packed)
        there = self._send(packed)
        numbers = len(order) - len(flags)
        marks = there[sum(sizes[:numbers]) :] != 0
        parts = (*there.split([*sizes[:numbers], marks.numel()])[:-1], *marks.split(sizes[numbers:]))
        named = {name: part.view(tensors[name].shape) for name, part in zip(order, parts, strict=True)}
        return {name: named[name] for name in tensors}

    def _room(self, size: int) -> Tensor:
        if self._buffer.numel() < size:
            self._buffer = torch.empty(size, pin_memory=self.device.type == "cuda")
        return self._buffer[:size]

    def _send(self, packed: Tensor) -> Tensor:
        there = packed.to(self.device, non_blocking=True, copy=True)
        if self._left is not None:
            self._left.record(torch.cuda.current_stream(self.device))
        return there

    def _wait(self) -> None:
        """Wait until the buffer may be overwritten: no time if an action was copied back since then."""
        if self._left is not None:
            self._left.synchronize()
