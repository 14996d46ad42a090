"""The arm tasks: the Panda is Franka's, its hand holds a cube, starts, goals, costs and views are as said."""

from math import pi
from typing import Any

import mujoco
import numpy as np
import pytest
import torch
from torch import Tensor

from robokit.env.env import Env
from robokit.sim.kinematics import reach
from robokit.sim.model import compile_model, load
from robokit.task.lookup.find import load_task
from robokit.task.lookup.source import shipped_folder
from robokit.task.states import load_libraries
from robokit.task.task import Task

TASKS = ["arm_reach", "arm_push", "arm_lift"]
WITH_STATES = ["arm_push", "arm_lift"]
PANDA = str(shipped_folder() / "robots/panda/panda.xml")
# modified Denavit-Hartenberg parameters of Franka's data sheet: a, alpha of the link before, d
LINKS = (
    (0.0, 0.0, 0.333),
    (0.0, -pi / 2, 0.0),
    (0.0, pi / 2, 0.316),
    (0.0825, pi / 2, 0.0),
    (-0.0825, -pi / 2, 0.384),
    (0.0, pi / 2, 0.0),
    (0.088, pi / 2, 0.0),
)
FLANGE, TIP, TURNED = 0.107, 0.1034, -pi / 4  # m, m, rad: of the hand on the flange
# kg, of links 1 to 7 in Gaz et al. 2019 (IEEE RA-L 4:4147), table of the feasible parameters
MASSES = (4.970684, 0.646926, 3.228604, 3.587895, 1.225946, 1.666555, 0.735522)
STEP, PERIOD = 0.005, 0.05  # s


def screw(a: float, alpha: float, d: float, theta: float) -> np.ndarray:
    """Craig's transform from a link to the next, (4, 4)."""
    ca, sa, ct, st = np.cos(alpha), np.sin(alpha), np.cos(theta), np.sin(theta)
    rows = [[ct, -st, 0, a], [st * ca, ct * ca, -sa, -d * sa], [st * sa, ct * sa, ca, d * ca], [0, 0, 0, 1]]
    return np.array(rows)


def published(q: list[float]) -> np.ndarray:
    """Frame of the tip by Franka's parameters, (4, 4)."""
    frame = np.eye(4)
    for (a, alpha, d), angle in zip(LINKS, q, strict=True):
        frame = frame @ screw(a, alpha, d, angle)
    return frame @ screw(0, 0, FLANGE + TIP, TURNED)


def base() -> Any:
    """The module of the arm tasks' base, as the tasks have it."""
    from robokit.tasks import _arm  # type: ignore[attr-defined]

    return _arm


def hand() -> Any:
    """The module of what hand and cubes are in numbers."""
    from robokit.tasks import _hand  # type: ignore[attr-defined]

    return _hand


def task_of(name: str, **attributes: Any) -> Task:
    return type("But", (type(load_task(name)),), attributes)()


def rows_of(name: str, library: str) -> np.ndarray:
    with np.load(shipped_folder() / f"manipulation/states/{name.removeprefix('arm_')}_{library}.npz") as file:
        return file["qpos"]


def costs(env: Env) -> dict[str, Tensor]:
    return env.task.costs(env.sim, torch.zeros(env.num_envs, env.act_dim))


# -- the robot -------------------------------------------------------------------------------------


def test_the_panda_has_the_published_masses_ranges_and_torques():
    model = mujoco.MjModel.from_xml_path(PANDA)
    assert [model.body(f"link{i}").mass[0] for i in range(1, 8)] == pytest.approx(MASSES)
    low, high = model.jnt_range[:7].T
    assert low.tolist() == [-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973]
    assert high.tolist() == [2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973]
    assert model.jnt_actfrcrange[:7].tolist() == [[-87, 87]] * 4 + [[-12, 12]] * 3
    assert model.jnt_range[7:].tolist() == [[0, 0.04]] * 2  # 80 mm between the fingers
    assert base().PANDA.fastest == (2.175,) * 4 + (2.61,) * 3


