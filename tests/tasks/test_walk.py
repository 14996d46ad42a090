"""Walking, once: the Go2 computes what it did, heights are above the ground below the foot."""

from typing import Any

import mujoco
import numpy as np
import pytest
import torch
from shipped import absent
from torch import Tensor

import robokit
from robokit.env.env import Env
from robokit.errors import ModelError
from robokit.networks.mirror import reflections
from robokit.task import Level, Terrain, uniform
from robokit.task.lookup.files import source_hashes
from robokit.task.lookup.find import load_task
from robokit.task.lookup.source import known_tasks
from robokit.tasks import go2_walk

RECORDED = {  # sums over 200 steps of go2_walk:Go2WalkLimited at c272650, when it was one file
    "obs gyro": -691.0110912874807,
    "obs up": 1511.848276981269,
    "obs joint_pos": -6754.178124728118,
    "obs joint_vel": -3164.2891551870853,
    "obs action": -60.790459513664246,
    "obs velocity": 136.38502460718155,
    "obs clock": 109.33948034793139,
    "state privileged speed": -307.0756842527262,
    "state privileged height": 423.5445465743542,
    "state privileged feet": 205.25314683328043,
    "state privileged touch": 266540.0925499201,
    "terms track": 581.8865254361399,
    "terms turn": 230.2945397844092,
    "terms gait": 626.6323747562088,
    "terms pose": 576.1925778090954,
    "terms height": -135.29545634981145,
    "terms tilt": -1143.2111395285374,
    "terms bounce": -287.0205532769261,
    "terms wobble": -1110.741703218162,
    "terms rate": -384.6778062209487,
    "terms torque": -603.5215535499156,
    "terms speed": -2188.756272135196,
    "metrics velocity_error": 1191.9736328143626,
    "metrics mean_velocity_error": 266.0626722872257,
    "metrics mean_turn_error": 327.81552059738897,
    "metrics torque_share": 1311.9401959180832,
    "metrics speed_share": 1595.3501883894205,
    "metrics overspeed": 718.0,
    "metrics slip": 1110.0350849553943,
    "metrics fell": 22.0,
    "cost joint_speed": 718.0,
    "cost torque": 1535.0,
    "cost tilt": 1083.0,
    "cost slip": 814.0,
}


KINDS = {"terms": "rewards", "metrics": "metrics", "cost": "costs"}


class Before(go2_walk.Go2WalkLimited):
    """With the draws of then, which the table of quantities has replaced."""

    memory: Any = {**go2_walk.Go2Walk.memory, "joint_offset": 12}

    def randomize(self, sim: Any, rng: torch.Generator) -> dict[str, Tensor]:
        n, base = sim.num_envs, sim.model.body("base").id
        grip = 1 + uniform(sim, rng, 1, 0.5)[..., None]
        mass = 1 + uniform(sim, rng, sim.model.nbody, 0.15)
        center = sim.nominal("body_ipos").repeat(n, 1, 1)
        center[:, base] += uniform(sim, rng, 3, 0.02)
        stiff = 1 + uniform(sim, rng, 12, 0.1)[..., None]
        offset = uniform(sim, rng, 12, 0.02)
        bias = sim.nominal("actuator_biasprm").repeat(n, 1, 1)
        bias[:, :, 0] += sim.nominal("actuator_gainprm")[:, 0] * offset
        return {
            "geom_friction": grip * sim.nominal("geom_friction"),
            "body_mass": mass * sim.nominal("body_mass"),
            "body_inertia": mass[..., None] * sim.nominal("body_inertia"),
            "body_ipos": center,
            "actuator_gainprm": stiff * sim.nominal("actuator_gainprm"),
            "actuator_biasprm": stiff * bias,
            "joint_offset": offset,
        }


def test_the_go2_computes_what_its_own_file_did():
    env, rng = robokit.make(Before, 8, seed=5, threads=1), torch.Generator().manual_seed(7)
    ones = ((kind, dict.fromkeys(getattr(env.names, of), 1)) for kind, of in KINDS.items())
    widths = {"obs": env.names.obs, "state": env.names.state, **dict(ones)}
    sums = dict.fromkeys(RECORDED, 0.0)
    for _ in range(200):
        step = env.step(torch.rand(8, 12, generator=rng) * 2 - 1)
        for kind, columns in widths.items():
            values = getattr(step, kind).double().nan_to_num().sum(0).split([*columns.values()])
            for name, value in zip(columns, values, strict=True):
                if f"{kind} {name}" in sums:
                    sums[f"{kind} {name}"] += float(value.sum())
    assert sums == pytest.approx(RECORDED, rel=1e-9)  # equal on the machine of then


def test_a_run_remembers_the_base_of_its_task_and_the_base_is_no_task():
    assert {"go2_walk.py", "_walk.py"} <= source_hashes(go2_walk.Go2Walk).keys()
    assert "_walk" not in known_tasks()
    assert {"go1_walk", "go2_walk"} <= known_tasks().keys()


# -- on rough ground -----------------------------------------------------------------------------


