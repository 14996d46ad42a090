"""The quadruped: its model is the published robot, its mirror and its metrics are correct."""

from collections.abc import Iterator

import mujoco
import pytest
import torch

import robokit
from robokit.env.env import Env
from robokit.learning.offpolicy.options import Pace
from robokit.networks.mirror import reflections
from robokit.task.lookup.find import load_task
from robokit.task.lookup.source import shipped_folder
from robokit.training.setup.build import options

TASK = "go2_walk"
SCENES = ("scene.xml", "scene_full.xml")


@pytest.fixture
def env() -> Env:
    return robokit.make(TASK, 2, nominal=True, threads=1)


@pytest.mark.parametrize("scene", SCENES)
def test_the_robot_has_the_published_masses_limits_and_order(scene: str):
    model = mujoco.MjModel.from_xml_path(str(shipped_folder() / "robots/go2" / scene))
    assert model.body_mass.sum() == pytest.approx(6.921 + 4 * (0.678 + 1.152 + 0.241352))
    motors = [f"{leg}_{joint}" for leg in ("FR", "FL", "RR", "RL") for joint in ("hip", "thigh", "calf")]
    assert [model.actuator(i).name for i in range(12)] == motors
    assert [model.joint(i + 1).name for i in range(12)] == motors
    assert model.actuator_forcerange[:, 1].tolist() == [23.7, 23.7, 45.43] * 4
    assert model.dof_armature[6:].tolist() == [0.01] * 12
    feet = [i for i in range(model.ngeom) if model.geom_contype[i] & model.geom("floor").conaffinity]
    assert len(feet) == (4 if scene == "scene.xml" else model.ngeom - 1)


def test_the_robot_stands_at_home_in_both_scenes():
    for name in (TASK, f"{TASK}:Go2WalkFull"):
        env = robokit.make(name, 2, nominal=True, threads=1)
        ended = [bool(env.step(torch.zeros(2, 12)).terminated.any()) for _ in range(100)]
        assert not any(ended)
        assert (env.sim.qpos[:, 2] > 0.2).all()
        assert (env.sim.sensor("up")[:, 2] > 0.98).all()


def test_the_task_s_mirror_is_the_robot_s(env: Env):
    """Simulation 1 starts as the mirror image of 0 and acts so: it stays that, and is paid the same."""
    of_obs, of_action = reflections(env.task.mirror, env.names.obs)
    sim, places, signs = env.sim, of_action.order, of_action.sign.double()
    torch.manual_seed(0)
    start = sim.qpos[0].clone()
    start[3:7] = torch.tensor([0.98, 0.1, 0.05, 0.15]) / torch.tensor([0.98, 0.1, 0.05, 0.15]).norm()
    speed, command = torch.randn(18).double() * 0.3, torch.tensor([0.5, 0.3, -0.4]).double()
    image, moving = start.clone(), speed.clone()
    image[1], image[3:7] = -start[1], start[3:7] * torch.tensor([1.0, -1.0, 1.0, -1.0])
    image[7:] = start[7:][places] * signs
    moving[:3], moving[3:6] = speed[:3] * torch.tensor([1, -1, 1]), speed[3:6] * torch.tensor([-1, 1, -1])
    moving[6:] = speed[6:][places] * signs
    other = command * torch.tensor([1, -1, -1])
    noon = torch.tensor([[0.6, 0.8], [-0.6, -0.8]]).double()
    sim.reset(None, {
        "qpos": torch.stack((start, image)), "qvel": torch.stack((speed, moving)),
        "velocity": torch.stack((command, other)), "velocity.left": torch.full((2, 1), 100.0), "clock": noon,
    })  # fmt: skip
    for _ in range(20):
        action = torch.randn(12) * 0.3
        step = env.step(torch.stack((action, of_action(action))))
        assert not step.done.any()
        torch.testing.assert_close(step.obs[1], of_obs(step.obs[0]), atol=0.05, rtol=0.02)
        torch.testing.assert_close(step.terms[1], step.terms[0], atol=0.02, rtol=0.05)
    assert env.obs[0].abs().max() > 0.5


def errors(env: Env, count: int) -> Iterator[tuple[float, float]]:
    """(error of the running mean, its value by hand) at each step."""
    sim, seen = env.sim, []
    names = env.names.metrics
    for _ in range(count):
        command = sim.memory["velocity"].clone()
        step = env.step(torch.zeros(2, 12))
        seen.append(sim.sensor("velocity")[:, :2].clone())
        by_hand = (torch.stack(seen[-25:]).mean(0) - command[:, :2]).norm(dim=-1)
        yield float(step.metrics[0, names.index("mean_velocity_error")]), float(by_hand[0])


def test_the_running_mean_is_of_half_a_second_and_counts_from_a_second_after_a_command(env: Env):
    env.reset()
    env.sim.memory["velocity.left"].fill_(60)
    counted = [i for i, (error, by_hand) in enumerate(errors(env, 130)) if error == error]
    changed = 60  # the first step under the second command
    assert counted == [i for i in range(130) if (50 <= i < changed or i >= changed + 50)]
    env.reset()
    for error, by_hand in errors(env, 60):
        assert error != error or error == pytest.approx(by_hand, rel=1e-4)


