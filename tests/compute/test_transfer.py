"""Transfer copies a step's tensors to another device in one copy, with equal values, shapes and types."""

from itertools import pairwise

import pytest
import torch
from cart import FIELDS, Cart, actions, same
from torch import Tensor

from robokit.compute.transfer import Transfer
from robokit.env.env import Env, make
from robokit.env.step import Step
from robokit.task.task import Task

CPU = torch.device("cpu")


class Late(Transfer):
    """A copy that arrives only when it must: when the buffer is written again, or `settle` is called."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.under_way: list[tuple[Tensor, Tensor]] = []

    def _send(self, packed: Tensor) -> Tensor:
        there = torch.full_like(packed, torch.nan)
        self.under_way.append((there, packed))
        return there

    def _wait(self) -> None:
        for there, packed in self.under_way:
            there.copy_(packed)
        self.under_way.clear()


def apart(env: Env) -> Env:
    """The same environment, whose learner would sit on another device."""
    assert env._transfer is None
    env._transfer = Transfer(env.device)
    return env


def test_what_arrives_is_what_was_sent_in_one_block():
    sent = {
        "obs": torch.randn(3, 4),
        "done": torch.tensor([True, False, True]),
        "nothing": torch.zeros(3, 0),
        "reward": torch.tensor([torch.nan, torch.inf, -0.0]),
        "bad": torch.tensor([False, False, True]),
    }
    got = Transfer(CPU)(sent)
    assert [*got] == [*sent]
    for name, value in sent.items():
        assert got[name].dtype == value.dtype and got[name].shape == value.shape
        assert torch.equal(got[name].nan_to_num(7.0), value.nan_to_num(7.0)) and got[name].is_contiguous()
    assert got["reward"].signbit().tolist() == sent["reward"].signbit().tolist()
    blocks = {name: value.untyped_storage().data_ptr() for name, value in got.items() if value.numel()}
    assert blocks["obs"] == blocks["reward"] != blocks["done"] == blocks["bad"]


def test_columns_of_something_wider_are_packed_by_their_values():
    wide = torch.arange(12.0).view(3, 4)
    assert Transfer(CPU)({"obs": wide[:, 1:3], "state": wide})["obs"].tolist() == [[1, 2], [5, 6], [9, 10]]


def test_a_later_transfer_writes_nothing_that_arrived_before():
    transfer = Transfer(CPU)
    first = transfer({"obs": torch.ones(3, 2)})["obs"]
    transfer({"obs": torch.zeros(3, 2)})
    transfer({"obs": torch.zeros(30, 2)})
    assert first.tolist() == [[1, 1]] * 3


def test_a_buffer_is_not_written_before_the_copy_before_has_left_it():
    transfer = Late(CPU)
    first = transfer({"obs": torch.ones(3, 2)})["obs"]
    assert first.isnan().all()
    second = transfer({"obs": torch.zeros(3, 2)})["obs"]
    assert first.tolist() == [[1, 1]] * 3 and second.isnan().all()


class Fragile(Cart):
    """Cart with a broken simulation now and then: its last good observation must come back."""

    def disturb(self, sim, rng):
        drawn = torch.rand(sim.num_envs, 1, generator=rng, device=sim.device)
        return {"qvel": torch.where(drawn < 0.05, 1e12, sim.qvel)}


def alike(one: Step, other: Step) -> bool:
    """Equal in every number, NaN with NaN: a metric may be one."""
    both = [(getattr(one, name), getattr(other, name)) for name in FIELDS]
    return all(a.dtype == b.dtype and torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0)) for a, b in both)


def pairs(one: Env, other: Env, steps: int = 50) -> list[tuple[Step, Step]]:
    """Steps of both under the same actions, looked at when all are done."""
    for env in (one, other):
        env.reset(stagger=True)
    assert torch.equal(one.obs, other.obs) and torch.equal(one.state, other.state)
    rng, both = torch.Generator().manual_seed(1), []
    for _ in range(steps):
        action = torch.randn(one.num_envs, one.act_dim, generator=rng)
        both.append((one.step(action), other.step(action)))
        assert torch.equal(one.obs, both[-1][0].obs) and torch.equal(other.obs, both[-1][1].obs)
        assert torch.equal(one.state, other.state)
    return both


@pytest.mark.parametrize("task", ["hopper", "hopper:SpeedLimit", "go2_walk", Cart, Fragile])
def test_steps_are_the_same_packed_or_not(task: str | type[Task]):
    plain, packed = (make(task, 16, seed=2, threads=1) for _ in range(2))
    both = pairs(plain, apart(packed))
    assert all(alike(a, b) for a, b in both)
    assert any(a.done.any() for a, _ in both) and not all(a.done.all() for a, _ in both)
    assert (task is Fragile) == any(bool(a.bad.any()) for a, _ in both)
    for before, now in ((before[i], now[i]) for before, now in pairwise(both) for i in range(2)):
        assert torch.equal(now.final_obs[now.bad], before.obs[now.bad])  # the last good one
        assert torch.equal(now.final_state[now.bad], before.state[now.bad])
    assert torch.equal(plain.rng.get_state(), packed.rng.get_state())


def test_an_environment_asks_for_nothing_that_is_still_under_way():
    plain, late = (make(Cart, 4, seed=2, threads=1) for _ in range(2))
    late._transfer = transfer = Late(CPU)
    both = [(plain.step(a), late.step(a)) for a in actions(30, 4)]
    transfer._wait()
    numbers = [name for name in FIELDS if getattr(both[0][0], name).dtype != torch.bool]
    assert all(torch.equal(getattr(a, name), getattr(b, name)) for a, b in both for name in numbers)


def test_a_packed_environment_continues_from_a_checkpoint_bit_for_bit():
    one, other = (apart(make(Cart, 4, seed=seed, threads=1)) for seed in (1, 2))
    for action in actions(10, 4):
        one.step(action)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.obs, other.obs) and torch.equal(one.state, other.state)
    assert all(same(one.step(a), other.step(a)) for a in actions(30, 4, seed=3))


def test_on_a_shared_device_nothing_is_copied():
    env = make("hopper", 4, threads=1)
    assert env._transfer is None
    step = env.step(torch.zeros(4, env.act_dim))
    assert not step.done.any() and step.obs is step.final_obs and env.obs is step.obs
    assert {*vars(step)} == {*FIELDS}
