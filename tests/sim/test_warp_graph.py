"""Recordings of Warp's kernels, on its CPU device: made the second time, replayed, dropped, done without."""

import pytest
import torch
from torch import Tensor

wp = pytest.importorskip("warp", reason="needs robokit[gpu]")
from robokit.sim.warp.graph import Graphs, obstacle, version  # noqa: E402

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")


@wp.kernel(enable_backward=False)
def add(x: wp.array[float], y: wp.array[float]):  # pyright: ignore[reportInvalidTypeForm]
    i = wp.tid()
    y[i] = y[i] + x[i]


class Adder:
    """y += x, with a count of how often Python was asked to."""

    def __init__(self, x: Tensor) -> None:
        self.x, self.y, self.calls = x, torch.zeros_like(x), 0

    def __call__(self) -> None:
        self.calls += 1
        wp.launch(add, dim=len(self.x), inputs=[wp.from_torch(self.x)], outputs=[wp.from_torch(self.y)])


def test_a_call_takes_effect_once_each_time_and_python_makes_it_twice():
    graphs, adder = Graphs(CPU), Adder(torch.tensor([1.0, 2.0]))
    for times in range(1, 6):
        graphs.run("add", adder)
        assert adder.y.tolist() == [times, 2.0 * times]
    assert adder.calls == 2


def test_a_replay_reads_what_the_arrays_hold_then():
    graphs, adder = Graphs(CPU), Adder(torch.ones(1))
    graphs.run("add", adder)
    graphs.run("add", adder)
    adder.x.fill_(10.0)
    graphs.run("add", adder)
    assert adder.y.item() == 12.0


def test_each_key_has_a_recording_of_its_own():
    graphs, one, ten = Graphs(CPU), Adder(torch.ones(1)), Adder(torch.full((1,), 10.0))
    for _ in range(3):
        graphs.run(("add", 1), one)
        graphs.run(("add", 10), ten)
    assert (one.y.item(), ten.y.item()) == (3.0, 30.0)


def test_what_is_dropped_is_called_again_with_the_arrays_of_then():
    graphs, adder = Graphs(CPU), Adder(torch.ones(1))
    for _ in range(3):
        graphs.run("add", adder)
    adder.x = torch.full((1,), 100.0)  # the recording holds the old one's address
    graphs.run("add", adder)
    assert adder.y.item() == 4.0
    graphs.drop()
    graphs.run("add", adder)
    assert adder.y.item() == 104.0
    assert adder.calls == 3


def test_a_call_that_cannot_be_recorded_is_made_plainly_and_that_is_said_once():
    class Reads(Adder):
        def __call__(self) -> None:
            if wp.get_device().is_capturing:
                raise RuntimeError("operation not permitted when stream is capturing")
            super().__call__()

    graphs, adder, other = Graphs(CPU), Reads(torch.ones(1)), Adder(torch.ones(1))
    graphs.run("add", adder)
    with pytest.warns(UserWarning, match="not recorded, and so slower: operation not permitted"):
        graphs.run("add", adder)
    for _ in range(3):
        graphs.run("add", adder)
        graphs.run("other", other)
    assert (adder.y.item(), other.y.item()) == (5.0, 3.0)
    assert other.calls == 3


@pytest.mark.parametrize(
    ("pool", "conditional", "words"),
    [
        (False, True, "cuda:0 has no CUDA memory pool"),
        (True, False, "CUDA 12.4, the driver has 12.2"),
        (True, True, None),
    ],
)
def test_cuda_without_what_a_graph_needs_is_not_recorded(
    monkeypatch: pytest.MonkeyPatch, pool: bool, conditional: bool, words: str | None
):
    monkeypatch.setattr(wp, "is_mempool_enabled", lambda device: pool)
    monkeypatch.setattr(wp, "is_conditional_graph_supported", lambda: conditional)
    monkeypatch.setattr(wp, "get_cuda_driver_version", lambda: (12, 2))
    found = obstacle(torch.device("cuda:0"))
    assert found is None if words is None else found is not None and words in found


def test_a_version_that_is_not_there_is_called_none():
    assert (version((12, 4)), version(None)) == ("12.4", "none")
