"""Functions as CUDA graphs: copied inputs, kept outputs, and exactly one execution per call.

No GPU is needed: a stand-in for CUDA traces the function once, with the tensors and Python numbers of that
call, and repeats the same operations for each replay, into the same outputs.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from cart import Cart
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from robokit.algos import ppo, sac, td3
from robokit.compute.cuda_graph import WARM_UP, Graphed, Outputs
from robokit.env.env import make
from robokit.learning.adam import Adam, make_update
from robokit.networks.mlp import mlp


class Replays:
    """Records what a call did as CUDA does: to be done again to the same memory, whatever it then holds.

    traced: the operations; else, where torch cannot trace, the function itself is called again.
    """

    def __init__(self, traced: bool) -> None:
        self.traced = traced
        self.ran = self.captured = self.replayed = 0

    def run(self, function: Callable[[], Outputs]) -> Outputs:
        self.ran += 1
        return function()

    def capture(self, function: Callable[[], Outputs]) -> Callable[[], Outputs]:
        self.captured += 1
        kept: list[Outputs] = []

        def flat() -> list[Tensor]:
            kept.append(function())
            return [value.clone() for value in _values(kept[-1])]

        again = make_fx(flat)() if self.traced else flat
        if not self.traced:
            flat()
        kept[0] = _clones(kept[0])  # either executes it: so the first replay need not

        def replay() -> Outputs:
            self.replayed += 1
            if self.replayed > 1:
                for old, value in zip(_values(kept[0]), again(), strict=True):
                    old.copy_(value)
            return kept[0]

        return replay


def _values(outputs: Any) -> list[Tensor]:
    return [*outputs.values()] if isinstance(outputs, dict) else [*outputs]


def _clones(outputs: Any) -> Any:
    changed = [value.clone() for value in _values(outputs)]
    return dict(zip(outputs, changed, strict=True)) if isinstance(outputs, dict) else tuple(changed)


def stand_in(function: Callable[..., Outputs], traced: bool = True) -> tuple[Graphed[Outputs], Replays]:
    recorder = Replays(traced)
    return Graphed(function, recorder), recorder


def test_a_call_is_one_execution_before_at_and_after_the_capture():
    total = torch.zeros(())

    def add(x: Tensor) -> dict[str, Tensor]:
        total.add_(x.sum())
        return {"total": total}

    graph, recorder = stand_in(add)
    seen = [graph(torch.full((2,), float(k)))["total"].item() for k in range(WARM_UP + 4)]
    assert seen == [0, 2, 6, 12, 20, 30, 42][: WARM_UP + 4] and WARM_UP == 3
    assert (recorder.ran, recorder.captured, recorder.replayed) == (WARM_UP, 1, 4)


def test_what_a_caller_keeps_stays_what_it_was():
    def both(x: Tensor, belief: Tensor) -> tuple[Tensor, Tensor]:
        return 2 * x, belief  # an output may be an input

    graph, _ = stand_in(both)
    kept = [graph(torch.full((2,), float(k)), torch.full((1, 0), 0.0)) for k in range(8)]
    assert [pair[0].tolist() for pair in kept] == [[2.0 * k] * 2 for k in range(8)]
    graph, _ = stand_in(lambda x: (x, x))
    kept = [graph(torch.full((2,), float(k))) for k in range(8)]
    assert [pair[1].tolist() for pair in kept] == [[float(k)] * 2 for k in range(8)]


def test_the_inputs_of_a_caller_are_neither_kept_nor_written():
    graph, _ = stand_in(lambda x: (x.add_(1),))
    given = torch.zeros(8, 3)
    assert [graph(row)[0].tolist() for row in given] == [[1.0] * 3] * 8
    assert not given.any()


def test_columns_of_something_wider_are_read_by_their_values_and_lie_dense():
    strides = list[tuple[int, ...]]()

    def read(x: Tensor) -> tuple[Tensor]:
        strides.append(x.stride())
        return (x + 0,)

    graph, _ = stand_in(read)
    wide = torch.arange(24.0).view(2, 3, 4)
    for given in (wide[0, :, :2], wide[1, :, :2].clone(), wide[0, :, 2:], wide[1, :, 1:3], wide[1, :, 2:]):
        assert torch.equal(graph(given)[0], given)
    assert {*strides} == {(2, 1)}


def test_a_number_without_a_dimension_is_taken_as_it_is_and_written_in_place():
    lr = torch.tensor(1.0)

    def halve(lr: Tensor, x: Tensor) -> dict[str, Tensor]:
        step = lr * x
        lr.copy_(lr / 2)
        return {"step": step}

    graph, _ = stand_in(halve)
    steps = [graph(lr, torch.ones(1))["step"].item() for _ in range(6)]
    assert steps == [0.5**k for k in range(6)] and lr.item() == 0.5**6
    lr.fill_(8.0)  # a caller's own schedule
    assert graph(lr, torch.ones(1))["step"].item() == 8.0


@pytest.mark.parametrize("calls", [1, WARM_UP, WARM_UP + 3])
@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ((torch.tensor(1.0), torch.ones(2)), "input 0 of a graph is 0-d, so it must be the same tensor"),
        (
            (None, torch.ones(3)),
            r"input 1 of a graph is \(2,\) torch.float32 on cpu, got \(3,\) torch.float32",
        ),
        ((None, torch.ones(2, dtype=torch.float64)), r"got \(2,\) torch.float64"),
        ((None, torch.ones(2, device="meta")), "got .* on meta"),
        ((None, torch.tensor(1.0)), r"input 1 of a graph is \(2,\) .*, got \(\)"),
        ((None,), "a graph of 2 inputs was given 1"),
    ],
)
def test_inputs_that_a_replay_would_not_read_are_refused(calls: int, inputs: Any, words: str):
    lr = torch.tensor(1.0)
    graph, recorder = stand_in(lambda lr, x: (lr * x,))
    for _ in range(calls):
        graph(lr, torch.ones(2))
    with pytest.raises(ValueError, match=words):
        graph(*(lr if given is None else given for given in inputs))
    assert recorder.ran + recorder.replayed == calls  # and nothing was executed
    assert graph(lr, torch.ones(2))[0].tolist() == [1.0, 1.0]


def test_gradients_are_not_followed_through_a_graph():
    weight = torch.ones(2, requires_grad=True)
    graph, _ = stand_in(lambda x: (weight * x,))
    outputs = [graph(torch.ones(2, requires_grad=True))[0] for _ in range(6)]
    assert not any(output.requires_grad for output in outputs)


# -- the learners' own functions ---------------------------------------------------------------------


def graph_all(learner: Any, traced: bool = True) -> list[Replays]:
    """Put graphs in the place of a learner's functions, as `compiled` does on CUDA."""
    recorders = []
    learner.act, recorder = stand_in(learner.act, traced)
    recorders.append(recorder)
    if isinstance(learner, ppo.Learner):
        learner.update, recorder = stand_in(learner.update, traced)
        recorders.append(recorder)
    else:
        for act, update in learner.update.items():
            learner.update[act], recorder = stand_in(update, traced)
            recorders.append(recorder)
    return recorders