@pytest.mark.parametrize(
    "q", [[0.0, 0, 0, -pi / 2, 0, pi / 2, pi / 4], [0.4, -0.7, 0.9, -2.1, 1.3, 2.0, -0.6]]
)
def test_the_tip_is_where_the_published_parameters_have_it(q: list[float]):
    model = mujoco.MjModel.from_xml_path(PANDA)
    data = mujoco.MjData(model)
    data.qpos[:7] = q
    mujoco.mj_kinematics(model, data)
    frame, hand = published(q), data.site("gripper")
    assert hand.xpos == pytest.approx(frame[:3, 3], abs=3e-4)  # the pads' middle is at .1036, not at .1034 m
    assert hand.xmat.reshape(3, 3) == pytest.approx(frame[:3, :3], abs=1e-6)


@pytest.mark.parametrize("name", TASKS)
def test_no_action_holds_the_arm_where_it_is(name: str):
    env = Env(load_task(name), 4)
    before = env.sim.sensor("tip").clone()
    for _ in range(40):  # 2 s
        env.step(torch.zeros(4, env.act_dim))
    assert (env.sim.sensor("tip") - before).norm(dim=-1).max() < 0.005


def lifted_and_held(iterations: int, rows: np.ndarray) -> np.ndarray:
    """How far the cube is from the tip after a lift by 12 cm within .8 s and 1.5 s in the air, (n,) m."""
    model = compile_model(load(load_task("arm_lift").model))
    model.opt.iterations = iterations
    data, gaps = mujoco.MjData(model), list[float]()
    for qpos in rows:
        mujoco.mj_resetData(model, data)
        data.qpos[:], data.ctrl[:7], data.ctrl[7] = qpos, qpos[:7], 0
        mujoco.mj_forward(model, data)
        hand = data.site("gripper")
        above, axes = hand.xpos + np.array([0, 0, 0.12]), hand.xmat.reshape(1, 3, 3).copy()
        up = reach(model, "gripper", above, qpos, within=1e-3, axes=axes)[0][0, :7]
        for step in range(round(2.3 / STEP)):
            data.ctrl[:7] = qpos[:7] + (up - qpos[:7]) * min(1.0, step * STEP / 0.8)
            mujoco.mj_step(model, data)
        gaps.append(float(np.linalg.norm(data.body("cube").xpos - hand.xpos)))
    return np.array(gaps)


def test_the_hand_lifts_a_cube_and_holds_it_if_the_solver_may_iterate():
    rows = rows_of("arm_lift", "held")[:5]
    assert lifted_and_held(30, rows).max() < 0.012
    assert lifted_and_held(1, rows).min() > 0.05


# -- starts and goals --------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
def test_a_push_is_of_8_to_20_cm_in_all_directions_within_the_command(training: bool):
    task = load_task("arm_push")
    env, command = Env(task, 100, training=training), task.commands["goal"]
    ways = list[Tensor]()
    for _ in range(10):
        goal = env.sim.memory["goal"]
        assert (goal >= env.sim.constant(*command.low) - 1e-6).all()
        assert (goal <= env.sim.constant(*command.high) + 1e-6).all()
        ways.append((goal - env.sim.qpos[:, 9:12])[:, :2])
        env.reset()
    ways = torch.cat(ways)
    far = ways.norm(dim=-1)
    assert far.min() > 0.08 - 1e-6
    assert 0.19 < far.max() < 0.2 + 1e-6
    eighths = torch.atan2(ways[:, 1], ways[:, 0]).div(pi / 4).floor().long() + 4
    assert torch.bincount(eighths, minlength=8).min() > 80


def test_a_push_from_a_file_leads_away_from_the_hand():
    env = Env(load_task("arm_push"), 200, training=True)
    filed = env.sim.memory["source"][:, 0] > 0
    assert 60 < filed.sum() < 140
    tip, cube, goal = env.sim.sensor("tip"), env.sim.sensor("cube_pos"), env.sim.memory["goal"]
    hand, way = (cube - tip)[filed, :2], (goal - cube)[filed, :2]
    assert torch.allclose(env.sim.memory["aim"][filed], hand, atol=1e-6)
    assert (env.sim.memory["aim"][~filed] == 0).all()
    cosine = (hand * way).sum(-1) / hand.norm(dim=-1) / way.norm(dim=-1)
    assert np.cos(1.0) - 1e-6 < cosine.min() < 0.7


