"""The SO-101: its model is the makers' arm, and its jaws hold what they close on."""

from math import pi

import mujoco
import numpy as np
import pytest
from numpy import cos, sin

from robokit.task.lookup.source import shipped_folder

SCENE = str(shipped_folder() / "robots/so101/scene.xml")
JOINTS = ["shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper"]
STALL = 1.62  # N m at 6 V, the weakest servo that the makers name (16.5 kg cm)

# (xyz in m, rpy in rad) of the joints in TheRobotStudio/SO-ARM100's so101_new_calib.urdf, from `baseframe` on
ORIGINS = (
    ((0.0, -0.0388353, 0.0624), (-pi, 0.0, pi / 2)),
    ((-0.0303992, -0.0182778, -0.0542), (-pi / 2, -pi / 2, 0.0)),
    ((-0.11257, -0.028, 0.0), (0.0, 0.0, pi / 2)),
    ((-0.1349, 0.0052, 0.0), (0.0, 0.0, -pi / 2)),
    ((0.0, -0.0611, 0.0181), (pi / 2, 0.0, pi)),
)
TIP = (-0.0079, -0.000218121, -0.0981274)  # gripperframe in the gripper's frame
ROLL = -0.0486795  # rad: the URDF's zero of wrist_roll lies elsewhere than the MJCF's


@pytest.fixture
def model() -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_path(SCENE)


def turned(roll: float, pitch: float, yaw: float) -> np.ndarray:
    """URDF's rotation: about the fixed x, then y, then z."""
    x = np.array([[1, 0, 0], [0, cos(roll), -sin(roll)], [0, sin(roll), cos(roll)]])
    y = np.array([[cos(pitch), 0, sin(pitch)], [0, 1, 0], [-sin(pitch), 0, cos(pitch)]])
    z = np.array([[cos(yaw), -sin(yaw), 0], [sin(yaw), cos(yaw), 0], [0, 0, 1]])
    return z @ y @ x


def published_tip(q: list[float]) -> np.ndarray:
    """Where the URDF has the tip; it looks along -y where the MJCF looks along x."""
    place, frame = np.zeros(3), turned(0, 0, pi / 2)
    for (xyz, rpy), angle in zip(ORIGINS, [*q[:4], q[4] + ROLL], strict=True):
        place = place + frame @ xyz
        frame = frame @ turned(*rpy) @ turned(0, 0, angle)
    return place + frame @ TIP


def cube_on_table(half: float, mass: float, x: float, y: float, yaw: float) -> mujoco.MjModel:
    spec = mujoco.MjSpec.from_file(SCENE)
    spec.delete(spec.keys[0])
    turn = [cos(yaw / 2), 0, 0, sin(yaw / 2)]
    body = spec.worldbody.add_body(name="cube", pos=[x, y, half], quat=turn)
    body.add_freejoint()
    box = mujoco.mjtGeom.mjGEOM_BOX
    body.add_geom(name="cube", type=box, size=[half] * 3, mass=mass, contype=1, conaffinity=3)
    return spec.compile()


def test_the_arm_has_the_published_masses_ranges_and_names(model: mujoco.MjModel):
    links = ["base", "shoulder", "upper_arm", "lower_arm", "wrist", "gripper", "moving_jaw_so101_v1"]
    masses = [0.147, 0.100006, 0.103, 0.104, 0.079, 0.087, 0.012]
    assert [model.body(i + 1).name for i in range(7)] == links
    assert model.body_mass[1:].tolist() == pytest.approx(masses)
    assert [model.joint(i).name for i in range(6)] == JOINTS
    assert [model.actuator(i).name for i in range(6)] == JOINTS
    low, high = model.jnt_range.T
    assert low.tolist() == pytest.approx([-1.91986, -1.74533, -1.69, -1.65806, -2.74385, -0.174533], abs=1e-5)
    assert high.tolist() == pytest.approx([1.91986, 1.74533, 1.69, 1.65806, 2.84121, 1.745329], abs=1e-5)
    assert model.actuator_ctrlrange == pytest.approx(model.jnt_range, abs=1e-9)
    assert model.actuator_forcerange[:, 1].tolist() == [2.94] * 5 + [1.47]
    assert (model.opt.iterations, model.opt.ls_iterations, model.opt.timestep) == (30, 20, 0.005)
    assert model.opt.cone == mujoco.mjtCone.mjCONE_PYRAMIDAL