def test_what_the_joints_read_is_off_by_what_their_targets_are_off():
    """With every joint's zero off by its own offset, standing at action 0 reads home all the same."""
    env = robokit.make(TASK, 64, threads=1, seed=3)
    env.hold({"velocity": (0.0, 0.0, 0.0)})
    sim, nominal = env.sim, robokit.make(TASK, 64, threads=1, nominal=True).sim
    rng = torch.Generator().manual_seed(0)
    drawn = {
        k: v
        for k, v in env.task.randomize(sim, rng).items()
        if k in ("joint_offset", "actuator_biasprm", "actuator_gainprm")
    }
    home = sim.keyframe("home")
    high = home.qpos.clone()
    high[2] = 5.0  # in the air, hanging still
    sim.nominal("opt.gravity")
    nominal.reset(None, {"qpos": high.expand(64, -1)})
    sim.reset(None, {"qpos": high.expand(64, -1), **drawn})
    for s in (sim, nominal):
        for _ in range(25):
            s.step(home.ctrl.expand(64, 12), 2)
    read = sim.qpos[:, 7:] - sim.memory["joint_offset"]
    assert drawn["joint_offset"].abs().max() > 0.015
    torch.testing.assert_close(read, nominal.qpos[:, 7:], atol=4e-3, rtol=0)


# -- limits --------------------------------------------------------------------------------------

HIP, CALF = 0, 2  # of the front right leg, in actuator order
AIR, GROUND = 5.0, 0.285  # m of the base: clear of everything, and with all feet pressed into the floor


def cost(name: str, height: float = AIR, *, tilt: float = 0.0, speed: dict[int, float] | None = None,
         pull: dict[int, float] | None = None) -> float:  # fmt: skip
    """One cost at home, `tilt` degrees about y; `speed` of dofs (m/s, rad/s), `pull` of targets (rad)."""
    env = robokit.make(f"{TASK}:Go2WalkLimited", 1, nominal=True, threads=1)
    home = env.sim.keyframe("home")
    qpos, ctrl, qvel = home.qpos.clone(), home.ctrl.clone(), torch.zeros(18).double()
    half = torch.deg2rad(torch.tensor(tilt, dtype=torch.float64)) / 2
    qpos[2], qpos[3], qpos[5] = height, half.cos(), half.sin()
    for i, value in (speed or {}).items():
        qvel[i] = value
    for i, value in (pull or {}).items():
        ctrl[i] += value
    env.sim.reset(None, {"qpos": qpos[None], "qvel": qvel[None], "ctrl": ctrl[None]})
    return env.task.costs(env.sim, torch.zeros(1, 12))[name].item()


def test_standing_at_home_costs_nothing():
    assert [cost(name, GROUND) for name in ("joint_speed", "torque", "tilt", "slip")] == [0.0] * 4


def test_a_joint_costs_beyond_the_published_speed_of_its_own_motor():
    """Unitree: 30.1 rad/s at hip and thigh, 15.7 at the calf, in either direction."""
    assert [cost("joint_speed", speed={6 + HIP: v}) for v in (30.0, 30.2, -30.2)] == [0.0, 1.0, 1.0]
    assert [cost("joint_speed", speed={6 + CALF: v}) for v in (15.6, 15.8, -15.8)] == [0.0, 1.0, 1.0]


def test_a_motor_costs_beyond_half_of_its_own_peak_torque():
    """A servo of 40 N m/rad: half of 23.7 N m is 0.29625 rad away, half of 45.43 N m 0.567875 rad."""
    assert [cost("torque", pull={HIP: x}) for x in (0.296, 0.297, -0.297)] == [0.0, 1.0, 1.0]
    assert [cost("torque", pull={CALF: x}) for x in (0.567, 0.569, -0.569)] == [0.0, 1.0, 1.0]


def test_the_trunk_costs_beyond_ten_degrees_from_upright():
    assert [cost("tilt", tilt=x) for x in (9.9, 10.1, -10.1)] == [0.0, 1.0, 1.0]


def test_a_foot_costs_that_moves_fast_along_the_ground_and_not_in_the_air():
    assert [cost("slip", GROUND, speed={0: v}) for v in (0.49, 0.51, -0.51)] == [0.0, 1.0, 1.0]
    assert cost("slip", GROUND, speed={0: 0.4, 1: 0.4}) == 1.0  # 0.57 m/s
    assert cost("slip", AIR, speed={0: 2.0}) == 0.0


@pytest.mark.parametrize("algo", ["sac", "td3"])
def test_the_presets_have_the_papers_batches_and_gradient_steps(algo: str):
    config = options(load_task(TASK), algo)
    assert Pace.of(config) == (10 * 4096, 8192, 8 / 4096)
