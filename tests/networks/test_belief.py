"""Beliefs: equal to plain loops and torch's cells, and cleared at the end of an episode."""

import math

import pytest
import torch
from torch import Tensor, nn

from robokit.errors import OptionError
from robokit.networks.belief import (
    GRU,
    KINDS,
    LSTM,
    RECURRENT,
    SPAN,
    Belief,
    MinGRU,
    Stack,
    linear_recurrence,
    make_belief,
)
from robokit.networks.normalizer import Normalizer

WIDTHS, HISTORY, UNITS = {"a": 2, "b": 1}, {"a": 3}, 5
SIZES = {"memoryless": (0, 3), "stack": (7, 7), "gru": (5, 8), "lstm": (10, 8), "mingru": (5, 8)}
EACH = pytest.mark.parametrize("kind", KINDS)


def made(kind: str) -> Belief:
    """One whose gates are neither open nor shut."""
    torch.manual_seed(0)
    belief = make_belief(kind, WIDTHS, HISTORY, UNITS)
    for parameter in belief.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return belief


def live() -> Normalizer:
    """A normaliser that has seen something."""
    normalizer = Normalizer(3)
    normalizer.update(torch.tensor([1.0, -3.0, 0.2]) + 2 * torch.randn(50, 3), torch.ones(50).bool())
    return normalizer