@pytest.mark.parametrize(
    "q", [[0.0] * 5, [0.7, -0.6, 0.3, 1.5, 0.0], [-1.2, 0.9, -1.1, -0.4, 1.3]], ids=["zero", "over", "aside"]
)
def test_the_tip_is_where_the_published_kinematics_have_it(model: mujoco.MjModel, q: list[float]):
    data = mujoco.MjData(model)
    data.qpos[:5] = q
    mujoco.mj_kinematics(model, data)
    assert data.site("gripperframe").xpos == pytest.approx(published_tip(q), abs=1e-5)


def test_home_is_over_the_table_with_open_jaws_downward(model: mujoco.MjModel):
    data = mujoco.MjData(model)
    mujoco.mj_resetDataKeyframe(model, data, model.key("home").id)
    mujoco.mj_forward(model, data)
    assert (data.ctrl == data.qpos).all()
    x, y, z = data.site("gripper").xpos
    assert 0.2 < x < 0.25 and abs(y) < 0.01 and 0.12 < z < 0.16
    assert data.site("gripper").xmat[8] < -cos(pi / 6)
    assert data.ncon == 0
    jaws = data.geom("moving_pad").xpos - data.geom("fixed_pad").xpos
    across = data.site("gripper").xmat.reshape(3, 3)[:, 1]
    assert 0.05 < np.linalg.norm(jaws) < 0.08 and jaws @ across / np.linalg.norm(jaws) > 0.95


def test_the_arm_touches_the_table_and_never_itself(model: mujoco.MjModel):
    data, rng, touched = mujoco.MjData(model), np.random.default_rng(0), set()
    for _ in range(2000):
        data.qpos[:] = rng.uniform(*model.jnt_range.T)
        mujoco.mj_kinematics(model, data)
        mujoco.mj_collision(model, data)
        for contact in data.contact:
            first, second = (model.geom(i).name for i in contact.geom)
            assert first == "table"
            touched.add(second)
    links = {"lower_arm", "forearm", "wrist", "palm", "fixed_jaw", "moving_jaw"}
    assert touched >= links | {"fixed_pad", "moving_pad"}
    assert "base" not in touched  # it stands on the table


def test_the_servos_hold_the_arm_level_with_less_than_the_weakest_one_has(
    model: mujoco.MjModel,
):
    data = mujoco.MjData(model)
    data.qpos[:5] = data.ctrl[:5] = [0, pi / 2, -pi / 2, 0, 0]
    mujoco.mj_forward(model, data)
    reach = data.site("gripper").xpos
    assert reach[0] > 0.4 and reach[2] == pytest.approx(0.1, abs=0.03)
    for _ in range(600):
        mujoco.mj_step(model, data)
    assert np.abs(data.qvel).max() < 1e-3
    assert 0.3 < -data.actuator("shoulder_lift").force[0] < STALL
    assert np.abs(data.qpos[:5] - data.ctrl[:5]).max() < 0.06


@pytest.mark.parametrize(("half", "angle"), [(0.0125, 0.105), (0.015, 0.168)])
def test_the_jaws_lift_a_cube_from_the_table_and_hold_it(half: float, angle: float):
    above, around = [-0.305, -0.296, 0.367, 1.5, 0], [-0.305, -0.166, 0.683, 1.054, 0]
    model = cube_on_table(half, 0.03, 0.2, 0.05, 0.305)
    data = mujoco.MjData(model)
    data.qpos[:6] = [*above, 0.5]

    def seen() -> tuple[np.ndarray, np.ndarray]:
        hand, cube = data.site("gripper"), data.body("cube")
        turn = hand.xmat.reshape(3, 3).T
        return turn @ (cube.xpos - hand.xpos), turn @ cube.xmat.reshape(3, 3)

    def move(start: list[float], end: list[float], gripper: float, seconds: float) -> None:
        count = round(seconds / model.opt.timestep)
        for share in np.linspace(0, 1, count):
            data.ctrl[:] = [*((1 - share) * np.array(start) + share * np.array(end)), gripper]
            mujoco.mj_step(model, data)

    move(above, around, 0.5, 1.0)
    move(around, around, 0.5, 0.2)
    move(around, around, -0.17, 0.6)
    move(around, above, -0.17, 1.0)
    place, turn = seen()
    move(above, above, -0.17, 2.0)
    after, turned_to = seen()
    assert data.body("cube").xpos[2] > 0.06
    assert np.abs(after).max() < 0.007
    assert np.linalg.norm(after - place) < 0.001
    assert np.trace(turn.T @ turned_to) > 1 + 2 * cos(0.03)
    assert data.sensor("left_touch").data[0] == pytest.approx(data.sensor("right_touch").data[0], rel=0.05)
    assert 10 < data.sensor("left_touch").data[0] < 25
    assert data.joint("gripper").qpos[0] == pytest.approx(angle, abs=0.01)
