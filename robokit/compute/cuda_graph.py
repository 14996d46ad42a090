"""A function's kernels as one CUDA graph: a single launch, with nothing asked of the host in between.

    update = Graphed(update, Cuda(device))
    parts = update(lr, rows, noise)

The first WARM_UP calls run as they are, the next one is captured, and from then on that one is replayed. k
calls are k executions: nothing is tried out on the side, as each may be a gradient step.

A replay does what the captured call did, to the same memory:
- Inputs with a dimension or more are copied into buffers, so that any tensor of the same shape will do.
- 0-d inputs (a learning rate, a coefficient) are taken as they are, read and perhaps written in place: they
  must be the same tensors in every call.
- What the function closes over it may write in place, and must not put another tensor in the place of.
- Outputs are copies; what a caller keeps of them stays what it was.
- A number of Python's, or a branch on one, is what it was at the capture: what changes is a tensor, and so
  are random numbers, drawn outside.

Tests have a stand-in for `Cuda`, which traces; benchmarks/RESULTS.md says what has run on a GPU.
"""

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

Outputs = TypeVar("Outputs", bound=dict[str, Tensor] | tuple[Tensor, ...])
WARM_UP = 3  # calls before the capture, as torch asks for: libraries take their workspaces, kernels are tuned


class Recorder(Protocol):
    """What executes a function that will be captured, and captures it."""

    def run(self, function: Callable[[], Outputs]) -> Outputs:
        """Execute it as it is."""
        ...

    def capture(self, function: Callable[[], Outputs]) -> Callable[[], Outputs]:
        """Record it without executing it: each call of the result does, and returns the same tensors."""
        ...


class Graphed(Generic[Outputs]):
    """See the module. Raises ValueError for inputs that a replay would not read."""

    def __init__(self, function: Callable[..., Outputs], recorder: Recorder) -> None:
        self._function, self._recorder = function, recorder
        self._inputs: tuple[Tensor, ...] = ()  # that the function reads, in every call
        self._replay: Callable[[], Outputs] | None = None
        self.calls = 0

    def __call__(self, *inputs: Tensor) -> Outputs:
        if not self.calls:
            self._inputs = tuple(
                x.detach().clone(memory_format=torch.contiguous_format) if x.dim() else x for x in inputs
            )
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
        """Copy the inputs into the buffers."""
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
    """Runs and captures functions on a stream of one CUDA device, as torch's notes on CUDA graphs ask for.

    The stream waits for all that was asked of the device before, and what comes after waits for the stream:
    so memory that either gives back is not written by the other too early.
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
    """All in one kernel, where they are of one dtype."""
    if to:
        torch._foreach_copy_(to, values)


def _kind(x: Tensor) -> str:
    return f"{tuple(x.shape)} {x.dtype} on {x.device}"
