"""A function's kernels as one CUDA graph: a single launch, without work of the host in between.

    update = Graphed(update, Cuda(device))
    parts = update(lr, rows, noise)

The first WARM_UP calls run normally, the next one is captured, and later calls replay it. k calls are exactly
k executions, without trial runs, because each may be a gradient step.

A replay repeats the captured operations on the same memory:
- Inputs with one or more dimensions are copied into buffers, so any tensor of the same shape may be passed.
- 0-d inputs (a learning rate, a coefficient) are not copied, and may be written in place: pass the same
  tensors in every call.
- The function may write the tensors of its closure in place, but must not replace them by others.
- Outputs are copies, which later calls do not overwrite.
- Python numbers, and branches on them, are fixed at the capture: changing values and random numbers must be
  tensors, drawn outside.

Tests replace `Cuda` by a tracer; benchmarks/RESULTS.md lists the runs on a GPU.
"""

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

Outputs = TypeVar("Outputs", bound=dict[str, Tensor] | tuple[Tensor, ...])
WARM_UP = 3  # calls before the capture, as torch requires: libraries allocate workspaces, kernels are tuned


class Recorder(Protocol):
    """Executes a function, and captures it for replays."""

    def run(self, function: Callable[[], Outputs]) -> Outputs:
        """Execute the function and return its outputs."""
        ...

    def capture(self, function: Callable[[], Outputs]) -> Callable[[], Outputs]:
        """Record the function without executing it; the result executes it, into the same outputs."""
        ...


class Graphed(Generic[Outputs]):
    """A function run in WARM_UP calls, captured in the next, and replayed from it on; outputs are copies.

    A call raises ValueError for inputs that a replay would ignore: see `_take`.
    """

    def __init__(self, function: Callable[..., Outputs], recorder: Recorder) -> None:
        self._function, self._recorder = function, recorder
        self._inputs: tuple[Tensor, ...] = ()  # read by the function in every call
        self._replay: Callable[[], Outputs] | None = None
        self.calls = 0

    def __call__(self, *inputs: Tensor) -> Outputs:
        if not self.calls:
            whole = torch.contiguous_format
            self._inputs = tuple(x.detach().clone(memory_format=whole) if x.dim() else x for x in inputs)
        else:
            self._take(inputs)
        if self._replay is None and self.calls == WARM_UP:
            self._replay = self._recorder.capture(self._execute)
        outputs = self._recorder.run(self._execute) if self._replay is None else self._replay()
        self.calls += 1
        return _copies(outputs)

    def _execute(self) -> Outputs:
        return self._function(*self._inputs)

    @torch.no_grad()
    def _take(self, inputs: tuple[Tensor, ...]) -> None:
        """Copy inputs into the buffers. Raises ValueError for another shape, dtype, device or 0-d tensor."""
        if len(inputs) != len(self._inputs):
            raise ValueError(f"a graph of {len(self._inputs)} inputs was given {len(inputs)}")
        for number, (ours, given) in enumerate(zip(self._inputs, inputs, strict=True)):
            if not ours.dim() and given is not ours:
                rule = "is 0-d, so it must be the same tensor in every call: write into that one"
                raise ValueError(f"input {number} of a graph {rule}")
            if (given.shape, given.dtype, given.device) != (ours.shape, ours.dtype, ours.device):
                raise ValueError(f"input {number} of a graph is {_kind(ours)}, got {_kind(given)}")
        _copy([x for x in self._inputs if x.dim()], [x for x in inputs if x.dim()])


class Cuda:
    """Runs and captures functions on a side stream of one CUDA device, as torch's CUDA graph notes require.

    The side stream waits for earlier work of the current stream, and later work waits for the side stream:
    neither reuses memory that the other still reads.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)

    def run(self, function: Callable[[], Outputs]) -> Outputs:
        here = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            outputs = function()
        here.wait_stream(self._stream)
        return outputs

    def capture(self, function: Callable[[], Outputs]) -> Callable[[], Outputs]:
        graph = torch.cuda.CUDAGraph()
        # thread_local: another thread may be collecting the next rollout
        on_stream = torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local")
        with torch.cuda.device(self._device), on_stream:
            outputs = function()

        def replay() -> Outputs:
            graph.replay()
            return outputs

        return replay


@torch.no_grad()
def _copies(outputs: Any) -> Any:
    values = [*outputs.values()] if isinstance(outputs, dict) else [*outputs]
    copies = [torch.empty_like(value) for value in values]
    _copy(copies, values)
    return dict(zip(outputs, copies, strict=True)) if isinstance(outputs, dict) else tuple(copies)


def _copy(to: list[Tensor], values: list[Tensor]) -> None:
    """Copy `values` into `to`: in one kernel if they have one dtype."""
    if to:
        torch._foreach_copy_(to, values)


def _kind(x: Tensor) -> str:
    return f"{tuple(x.shape)} {x.dtype} on {x.device}"