class OnRough(go2_walk.Go2Walk):
    """Steps, stones and random heights, from the middle of a tile."""

    ground = Terrain(("rough", "stones", "steps"), levels=3, tile=4.0, middle=0.4, seed=3)
    level = Level(2, success="overspeed")

    @property
    def model(self) -> mujoco.MjSpec:
        return self.ground.added(mujoco.MjSpec.from_file(str(go2_walk.Go2Walk.model)), floor="floor")

    def reset(self, sim: Any, rng: torch.Generator) -> dict[str, Tensor]:
        start = super().reset(sim, rng)
        tile = torch.arange(sim.num_envs, device=sim.device) % 9
        start["qpos"][:, :3] += self.ground.start(sim, tile // 3, tile % 3)
        start["qpos"][:, :2] += uniform(sim, rng, 2, 1.5)
        return start


def below(model: mujoco.MjModel, qpos: Tensor) -> Tensor:
    """(N, 4) m from each foot's centre down to the ground, by a ray of MuJoCo."""
    data, found = mujoco.MjData(model), np.zeros((len(qpos), 4))
    for i, row in enumerate(qpos):
        data.qpos[:] = row.double()
        mujoco.mj_forward(model, data)
        for k, foot in enumerate(go2_walk.Go2Walk.feet):
            calf = model.body(f"{foot}_calf").id
            place = data.site(foot).xpos
            found[i, k] = mujoco.mj_ray(
                model, data, place, [0, 0, -1.0], None, 1, calf, np.zeros(1, np.int32)
            )
    return torch.from_numpy(found)


def check_heights(env: Env, tolerance: float) -> None:
    """Of the feet and of the base in random poses 5 cm and more above the ground."""
    sim, task, rng = env.sim, env.task, torch.Generator().manual_seed(0)
    qpos = task.reset(sim, rng)["qpos"]
    qpos[:, 2] += 0.3
    sim.reset(None, {"qpos": qpos})
    by_ray = below(sim.model, sim.qpos)
    heights = task._feet_height(sim).double()  # pyright: ignore[reportAttributeAccessIssue]
    torch.testing.assert_close(heights + task.foot, by_ray, rtol=0, atol=tolerance)  # pyright: ignore[reportAttributeAccessIssue]
    feet = torch.stack([sim.site(foot).xpos[:, 2] for foot in go2_walk.Go2Walk.feet], -1)
    base = (sim.body("base").xpos[:, 2:] - (feet - by_ray)).mean(-1)
    mine = task._height(sim).double()  # pyright: ignore[reportAttributeAccessIssue]
    torch.testing.assert_close(mine, base.double(), rtol=0, atol=tolerance)
    assert float((feet - by_ray).std()) > 0.02


def test_heights_are_above_the_ground_below_each_foot_as_a_ray_finds_it():
    check_heights(Env(OnRough(), 36, nominal=True, threads=1), 1e-6)


@pytest.mark.slow
def test_heights_are_those_of_the_ray_on_the_second_engine():
    pytest.importorskip("mujoco_warp")
    check_heights(Env(OnRough(), 9, nominal=True, sim="warp", device="cpu"), 2e-5)


def test_on_a_plane_heights_are_the_sites_own():
    env = robokit.make("go2_walk", 3, threads=1)
    sites = torch.stack([env.sim.site(foot).xpos[:, 2] for foot in go2_walk.Go2Walk.feet], -1)
    assert torch.equal(env.task._feet_height(env.sim), sites - 0.022)  # pyright: ignore[reportAttributeAccessIssue]


# -- the Go1 of Menagerie ------------------------------------------------------------------------

here = pytest.mark.skipif(bool(absent("go1_walk")), reason="go1_walk: no Menagerie here")


@here
def test_the_go1_stands_at_home_and_its_feet_feel_its_weight():
    env = robokit.make("go1_walk", 2, nominal=True, threads=1)
    for _ in range(100):
        assert not env.step(torch.zeros(2, 12)).terminated.any()
    sim = env.sim
    touch = torch.cat([sim.sensor(f"{foot}_touch") for foot in ("FR", "FL", "RR", "RL")], -1)
    weight = float(sim.model.body_mass.sum()) * 9.81
    assert touch.sum(-1).tolist() == pytest.approx([weight] * 2, rel=0.02)
    assert (sim.sensor("up")[:, 2] > 0.99).all()
    assert (env.task._height(sim) > 0.24).all()  # pyright: ignore[reportAttributeAccessIssue]


@here
def test_the_go1_s_mirror_is_the_robot_s():
    """Simulation 1 does the mirrored actions of 0: it moves as the mirror image, but for the trunk's mass."""
    env = robokit.make("go1_walk", 2, nominal=True, threads=1)
    of_obs, of_action = reflections(env.task.mirror, env.names.obs)
    start = env.sim.keyframe("home").qpos.expand(2, -1)
    still = {"velocity": torch.zeros(2, 3), "velocity.left": torch.full((2, 1), 100.0)}
    env.sim.reset(None, {"qpos": start, **still})
    torch.manual_seed(0)
    for _ in range(10):
        action = torch.randn(12) * 0.3
        env.step(torch.stack((action, of_action(action))))
    torch.testing.assert_close(env.obs[1], of_obs(env.obs[0]), atol=0.3, rtol=0.1)
    assert env.obs[0].abs().max() > 2


def test_a_robot_that_is_not_here_is_named_with_the_way_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
):
    pytest.importorskip("mujoco_menagerie")
    monkeypatch.delenv("MENAGERIE_ROOT", raising=False)
    monkeypatch.setenv("MENAGERIE_CACHE_DIR", str(tmp_path))
    with pytest.raises(ModelError, match="not downloaded here: mujoco-menagerie prefetch unitree_go1"):
        Env(load_task("go1_walk"))
