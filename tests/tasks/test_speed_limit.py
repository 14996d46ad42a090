"""Limits on speed: the speeds that cost, and that the cost is no part of the reward."""

import pytest
import torch
from torch import Tensor

import robokit
from robokit.env.env import Env
from robokit.limits.limit import Limit
from robokit.task.lookup.find import load_task

FAST = {  # m/s, Safety-Gymnasium 1.0, tasks/safe_velocity/safety_*_velocity_v1.py
    "hopper": 0.7402,
    "walker2d": 2.3415,
    "half_cheetah": 3.2096,
    "ant": 2.6222,
    "swimmer": 0.2282,
    "humanoid": 1.4149,
}
PLANAR = ("ant", "humanoid")  # any direction of the ground counts, not forward only
HEALTHY = ("hopper", "walker2d", "ant", "humanoid")


def make(name: str, num_envs: int) -> Env:
    return robokit.make(f"{name}:SpeedLimit", num_envs, threads=1)


def costs_at(name: str, velocity: Tensor) -> list[float]:
    """What is charged where the last control step's mean velocity, (N, 2) m/s, was that."""
    env = make(name, len(velocity))
    sim = env.sim
    here = sim.qpos[:, :2]
    if name in PLANAR:
        torso = sim.body("torso")
        here = torso.xpos[:, :2] if name == "ant" else torso.subtree_com[:, :2]
    before = here - env.task.control_dt * velocity
    for memory, value in {"x": before[:, :1], "y": before[:, 1:], "center": before}.items():
        if memory in sim.memory:
            sim.memory[memory].copy_(value)
    cost = env.task.costs(sim, torch.zeros(env.num_envs, env.act_dim))
    assert list(cost) == ["speed"]
    return cost["speed"].tolist()


@pytest.mark.parametrize("name", FAST)
def test_a_step_costs_one_beyond_the_published_speed_and_nothing_below(name: str):
    below, above = FAST[name] - 1e-6, FAST[name] + 1e-6
    forward = torch.tensor([[0.0, 0.0], [below, 0.0], [above, 0.0]], dtype=torch.float64)
    assert costs_at(name, forward) == [0.0, 0.0, 1.0]


@pytest.mark.parametrize("name", FAST)
def test_backwards_and_sideways_count_for_ant_and_humanoid_only(name: str):
    """(3, 4) / 5 of a speed is that speed: neither of its components is beyond the limit."""
    other = torch.tensor([[-1.01, 0.0], [0.0, 1.01], [0.6 * 1.01, -0.8 * 1.01], [0.6 * 0.99, 0.8 * 0.99]])
    paid = [1.0, 1.0, 1.0, 0.0] if name in PLANAR else [0.0, 0.0, 0.0, 0.0]
    assert costs_at(name, FAST[name] * other.double()) == paid


@pytest.mark.parametrize("name", FAST)
def test_an_episode_of_1000_steps_may_cost_25(name: str):
    task = load_task(f"{name}:SpeedLimit")
    assert task.limits == {"speed": Limit(25.0, "episode")}
    assert round(task.time_limit / task.control_dt) == 1000
    assert "speed" not in task.weights


@pytest.mark.parametrize("name", HEALTHY)
def test_v4_pays_for_health_in_the_step_that_falls_and_v5_does_not(name: str):
    for task, paid in ((f"{name}:SpeedLimit", 1.0), (name, 0.0)):
        env = robokit.make(task, 1, threads=1)
        env.sim.qpos[:, 2 if name in PLANAR else 1] = 0.1  # m, lower than any may be
        assert env.task.terminated(env.sim).tolist() == [True]
        assert env.task.rewards(env.sim, torch.zeros(1, env.act_dim))["healthy"].tolist() == [paid]


def test_the_walker_s_right_foot_grips_half_as_in_v4():
    def grip(task: str) -> list[float]:
        model = robokit.make(task, 1, threads=1).sim.model
        return [float(model.geom(foot).friction[0]) for foot in ("foot_geom", "foot_left_geom")]

    assert grip("walker2d:SpeedLimit") == [0.9, 1.9]
    assert grip("walker2d") == [1.9, 1.9]


def test_the_humanoid_s_center_of_mass_is_the_engine_s_before_its_first_step():
    """An episode's first velocity is measured from there, and a reset cannot ask the engine for it."""
    env = robokit.make("humanoid", 16, threads=1, seed=7)
    expected = env.sim.body("torso").subtree_com[:, :2]
    assert expected.std(0).min() > 1e-4
    torch.testing.assert_close(env.sim.memory["center"], expected, atol=1e-14, rtol=0)
    env.step(torch.zeros(16, env.act_dim))
    torch.testing.assert_close(env.sim.memory["center"], expected, atol=0, rtol=0)
