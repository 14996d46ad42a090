"""Warp's kernels recorded once and replayed: a CUDA graph, or Warp's own recording on its CPU device.

    graphs = Graphs(device)
    graphs.run("forward", lambda: mjw.forward(model, data))

Launching a kernel from Python often takes longer than running it, and a step of mujoco_warp has many kernels.
On the CPU device a replay equals the calls bit for bit; the CUDA part has not run on a GPU yet.
"""

import importlib
import warnings
from collections.abc import Callable, Hashable
from typing import Any

import torch

wp: Any = importlib.import_module("warp")


class Graphs:
    """Runs calls by key: plain the first time, which loads the kernels; then recorded; from then on replayed.

    A call must only launch Warp kernels on the current device and stream: no torch, no reading of values.
    `drop` discards all recordings. They contain the addresses of arrays, and kernels chosen by their shapes.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._seen: set[Hashable] = set()
        self._recorded: dict[Hashable, Any] = {}
        self._streams: dict[int, Any] = {}  # Warp's view of torch's streams
        self._own: Any = None  # torch's default stream cannot be recorded
        self._off = False
        if reason := obstacle(device):
            self._give_up(reason)

    def run(self, key: Hashable, call: Callable[[], None]) -> None:
        """Execute `call`, or replay its recording under `key`; equal keys must mean equal calls."""
        with self.scope():
            if key not in self._recorded and key in self._seen and not self._off:
                self._record(key, call)
            if key in self._recorded:
                wp.capture_launch(self._recorded[key])
            else:
                call()
            self._seen.add(key)

    def drop(self) -> None:
        wp.synchronize_device(str(self.device))  # running kernels still read the recordings
        self._recorded.clear()
        self._seen.clear()

    def scope(self) -> Any:
        """A context in which Warp uses the device and torch's current stream."""
        if self.device.type == "cpu":
            return wp.ScopedDevice("cpu")
        stream = torch.cuda.current_stream(self.device)
        if stream.cuda_stream not in self._streams:
            self._streams[stream.cuda_stream] = wp.stream_from_torch(stream)
        return wp.ScopedStream(self._streams[stream.cuda_stream])

    def _record(self, key: Hashable, call: Callable[[], None]) -> None:
        try:
            self._recorded[key] = self._capture(call)
        except RuntimeError as error:
            self._give_up(str(error))

    def _capture(self, call: Callable[[], None]) -> Any:
        """Record a call without executing it."""
        if self.device.type == "cpu":
            with wp.ScopedCapture(device="cpu") as capture:
                call()
            return capture.graph
        self._own = self._own or wp.Stream(str(self.device))
        with wp.ScopedStream(self._own), wp.ScopedCapture(stream=self._own) as capture:
            call()
        return capture.graph

    def _give_up(self, reason: str) -> None:
        """Warn, and record no further call: those not recorded yet stay plain."""
        self._off = True
        warnings.warn(f"Warp's steps are not recorded, and so slower: {reason}", stacklevel=3)


def obstacle(device: torch.device) -> str | None:
    """Why nothing can be recorded on a device; None if it can."""
    if device.type == "cpu":
        return None
    if not wp.is_mempool_enabled(str(device)):
        return f"{device} has no CUDA memory pool, from which a graph takes its memory"
    if not wp.is_conditional_graph_supported():
        return f"loops in a CUDA graph need CUDA 12.4, the driver has {version(wp.get_cuda_driver_version())}"
    return None


def version(number: tuple[int, int] | None) -> str:
    """A CUDA version as text: "12.4", or "none"."""
    return "none" if number is None else f"{number[0]}.{number[1]}"
