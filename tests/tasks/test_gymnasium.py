"""The shipped tasks give the same numbers as gymnasium's environments, step for step.

Tasks with a limit on speed are compared with the v4 environments and Safety-Gymnasium's cost.
"""

import math
import warnings
from dataclasses import dataclass
from typing import Any, cast

import gymnasium
import mujoco
import numpy as np
import pytest
import torch
from torch import Generator

from robokit.env.env import Env
from robokit.interop.peers.comparison import Parity, parity
from robokit.sim.base import Sim
from robokit.task.lookup.find import load_task
from robokit.task.task import Task, Terms, normal, uniform

N, STEPS, LIMIT = 4, 300, 120  # simulations; control steps; control steps an episode may last here
WILD, DRAWN = 1500, 2000  # states far off; resets
ENDLESS = ("reacher", "half_cheetah", "swimmer")  # only the time limit ends these


@dataclass(frozen=True)
class Case:
    """What a task is called there, and its reward terms."""

    id: str
    rewards: dict[str, str]  # our name -> the name in gymnasium's info
    contacts: bool = True
    exempt: frozenset[str] = frozenset()  # observation and reward terms that differ, by name
    fast: float = math.inf  # m/s, beyond which Safety-Gymnasium charges 1
    planar: bool = False  # whether that is in any direction of the ground, or forward only

    def cost(self, info: dict[str, float]) -> float:
        """Safety-Gymnasium 1.0, tasks/safe_velocity/safety_*_velocity_v1.py."""
        x, y = info.get("x_velocity", 0.0), info.get("y_velocity", 0.0)
        return float((math.sqrt(x**2 + y**2) if self.planar else x) > self.fast)


RUN = {"forward": "reward_forward", "ctrl": "reward_ctrl"}
WALK = {**RUN, "healthy": "reward_survive"}
CONTACT = frozenset({"contact"})
CASES = {
    "inverted_pendulum": Case("InvertedPendulum-v5", {"upright": "reward_survive"}, contacts=False),
    "inverted_double_pendulum": Case(
        "InvertedDoublePendulum-v5",
        {"upright": "reward_survive", "distance": "distance_penalty", "velocity": "velocity_penalty"},
        contacts=False,
    ),
    "reacher": Case("Reacher-v5", {"distance": "reward_dist", "ctrl": "reward_ctrl"}, contacts=False),
    "hopper": Case("Hopper-v5", WALK),
    "half_cheetah": Case("HalfCheetah-v5", RUN),
    "walker2d": Case("Walker2d-v5", WALK),
    # gymnasium reads contact forces after the last Runge-Kutta stage, see tasks/ant.py
    "ant": Case("Ant-v5", {**WALK, "contact": "reward_contact"}, exempt=CONTACT),
    "swimmer": Case("Swimmer-v5", RUN, contacts=False),
    "humanoid": Case("Humanoid-v5", {**WALK, "contact": "reward_contact"}, exempt=CONTACT),
    "hopper:SpeedLimit": Case("Hopper-v4", WALK, fast=0.7402),
    "half_cheetah:SpeedLimit": Case("HalfCheetah-v4", RUN, fast=3.2096),
    "walker2d:SpeedLimit": Case("Walker2d-v4", WALK, fast=2.3415),
    "ant:SpeedLimit": Case("Ant-v4", WALK, fast=2.6222, planar=True),
    "swimmer:SpeedLimit": Case("Swimmer-v4", RUN, contacts=False, fast=0.2282),
    "humanoid:SpeedLimit": Case("Humanoid-v4", WALK, exempt=CONTACT, fast=1.4149, planar=True),
}


class Peer(gymnasium.Wrapper[Any, Any, Any, Any]):
    """gymnasium's environment, with Safety-Gymnasium's cost in its info, and of v4 the reward's terms."""

    def __init__(self, case: Case, **options: Any) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*environment .*-v4 is out of date")  # as Safety-Gymnasium's
            super().__init__(gymnasium.make(case.id, **options))
        self.case, self.inner = case, cast(Any, self.env.unwrapped)
        self.contacts, self.charged = 0, 0.0

    def step(self, action: np.ndarray) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.contacts += self.inner.data.ncon
        if self.case.id.endswith("-v4"):
            info = {**info, **self.terms(action, info["x_velocity"])}
        info["cost"] = self.case.cost(info)
        self.charged += info["cost"]
        return obs, reward, terminated, truncated, info

    def terms(self, ctrl: np.ndarray, speed: float) -> dict[str, float]:
        """The reward's terms, which v4 tells seldom and by other names."""
        weight = getattr(self.inner, "_forward_reward_weight", 1.0)  # Ant-v4 has none
        survive = getattr(self.inner, "healthy_reward", 0.0)
        effort = self.inner.control_cost(ctrl)
        return {"reward_forward": weight * speed, "reward_survive": survive, "reward_ctrl": -effort}


