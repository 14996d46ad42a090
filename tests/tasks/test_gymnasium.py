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
from robokit.env.step import Step
from robokit.sim.base import Sim
from robokit.task.lookup.find import load_task
from robokit.task.task import Terms, normal, uniform

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


def make_peer(case: Case, **options: Any) -> gymnasium.Env[Any, Any]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*environment .*-v4 is out of date")  # as Safety-Gymnasium's
        return gymnasium.make(case.id, **options)


class Peer:
    """One gymnasium environment that is put where one of our simulations is."""

    def __init__(self, case: Case, limit: int) -> None:
        self.env = make_peer(case, max_episode_steps=limit)
        self.id, self.inner = case.id, cast(Any, self.env.unwrapped)
        self.data: mujoco.MjData = self.inner.data
        self.contacts = 0

    def copy(self, env: Env, i: int) -> np.ndarray:
        return self.put(env.sim.qpos[i].numpy(), env.sim.qvel[i].numpy())

    def put(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """Start an episode there, with no warm start; the observation."""
        self.env.reset()
        mujoco.mj_resetData(self.inner.model, self.data)
        self.inner.set_state(qpos, qvel)
        return self.inner._get_obs()

    def step(self, ctrl: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, float]]:
        obs, reward, terminated, truncated, info = self.env.step(ctrl)
        self.contacts += self.data.ncon
        if self.id.endswith("-v4"):
            info = {**info, **self.terms(ctrl, info["x_velocity"])}
        return obs, float(reward), terminated, truncated, info

    def terms(self, ctrl: np.ndarray, speed: float) -> dict[str, float]:
        """The reward's terms, which v4 tells seldom and by other names."""
        weight = getattr(self.inner, "_forward_reward_weight", 1.0)  # Ant-v4 has none
        survive = getattr(self.inner, "healthy_reward", 0.0)
        effort = self.inner.control_cost(ctrl)
        return {"reward_forward": weight * speed, "reward_survive": survive, "reward_ctrl": -effort}


def compared(env: Env, case: Case, obs: np.ndarray) -> np.ndarray:
    """The columns of an observation that must be equal, as float32."""
    stops = np.cumsum(list(env.names.obs.values()))[:-1]
    parts = zip(env.names.obs, np.split(obs.astype(np.float32), stops), strict=True)
    return np.concatenate([part for name, part in parts if name not in case.exempt])


def assert_same_reward(env: Env, case: Case, step: Step, i: int, reward: float, info: dict[str, float]):
    """Each term to 1e-6 of itself, the sum to 1e-6 of its terms' magnitudes."""
    ours = {k: step.terms[i, j].item() for j, k in enumerate(env.task.weights)}
    assert ours.keys() == case.rewards.keys()
    for name, value in ours.items():
        if name not in case.exempt:
            assert value == pytest.approx(info[case.rewards[name]], rel=1e-6, abs=1e-30)
    theirs = reward - sum(info[case.rewards[name]] - ours[name] for name in case.exempt & ours.keys())
    scale = sum(abs(value) for value in ours.values())
    assert step.reward[i].item() == pytest.approx(theirs, rel=0, abs=1e-6 * scale)


def assert_same_cost(env: Env, case: Case, step: Step, i: int, info: dict[str, float]):
    assert step.cost[i].tolist() == ([case.cost(info)] if case.fast < math.inf else [])


@pytest.mark.medium
@pytest.mark.parametrize("name", CASES)
def test_each_step_is_gymnasiums(name: str):
    case, task = CASES[name], load_task(name)
    task.time_limit = LIMIT * task.control_dt
    env = Env(task, N, seed=1, threads=1)
    peers = [Peer(case, LIMIT) for _ in range(N)]
    for i, peer in enumerate(peers):
        assert np.array_equal(env.obs[i].numpy(), peer.copy(env, i).astype(np.float32))
    rng, ends = torch.Generator().manual_seed(2), 0
    for _ in range(STEPS):
        action = 2.4 * torch.rand(N, env.act_dim, generator=rng) - 1.2  # some beyond [-1, 1]
        step = env.step(action)
        ctrl = env.map.center + env.map.half * action.clamp(-1, 1)
        assert torch.equal(env.sim.ctrl[~step.done], ctrl[~step.done])
        for i, peer in enumerate(peers):
            obs, reward, terminated, truncated, info = peer.step(ctrl[i].numpy())
            assert (terminated, truncated) == (step.terminated[i].item(), step.truncated[i].item())
            final = step.final_obs[i].numpy()
            assert np.array_equal(compared(env, case, final), compared(env, case, obs))
            assert_same_reward(env, case, step, i, reward, info)
            assert_same_cost(env, case, step, i, info)
            if step.done[i]:
                ends += 1
                assert np.array_equal(step.obs[i].numpy(), peer.copy(env, i).astype(np.float32))
            assert np.array_equal(env.sim.qpos[i].numpy(), peer.data.qpos)
            assert np.array_equal(env.sim.qvel[i].numpy(), peer.data.qvel)
    assert ends >= N  # restarts were compared, too
    assert case.contacts == any(peer.contacts for peer in peers)


@pytest.mark.parametrize("name", CASES)
def test_rates_limits_and_sizes_are_gymnasiums(name: str):
    env, peer = Env(load_task(name), 1), make_peer(CASES[name])
    inner: Any = peer.unwrapped
    assert peer.spec is not None
    assert env.max_age == peer.spec.max_episode_steps
    assert env.task.control_dt == pytest.approx(inner.dt, rel=1e-12)
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
    env, peer = Env(task, WILD, threads=1, seed=4), Peer(case, LIMIT)
    starts, ended = (env.sim.qpos.clone(), env.sim.qvel.clone()), 0
    step = env.step(torch.zeros(WILD, env.act_dim))
    center = env.map.center.numpy()
    fine = ~step.bad & step.terms.isfinite().all(-1)  # a square may be more than float32 holds
    for i in torch.nonzero(fine).flatten().tolist():
        peer.put(*(value[i].numpy() for value in starts))
        obs, reward, terminated, _, info = peer.step(center)
        assert terminated == step.terminated[i].item()
        assert np.array_equal(compared(env, case, step.final_obs[i].numpy()), compared(env, case, obs))
        assert_same_reward(env, case, step, i, reward, info)
        assert_same_cost(env, case, step, i, info)
        ended += terminated
    assert fine.sum() > 0.8 * WILD  # the water throws fast swimmers apart
    assert ended > 0.1 * WILD or name.startswith(ENDLESS)
    charged = step.cost[fine]
    assert charged.numel() == 0 or 0.1 < charged.mean() < 0.99


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
    env, peer = Env(load_task(name), DRAWN, seed=3, threads=1), Peer(CASES[name], LIMIT)
    theirs = []
    for seed in range(DRAWN):
        peer.env.reset(seed=seed)
        theirs.append(np.concatenate((peer.data.qpos, peer.data.qvel)))
    a = torch.cat((env.sim.qpos, env.sim.qvel), -1).numpy()
    b = np.stack(theirs)
    sigma = b.std(0)
    assert np.all(np.abs(a.mean(0) - b.mean(0)) <= 5 * sigma * np.sqrt(2 / DRAWN))
    assert np.all(np.abs(a.std(0) - sigma) <= 5 * sigma / np.sqrt(DRAWN))