def sequence(belief: Belief, steps: int, columns: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """obs (L, M, O), the belief (M, B) before it, and first (L, M): at random, and in three columns not."""
    obs, start = torch.randn(steps, columns, 3) * 3, torch.rand(columns, belief.size) - 0.5
    first = torch.rand(steps, columns) < 0.2
    first[:, 0] = first[:, 1] = first[:, 2] = False  # one goes on throughout,
    first[0, 1] = first[-1, 2] = True  # one begins at the first step, one at the last
    return obs, start, first


# -- every kind --------------------------------------------------------------------------------------


@EACH
def test_sizes_are_what_carries_them(kind: str):
    belief = made(kind)
    features, after = belief(torch.zeros(2, 3), torch.zeros(2, belief.size), torch.ones(2).bool(), live())
    assert (after.shape[1], features.shape[1]) == (belief.size, belief.out_dim) == SIZES[kind]
    assert belief.trained == (kind in RECURRENT)


@EACH
@pytest.mark.parametrize("steps", [1, 2, 7, 16])
def test_unroll_is_forward_step_by_step_whenever_episodes_begin(kind: str, steps: int):
    belief, normalizer = made(kind), live()
    obs, start, first = sequence(belief, steps)
    features, beliefs = belief.unroll(obs, start, first, normalizer)
    assert features.shape == (steps, 6, belief.out_dim) and beliefs.shape == (steps, 6, belief.size)
    now = start
    for t in range(steps):
        seen, now = belief(obs[t], now, first[t], normalizer)
        torch.testing.assert_close(features[t], seen, rtol=0, atol=1e-6)
        torch.testing.assert_close(beliefs[t], now, rtol=0, atol=1e-6)


@EACH
@pytest.mark.parametrize("past", [math.nan, math.inf, -1e30])
@pytest.mark.parametrize("at", [0, 3, 7])
def test_nothing_of_the_past_is_left_after_an_episode_begins(kind: str, past: float, at: int):
    belief, normalizer = made(kind), live()
    obs, start, first = sequence(belief, 8)
    first[at, 3:] = True  # whatever else begins in these columns
    other, worse = obs.clone(), start.clone()
    other[:at] = past
    worse[:] = past
    here, there = (
        torch.cat(belief.unroll(o, b, first, normalizer), -1)[at:] for o, b in ((obs, start), (other, worse))
    )
    assert torch.equal(here[:, 3:], there[:, 3:])
    assert torch.equal(here[:, 0], there[:, 0]) == (kind == "memoryless")  # where the episode goes on
    here, there = (torch.cat(belief(obs[at], b, first[at], normalizer), -1) for b in (start, worse))
    assert torch.equal(here[3:], there[3:])


@EACH
def test_no_gradient_reaches_back_over_the_beginning_of_an_episode(kind: str):
    belief, normalizer, at = made(kind), live(), 4
    obs, start, first = sequence(belief, 8)
    first[at, 3:] = True
    obs.requires_grad_()
    start.requires_grad_()
    features, beliefs = belief.unroll(obs, start, first, normalizer)
    (features[at:].square().sum() + beliefs[at:].square().sum()).backward()
    assert obs.grad is not None
    assert not obs.grad[:at, 3:].any() and obs.grad[at:].any()
    if kind != "memoryless":
        assert start.grad is not None
        assert not start.grad[3:].any()
        assert obs.grad[at - 1, 0].any()  # it does where the episode goes on
        assert start.grad[0].any() == (kind != "stack")  # whose frames of then are gone by now


@EACH
def test_no_simulation_sees_another(kind: str):
    belief, normalizer = made(kind), live()
    obs, start, first = sequence(belief, 8)
    before = torch.cat(belief.unroll(obs, start, first, normalizer), -1)
    obs[:, 0], start[0] = torch.nan, torch.nan
    first[:, 0] = ~first[:, 0]
    after = torch.cat(belief.unroll(obs, start, first, normalizer), -1)
    assert torch.equal(after[:, 1:], before[:, 1:])


# -- stack -------------------------------------------------------------------------------------------


def test_stack_is_term_major_oldest_first_and_starts_full_of_the_first_frame():
    stack = Stack({"a": 1, "b": 2}, {"b": 3})
    identity = Normalizer(3, active=False)
    belief, first = torch.full((1, stack.size), float("nan")), torch.tensor([True])
    features = torch.empty(0)
    for t in range(4):
        obs = torch.tensor([[10.0 + t, 20.0 + t, 30.0 + t]])
        features, belief = stack(obs, belief, first, identity)
        first = torch.tensor([False])
        if t == 0:
            assert features.tolist() == [[10, 20, 30, 20, 30, 20, 30]]
    assert features.tolist() == [[13, 21, 31, 22, 32, 23, 33]]


def test_stack_keeps_raw_frames_and_normalises_on_reading():
    stack, normalizer = Stack({"a": 1}, 2), Normalizer(1)
    normalizer.mean.fill_(1.0)
    normalizer.var.fill_(4.0)
    features, belief = stack(
        torch.tensor([[5.0]]), torch.tensor([[0.0, 3.0]]), torch.tensor([False]), normalizer
    )
    assert belief.tolist() == [[3.0, 5.0]]
    torch.testing.assert_close(features, torch.tensor([[1.0, 2.0]]))


# -- recurrent cells ---------------------------------------------------------------------------------


def copied(belief: Belief, cell: nn.GRUCell | nn.LSTMCell) -> None:
    """Our weights in torch's cell; a bias that we do not have is zero there."""
    assert isinstance(belief, GRU | LSTM)
    recurrent = belief.recurrent.bias
    with torch.no_grad():
        cell.weight_ih.copy_(belief.inputs.weight)
        cell.bias_ih.copy_(belief.inputs.bias)
        cell.weight_hh.copy_(belief.recurrent.weight)
        cell.bias_hh.copy_(torch.zeros_like(cell.bias_hh) if recurrent is None else recurrent)


def test_the_gru_is_torchs():
    belief, cell, normalizer = made("gru"), nn.GRUCell(3, UNITS), live()
    copied(belief, cell)
    obs, h, _ = sequence(belief, 10)
    features, beliefs = belief.unroll(obs, h, torch.zeros(10, 6).bool(), normalizer)
    for t in range(10):
        h = cell(normalizer(obs[t]), h)
        torch.testing.assert_close(beliefs[t], h, rtol=0, atol=1e-6)
    torch.testing.assert_close(features, torch.cat((normalizer(obs), beliefs), -1), rtol=0, atol=0)


def test_the_lstm_is_torchs():
    belief, cell, normalizer = made("lstm"), nn.LSTMCell(3, UNITS), live()
    copied(belief, cell)
    obs, start, _ = sequence(belief, 10)
    features, beliefs = belief.unroll(obs, start, torch.zeros(10, 6).bool(), normalizer)
    h, c = start.chunk(2, -1)
    for t in range(10):
        h, c = cell(normalizer(obs[t]), (h, c))
        torch.testing.assert_close(beliefs[t], torch.cat((h, c), -1), rtol=0, atol=1e-6)
    torch.testing.assert_close(
        features, torch.cat((normalizer(obs), beliefs[..., :UNITS]), -1), rtol=0, atol=0
    )


def test_the_mingru_by_hand():
    belief = MinGRU({"a": 1}, 1)
    with torch.no_grad():
        belief.inputs.weight.copy_(torch.tensor([[0.0], [2.0]]))
        belief.inputs.bias.copy_(torch.tensor([-math.log(3.0), 1.0]))  # z = 1 / 4, x_h = 2 x + 1
    identity, h = Normalizer(1, active=False), torch.tensor([[8.0]])
    features, h = belief(torch.tensor([[1.5]]), h, torch.tensor([False]), identity)
    torch.testing.assert_close(features, torch.tensor([[1.5, 0.75 * 8 + 0.25 * 4]]))
    _, h = belief(torch.tensor([[1.5]]), h, torch.tensor([True]), identity)
    torch.testing.assert_close(h, torch.tensor([[1.0]]))


def test_the_scan_by_hand():
    keep, add = torch.full((3, 1, 1), 0.5), torch.tensor([1.0, 2.0, 4.0]).view(3, 1, 1)
    first = torch.zeros(3, 1, dtype=torch.bool)
    start = torch.tensor([[8.0]])
    assert linear_recurrence(keep, add, start, first).flatten().tolist() == [5.0, 4.5, 6.25]
    first[1] = True
    assert linear_recurrence(keep, add, start, first).flatten().tolist() == [5.0, 2.0, 5.0]


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 13])
def test_the_scan_is_the_loop(steps: int):
    torch.manual_seed(steps)
    keep, add = torch.rand(2, steps, 4, 3, dtype=torch.float64).unbind()
    h, first = torch.rand(4, 3, dtype=torch.float64), torch.rand(steps, 4) < 0.2
    scanned = linear_recurrence(keep, add, h, first)
    for t in range(steps):
        h = torch.where(first[t, :, None], 0.0, keep[t] * h) + add[t]
        torch.testing.assert_close(scanned[t], h, rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", RECURRENT)
def test_units_remember_from_two_steps_to_the_span(kind: str):
    """Left alone, a unit keeps 1 - 1 / tau of itself a step, and a new input weighs 1 / tau."""
    belief = RECURRENT[kind](WIDTHS, 9)
    tau = 2 * (SPAN / 2) ** (torch.arange(9) / 8)
    if isinstance(belief, LSTM):
        i, f = torch.sigmoid(belief.inputs.bias[:18]).chunk(2)
        torch.testing.assert_close(i, 1 - f)
    for name, parameter in belief.named_parameters():
        if name.endswith("weight"):
            parameter.data.zero_()
    one = torch.ones(1, belief.size)
    _, after = belief(torch.zeros(1, 3), one, torch.tensor([False]), Normalizer(3))
    torch.testing.assert_close(after[0, -9:], 1 - 1 / tau)


@pytest.mark.parametrize("kind", RECURRENT)
def test_each_gate_starts_orthogonal(kind: str):
    belief, gates = RECURRENT[kind](WIDTHS, 4), {"gru": 3, "lstm": 4, "mingru": 2}[kind]
    for weight in (p for n, p in belief.named_parameters() if n.endswith("weight")):
        for gate in weight.view(gates, 4, -1):
            torch.testing.assert_close(gate.T @ gate, torch.eye(gate.shape[1]), atol=1e-5, rtol=0)


# -- bad input ---------------------------------------------------------------------------------------


def test_a_kind_and_a_size_that_are_not_there_are_refused():
    with pytest.raises(OptionError, match=r"belief must be one of \['memoryless', .*, got 'transformer'"):
        make_belief("transformer", WIDTHS)
    with pytest.raises(OptionError, match="belief_size must be at least 1 unit, got 0"):
        make_belief("gru", WIDTHS, size=0)