def compared(task: Task, case: Case, peer: Peer, steps: int, simulations: int) -> Parity:
    """Each observation to the bit, each term to 1e-6 of itself, the sum to 1e-6 of its terms' magnitudes."""
    names = {f"reward/{ours}": theirs for ours, theirs in case.rewards.items()}
    names |= {"cost/speed": "cost"} if case.fast < math.inf else {}
    found = parity(task, peer, steps, simulations=simulations, seed=1, names=names, ignore=case.exempt)
    assert found.names == names and found.unpaired == ()
    assert found.equal, found
    return found


@pytest.mark.medium
@pytest.mark.parametrize("name", CASES)
def test_each_step_is_gymnasiums(name: str):
    case, task = CASES[name], load_task(name)
    task.time_limit = LIMIT * task.control_dt
    peer = Peer(case, max_episode_steps=LIMIT)
    assert compared(task, case, peer, STEPS, N).ended >= N  # restarts were compared, too
    assert case.contacts == (peer.contacts > 0)


@pytest.mark.parametrize("name", CASES)
def test_rates_limits_and_sizes_are_gymnasiums(name: str):
    env, peer = Env(load_task(name), 1), Peer(CASES[name])
    assert peer.spec is not None
    assert env.max_age == peer.spec.max_episode_steps
    assert env.task.control_dt == pytest.approx(peer.inner.dt, rel=1e-12)
    assert (env.obs_dim,) == peer.observation_space.shape
    space = peer.action_space
    assert isinstance(space, gymnasium.spaces.Box)
    assert np.array_equal(env.map.low.numpy().astype(np.float32), space.low)
    assert np.array_equal(env.map.high.numpy().astype(np.float32), space.high)


@pytest.mark.medium
@pytest.mark.parametrize("name", CASES)
def test_a_step_from_far_off_is_gymnasiums(name: str):
    """Limits and clipping, which episodes seldom reach: one step from each of many wild states."""
    case, task = CASES[name], load_task(name)
    task.reset = wild
    peer = Peer(case)
    found = compared(task, case, peer, 1, WILD)
    assert found.broken < 0.2 * WILD  # the water throws fast swimmers apart
    assert found.ended > 0.1 * WILD or name.startswith(ENDLESS)
    assert case.fast == math.inf or 0.1 < peer.charged / WILD < 0.99


def wild(sim: Sim, rng: Generator) -> Terms:
    """Everything far from where episodes begin, one velocity in twenty beyond all bounds."""
    qpos = sim.nominal("qpos0") + uniform(sim, rng, sim.model.nq, 1.5)
    qvel = normal(sim, rng, sim.model.nv, 8.0) * (1 + 20 * (uniform(sim, rng, 1).abs() > 0.95))
    return {"qpos": qpos, "qvel": qvel, **begun(sim, qpos)}


def begun(sim: Sim, qpos: torch.Tensor) -> Terms:
    """What is remembered of where an episode begins, by the names that tasks have for it."""
    data, starts = mujoco.MjData(sim.model), {"x": qpos[:, :1], "y": qpos[:, 1:2]}
    if "center" in sim.memory:
        centers = []
        for row in qpos:
            data.qpos = row
            mujoco.mj_kinematics(sim.model, data)
            mujoco.mj_comPos(sim.model, data)
            centers.append(data.subtree_com[0, :2].copy())
        starts["center"] = torch.as_tensor(np.stack(centers))
    return {name: value for name, value in starts.items() if name in sim.memory}


@pytest.mark.parametrize("name", CASES)
def test_resets_are_drawn_as_gymnasium_draws_them(name: str):
    """Means and spreads of many draws of each, within what so many can tell (5 sigma)."""
    env, peer = Env(load_task(name), DRAWN, seed=3, threads=1), Peer(CASES[name])
    theirs = []
    for seed in range(DRAWN):
        peer.reset(seed=seed)
        theirs.append(np.concatenate((peer.inner.data.qpos, peer.inner.data.qvel)))
    a = torch.cat((env.sim.qpos, env.sim.qvel), -1).numpy()
    b = np.stack(theirs)
    sigma = b.std(0)
    assert np.all(np.abs(a.mean(0) - b.mean(0)) <= 5 * sigma * np.sqrt(2 / DRAWN))
    assert np.all(np.abs(a.std(0) - sigma) <= 5 * sigma / np.sqrt(DRAWN))