def test_a_lift_is_of_5_cm_or_more():
    env, ups = Env(load_task("arm_lift"), 100), list[Tensor]()
    for _ in range(10):
        ups.append((env.sim.memory["goal"] - env.sim.qpos[:, 9:12])[:, 2])
        env.reset()
    assert torch.cat(ups).min() > 0.05 - 1e-6


@pytest.mark.parametrize("name", WITH_STATES)
def test_only_a_training_begins_from_a_file(name: str):
    task = load_task(name)
    own, training = Env(task, 50), Env(task, 50, training=True)
    for env, other in ((own, False), (training, True)):
        tip, cube = env.sim.sensor("tip"), env.sim.sensor("cube_pos")
        far = (tip - tip.median(0).values).norm(dim=-1).max()
        assert bool(far > 0.1) == other  # the tip is not near home
        assert cube[:, 2].min() > 0.015
        assert bool((cube[:, 2] > 0.021).any()) == (other and name == "arm_lift")
    assert "source" not in own.sim.memory or (own.sim.memory["source"] == 0).all()
    assert (training.sim.memory["source"] > 0).any()


@pytest.mark.parametrize("name", WITH_STATES)
def test_a_file_has_the_hand_where_its_name_says(name: str):
    env = Env(load_task(name), 32)
    sim, arm = env.sim, hand()
    libraries = load_libraries(env.task, sim)
    for states, (_, library) in libraries.items():
        rows = library["qpos"]
        assert len(rows) >= 600
        picked = rows[:: len(rows) // 32][:32]
        sim.reset(None, {"qpos": picked, "qvel": torch.zeros_like(sim.qvel)})
        ctrl = torch.cat((picked[:, :7], torch.zeros(32, 1)), -1)
        kind = states.file.stem.partition("_")[2]
        inside = kind in ("held", "lifted")
        ctrl[:, 7] = 0.0 if inside or name == "arm_push" else 0.04
        sim.step(ctrl, 40)  # .2 s
        touch, off = arm.touch(sim), sim.sensor("tip") - sim.sensor("cube_pos")
        assert ((touch > arm.TOUCHING).all(-1) == inside).all(), kind
        assert (arm.grasped(sim) == inside).all(), kind
        height, aside = sim.sensor("cube_pos")[:, 2], off[:, :2].norm(dim=-1)
        assert bool((height > 0.04).all()) == (kind == "lifted"), kind
        assert bool((off.norm(dim=-1) < 0.01).all()) == (kind in ("around", "held", "lifted")), kind
        if kind == "above":
            assert off[:, 2].min() > 0.03
        if kind == "down":
            assert off[:, 2].abs().max() < 0.01
            assert aside.min() > 0.045
            assert aside.max() < 0.085
            assert torch.bincount((off[:, 0] > 0) * 2 + (off[:, 1] > 0), minlength=4).min() > 2


# -- costs, views --------------------------------------------------------------------------------------


def test_a_cube_that_leans_in_the_hand_costs():
    """On whichever side it stands: after a quarter turn it is upright."""
    env, arm = Env(load_task("arm_lift"), 4), base()
    row = torch.from_numpy(rows_of("arm_lift", "lifted")[:1]).repeat(4, 1)
    half = torch.deg2rad(torch.tensor([0.0, 15.0, 25.0, 90.0], dtype=torch.float64)) / 2
    row[:, 12:16] = torch.stack((half.cos(), half.sin(), 0 * half, 0 * half), -1)
    env.sim.reset(None, {"qpos": row})
    assert arm.gap(env.sim).max() < 0.02
    angle = env.task.tilt(env.sim)  # pyright: ignore
    assert np.degrees(angle.numpy()) == pytest.approx([0, 15, 25, 0], abs=0.01)
    assert costs(env)["tilt"].tolist() == [0, 0, 1, 0]
    row[:, 10] += 0.3  # m beside the hand
    env.sim.reset(None, {"qpos": row})
    assert not costs(env)["tilt"].any()


@pytest.mark.parametrize(("newton", "cost"), [(18.0, 0), (25.0, 1)])
def test_more_than_20_newton_on_the_table_cost(newton: float, cost: int):
    def shape(self: Any, body: Any, number: int) -> None:
        body.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, name="cube", size=[0.02] * 3, **solid)

    solid = {**base().SOLID, "mass": newton / 9.81}
    env = Env(
        task_of("arm_push:Clean", shape=shape, limits=load_task("arm_push").limits, costs=base().Arm.costs)
    )
    for _ in range(20):
        env.step(torch.zeros(1, 7))
    assert env.sim.sensor("table_force").item() == pytest.approx(newton, rel=0.02)
    assert costs(env)["table_force"].item() == cost


