"""The arm tasks on an SO-101: its States fit and hold, its limits cost, and it sees what its bus gives."""

from math import cos, sin
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from robokit.env.env import Env
from robokit.sim.kinematics import reach
from robokit.task.lookup.find import load_task
from robokit.task.states import load_libraries

LIFT, REACH = "arm_lift:So101", "arm_reach:So101"
HERE = 5  # joints of the arm
STALL = 2.94  # N m
LEAN = 15  # degrees: less than the 20 of the limit


@pytest.fixture
def env() -> Env:
    return Env(load_task(LIFT), 16, nominal=True, threads=1)


def costs(env: Env) -> dict[str, Tensor]:
    return env.task.costs(env.sim, torch.zeros(env.num_envs, env.act_dim))


def begin(env: Env, library: str) -> Tensor:
    """Put the simulations into 16 states of a file; (16, nq)."""
    libraries = {states.file.stem: rows for states, (_, rows) in load_libraries(env.task, env.sim).items()}
    rows = libraries[f"so101_{library}"]["qpos"]
    picked = rows[:: len(rows) // 16][:16].clone()
    env.sim.reset(None, {"qpos": picked, "qvel": torch.zeros_like(env.sim.qvel)})
    return picked


def held_up(env: Env, qpos: Tensor, gripper: float) -> Tensor:
    """Targets at which the servos hold the arm where it is against its weight, (N, 6)."""
    model, weight = env.sim.model, env.sim.field("qfrc_bias")[:, :HERE]
    gains = torch.from_numpy(model.actuator_gainprm[:HERE, 0])
    return torch.cat((qpos[:, :HERE] + weight / gains, torch.full((len(qpos), 1), gripper)), -1)


def test_it_sees_what_its_bus_gives_and_the_critic_the_speeds(env: Env):
    assert "joint_vel" not in env.names.obs
    assert {"joint_pos", "cube", "cube_yaw", "goal"} <= set(env.names.obs)
    assert {"joint_vel", "tip", "lag", "touch"} <= set(env.names.privileged)
    assert env.names.privileged["joint_vel"] == HERE
    sees = env.task.privileged(env.sim)
    assert torch.equal(sees["joint_vel"], env.sim.qvel[:, :HERE])


@pytest.mark.parametrize("library", ["above", "around", "held", "lifted"])
def test_a_file_has_the_hand_where_its_name_says(env: Env, library: str):
    qpos, sim = begin(env, library), env.sim
    inside = library in ("held", "lifted")
    sim.step(held_up(env, qpos, -0.1745 if inside else 0.5), 60)  # .3 s
    tip, cube = sim.sensor("tip"), sim.sensor("cube_pos")
    touches = torch.cat((sim.sensor("left_touch"), sim.sensor("right_touch")), -1)
    assert ((touches > 5).all(-1) == inside).all()
    assert bool((cube[:, 2] > 0.04).all()) == (library == "lifted")
    assert bool(((tip - cube).norm(dim=-1) < 0.01).all()) == (library != "above")
    assert (sim.site("elbow").xpos[:, 2] > env.task.robot.elbow).all()  # pyright: ignore
    assert torch.rad2deg(env.task.tilt(sim)).max() < 15  # pyright: ignore
    assert costs(env)["torque"].sum() == 0


@pytest.mark.parametrize("gripper", [-0.1745, 0.5])
def test_a_closed_hand_carries_the_cube_and_an_open_one_drops_it(env: Env, gripper: float):
    ctrl, closed = held_up(env, begin(env, "lifted"), gripper), gripper < 0
    for step in range(40):  # 2 s
        ctrl[:, 0] = ctrl[:, 0] + 0.02 * (step < 20)  # rad: it turns about its base
        env.sim.step(ctrl, 10)
    off = (env.sim.sensor("cube_pos") - env.sim.sensor("tip")).norm(dim=-1)
    assert ((off < 0.01) == closed).all()
    assert ((env.sim.sensor("cube_pos")[:, 2] > 0.03) == closed).all()


def test_too_fast_a_joint_and_its_whole_torque_cost(env: Env):
    speeds = torch.zeros_like(env.sim.qvel)
    speeds[:3, 1] = torch.tensor([4.6, -4.8, 0.0])
    speeds[3, HERE] = 6.0  # of the gripper
    env.sim.reset(None, {"qvel": speeds})
    assert costs(env)["joint_speed"].tolist() == [0, 1] + [0] * 14
    ctrl = env.sim.qpos[:, : HERE + 1].clone()
    ctrl[1, 0] += 0.9 * STALL / 17.8
    ctrl[2, 0] += 1.1 * STALL / 17.8
    env.sim.reset(None, {"qvel": 0 * speeds})
    env.sim.step(ctrl, 1)
    assert costs(env)["torque"].tolist() == [0, 0, 1] + [0] * 13
    assert env.task.torque_share(env.sim)[1, 0] == pytest.approx(0.9, abs=0.01)  # pyright: ignore


def test_a_cube_that_leans_in_the_hand_costs(env: Env):
    row = begin(env, "lifted")
    half = torch.linspace(0, 0.4, 16, dtype=torch.float64) / 2
    row[:, 9:13] = torch.stack((half.cos(), half.sin(), 0 * half, 0 * half), -1)
    env.sim.reset(None, {"qpos": row})
    assert torch.equal(costs(env)["tilt"], (half > np.radians(10)).double())
    assert 0 < costs(env)["tilt"].sum() < 16


def test_an_arm_that_leans_on_the_table_costs(env: Env):
    qpos = begin(env, "around")
    ctrl = held_up(env, qpos, 0.5)
    env.sim.step(ctrl, 40)
    assert costs(env)["table_force"].sum() == 0
    ctrl[:, 1] += 0.6  # rad of the shoulder's servo: down
    env.sim.step(ctrl, 80)
    force = env.sim.sensor("table_force")[:, 0]
    assert torch.equal(costs(env)["table_force"], (force > 20).double())
    assert costs(env)["table_force"].sum() > 0


def test_goals_and_cubes_are_where_the_hand_can_point_down():
    """Goals are 5 cm or more above the cube, and the hand gets there within its tilt."""
    task: Any = load_task(LIFT)
    env = Env(task, 64, threads=1)
    goal, cube = env.sim.memory["goal"], env.sim.qpos[:, 6:9]
    assert (goal[:, 2] - cube[:, 2]).min() > 0.05 - 1e-6
    assert cube[:, 2] == pytest.approx(0.0125)
    away = (cube[:, :2] - env.sim.constant(0.0388, 0.0)).norm(dim=-1)
    assert away.min() > 0.12
    assert away.max() < 0.29
    low, high = task.commands["goal"].low, task.commands["goal"].high
    corners = np.array(np.meshgrid(*zip(low, high, strict=True))).reshape(3, -1).T
    model, home = env.sim.model, env.sim.model.key("home").qpos
    bearing = np.arctan2(corners[:, 1], corners[:, 0] - 0.0388)
    axes = np.stack([hand(angle, np.radians(LEAN)) for angle in bearing])
    found, left = reach(model, "gripper", corners, home, axes=axes)
    assert left.max() < 0.05  # rad
    assert reach(model, "gripper", corners, found, within=1e-3)[1].max() < 2e-3


def hand(bearing: float, lean: float) -> np.ndarray:
    """Axes of a hand that points down and outward by `lean`, its fingers apart along the radius."""
    out, aside = np.array([cos(bearing), sin(bearing), 0]), np.array([-sin(bearing), cos(bearing), 0])
    down = sin(lean) * out - cos(lean) * np.array([0, 0, 1])
    return np.stack((aside, np.cross(down, aside), down), -1)


def test_the_cube_can_be_brought_to_its_goal_within_the_limits():
    """By inverse kinematics, on arms of other gains and friction, in the steps that an action may make."""
    env = Env(load_task(LIFT), 8, threads=1)
    sim, model, qpos = env.sim, env.sim.model, env.sim.qpos.clone()
    cube, goal, yaw = qpos[:, 6:9], sim.memory["goal"].clone(), 2 * torch.atan2(qpos[:, 12], qpos[:, 9])
    bearing = [torch.atan2(place[:, 1], place[:, 0] - 0.0388) for place in (cube, goal)]
    places, joints = [cube + sim.constant(0.0, 0.0, 0.05), cube, goal], [qpos.numpy()]
    for place, turn in zip(places, (yaw, yaw, yaw + bearing[1] - bearing[0]), strict=True):
        axes = np.stack([hand(angle, 0) for angle in turn.tolist()])
        found, _ = reach(model, "gripper", place, joints[-1], within=1e-3, axes=axes)
        joints.append(reach(model, "gripper", place, found, within=1e-3)[0])
    above, around, there = (torch.from_numpy(found[:, :HERE]) for found in joints[1:])
    charged = torch.zeros(len(env.task.limits))
    for targets, gripper, steps in ((above, 0.75, 22), (around, 0.75, 14), (around, -1, 10), (there, -1, 30)):
        for _ in range(steps):
            move = (0.35 / 0.08 * (targets - sim.qpos[:, :HERE])).clamp(-1, 1)
            step = env.step(torch.cat((move, torch.full((8, 1), gripper)), -1).float())
            charged += step.cost.mean(0) / 76
    assert (sim.sensor("cube_pos") - goal).norm(dim=-1).max() < 0.02
    assert charged.max() < 0.01


def test_the_friction_of_the_pads_and_the_gains_are_drawn():
    env = Env(load_task(LIFT), 64, threads=1)
    model = env.sim.model
    pads = [model.geom(name).id for name in ("fixed_pad", "moving_pad")]
    drawn = env.sim._fields  # pyright: ignore[reportAttributeAccessIssue]
    friction, gains = drawn["geom_friction"][:, pads, 0], drawn["actuator_gainprm"][..., 0]
    assert 0.7 <= friction.min() < 0.8
    assert 1.2 < friction.max() <= 1.3
    assert 0.5 <= gains.min() / 17.8 < 0.6
    assert 1.8 < gains.max() / 17.8 <= 2.0
    offset = env.sim.memory["joint_offset"].abs()
    assert 0.015 < offset[:, :HERE].max() <= 0.02
    assert offset[:, HERE:].max() == 0


def test_reach_is_for_the_same_arm_and_its_goals_are_in_reach():
    task: Any = load_task(REACH)
    env, lift = Env(task, 64, threads=1), load_task(LIFT)
    assert task.robot is lift.robot  # pyright: ignore
    assert task.goal.within == 0.02
    assert set(env.names.obs) == {"joint_pos", "target", "action", "goal"}
    assert set(task.limits) == {"joint_speed", "torque", "table_force"}
    goals, home = env.sim.memory["goal"], env.sim.model.key("home").qpos
    found, left = reach(env.sim.model, "gripper", goals, home, within=1e-3)
    assert left.max() < 2e-3
    env.sim.reset(None, {"qpos": torch.from_numpy(found)})
    assert task.rewards(env.sim, torch.zeros(64, env.act_dim))["posture"].max() == 0
    assert env.sim.sensor("tip")[:, 2].min() > 0.04