def same(one: Any, other: Any) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k].nan_to_num(), b[k].nan_to_num()) for k in a)


SMALL = ppo.Config(num_envs=4, horizon=8, minibatch=8, epochs=2, hidden=(8,), compile=False)  # 8 updates


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        replace(SMALL, lr_schedule="adaptive", objective="penalty"),  # lr and beta move
        replace(SMALL, lr=(3e-4, 0.0), steps=200, limit_rule="off"),
        replace(SMALL, belief="gru", belief_size=4, chunk=4, critic_belief="stack"),
    ],
    ids=["plain", "adaptive", "linear", "recurrent"],
)
def test_ppo_learns_the_same_bit_for_bit(config: ppo.Config):
    plain, graph = (ppo.Learner(make(Cart, 4, seed=1, threads=1), config, seed=1) for _ in range(2))
    acting, updating = graph_all(graph)
    for _ in range(3):  # 24 updates
        assert plain.iterate() == pytest.approx(graph.iterate(), abs=0, rel=0, nan_ok=True)
        assert same(plain, graph)
    assert (updating.ran, updating.captured, updating.replayed) == (WARM_UP, 1, 21)
    assert acting.ran + acting.replayed == 24


@pytest.mark.parametrize(
    ("module", "options"),
    [
        (sac, {}),
        (sac, {"temperature": 0.1, "normalize_obs": True, "critic": "obs"}),
        (sac, {"belief": "gru", "belief_size": 4, "window": 4, "critic_belief": "gru", "burn_in": 2}),
        (td3, {"n_step": 3}),
    ],
)
def test_off_policy_algorithms_learn_the_same_bit_for_bit(module: Any, options: dict[str, Any]):
    config = module.Config(
        num_envs=4, learning_starts=64, batch=16, replay=256, utd=0.25, hidden=(8,), compile=False, **options
    )
    plain, graph = (module.Learner(make(Cart, 4, seed=1, threads=1), config, seed=1) for _ in range(2))
    for learner in (plain, graph):
        learner.horizon = 36  # 144 transitions, 80 of them learned from: 20 updates
    recorders = graph_all(graph)
    assert plain.iterate() == pytest.approx(graph.iterate(), abs=0, rel=0, nan_ok=True)
    assert same(plain, graph) and graph.gradients == 20
    acting, *updating = recorders
    assert acting.ran + acting.replayed == 36
    assert sum(r.ran + r.replayed for r in updating) == 20 and all(r.captured for r in updating)


@pytest.mark.slow
def test_a_compiled_update_in_a_graph_learns_what_the_compiled_one_does():
    nets = [mlp((3, 5, 1), "tanh", 1.0)]
    nets.append(copy.deepcopy(nets[0]))
    rates = [torch.tensor(0.01) for _ in nets]

    def loss(net: Any, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        error = (net(x) - y).square().mean()
        return error, {"error": error.detach()}

    plain, graph = (make_update(loss, Adam(net), True, lambda lr, parts: 0.9 * lr) for net in nets)
    graph, _ = stand_in(graph, traced=False)
    for x, y in zip(torch.randn(20, 8, 3), torch.randn(20, 8, 1), strict=True):
        ours, theirs = plain(rates[0], x, y), graph(rates[1], x, y)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert torch.equal(*rates)
    assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True))


def test_a_tensor_put_in_anothers_place_is_not_seen_by_a_replay_so_nothing_may_do_that():
    held = {"scale": torch.ones(())}
    graph, _ = stand_in(lambda x: {"y": x * held["scale"]})
    x = torch.ones(2)
    for _ in range(WARM_UP + 1):
        graph(x)
    held["scale"] = torch.full((), 2.0)
    assert graph(x)["y"].tolist() == [1.0, 1.0]