def test_too_fast_a_joint_and_its_whole_torque_cost():
    env = Env(load_task("arm_reach"), 3)
    speeds = torch.zeros_like(env.sim.qvel)
    speeds[:, 2], speeds[2, 5] = torch.tensor([2.1, -2.2, 0.0]), 2.7  # limits: 2.175 and 2.61 rad/s
    env.sim.reset(None, {"qvel": speeds})
    assert costs(env)["joint_speed"].tolist() == [0, 1, 1]
    ctrl = env.sim.qpos[:, :8].clone()
    ctrl[1, 0] += 0.05  # rad of 1000 N m/rad
    ctrl[2, 0] += 0.2
    env.sim.reset(None, {"qvel": 0 * speeds})
    env.sim.step(ctrl, 1)
    assert costs(env)["torque"].tolist() == [0, 0, 1]


def test_a_cubes_yaw_looks_the_same_after_a_quarter_turn():
    arm, angles = base(), torch.linspace(-3, 3, 25, dtype=torch.float64)
    none = torch.zeros_like(angles)

    def seen(turn: float) -> Tensor:
        half = (angles + turn) / 2
        return arm.yaw(torch.stack((half.cos(), none, none, half.sin()), -1))

    assert torch.allclose(seen(0), seen(pi / 2), atol=1e-9)
    assert torch.allclose(seen(0), seen(pi), atol=1e-9)
    assert (seen(0) - seen(pi / 8)).norm(dim=-1).min() > 1
    assert torch.allclose(seen(0)[12], torch.tensor([1.0, 0.0], dtype=torch.float64))  # yaw 0


@pytest.mark.parametrize("name", TASKS)
def test_only_clean_shows_the_policy_tip_and_touch(name: str):
    real, clean = load_task(name), load_task(f"{name}:Clean")
    own, all_of = Env(real).names, Env(clean).names
    hidden = {"tip", "touch", "lag", "off"}
    hidden |= {"cube_near", "cube_velocity"} if name != "arm_reach" else set()
    hidden |= {"behind"} if name == "arm_push" else set()
    assert not hidden & set(own.obs)
    assert hidden <= set(own.privileged) & set(all_of.obs)
    carried = {"tilt"} if name == "arm_lift" else set()
    assert set(real.limits) == {"joint_speed", "torque", "table_force"} | carried
    assert not clean.limits
    assert not clean.sensing


def test_the_hand_is_turned_as_the_cube_is_or_at_45_degrees():
    env = Env(load_task("arm_lift"), 3)
    row = torch.from_numpy(rows_of("arm_lift", "around")[:1]).repeat(3, 1)
    yaw = 2 * torch.atan2(row[:, 15], row[:, 12]) + torch.tensor([0.0, pi / 4, pi / 2])
    half = yaw / 2
    row[:, 12:16] = torch.stack((half.cos(), 0 * half, 0 * half, half.sin()), -1)
    env.sim.reset(None, {"qpos": row})
    aligned, across, quarter = hand().turned(env.sim).tolist()
    assert aligned > 0.9 and across < 0.1 and quarter == pytest.approx(aligned, abs=1e-6)
