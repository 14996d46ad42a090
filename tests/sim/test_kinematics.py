"""Damped least squares: reaches what can be reached, within ranges, and says how far the rest is."""

import mujoco
import numpy as np
import pytest

from robokit.errors import ModelError
from robokit.sim.kinematics import chain, random_joints, reach, reachable

ARM = """<mujoco><worldbody><body name="base">
  <joint name="turn" axis="0 0 1" limited="false"/><geom size=".02"/>
  <body name="upper"><joint name="shoulder" axis="0 1 0" range="-90 90" limited="true"/><geom size=".02"/>
    <body name="lower" pos=".3 0 0"><joint name="elbow" axis="0 1 0" range="0 150" limited="true"/>
      <geom size=".02"/><site name="tip" pos=".2 0 0"/></body></body></body>
  <body name="cube" pos="1 1 0"><freejoint/><geom size=".02"/></body></worldbody></mujoco>"""


@pytest.fixture(scope="module")
def model() -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_string(ARM)


def place(model: mujoco.MjModel, qpos: np.ndarray) -> np.ndarray:
    data = mujoco.MjData(model)
    data.qpos[:] = qpos
    mujoco.mj_kinematics(model, data)
    return data.site("tip").xpos.copy()


def test_what_a_pose_reaches_is_reached_again(model: mujoco.MjModel):
    rng = np.random.default_rng(0)
    known = random_joints(model, chain(model, "tip"), 30, rng)
    points = np.array([place(model, qpos) for qpos in known])
    distances = reachable(model, "tip", points, rng)
    assert (distances < 1e-3).mean() > 0.9
    assert np.median(distances) < 1e-4


def test_the_answer_is_within_the_ranges_and_moves_only_the_chain(model: mujoco.MjModel):
    qpos, distance = reach(model, "tip", [[0.25, 0.1, 0.2], [2.0, 0.0, 0.0]], steps=300)
    low, high = model.jnt_range[1:3].T
    assert ((qpos[:, 1:3] >= low) & (qpos[:, 1:3] <= high)).all()
    np.testing.assert_array_equal(qpos[:, 3:], np.tile(model.qpos0[3:], (2, 1)))
    assert distance[0] < 1e-4
    assert distance[0] == pytest.approx(np.linalg.norm(place(model, qpos[0]) - [0.25, 0.1, 0.2]))
    assert distance[1] == pytest.approx(1.5, abs=0.01)  # the arm is .5 m long


def test_a_point_beyond_a_joints_range_is_not_reached(model: mujoco.MjModel):
    held = mujoco.MjModel.from_xml_string(ARM.replace('range="0 150"', 'range="0 10"'))
    near = [[0.15, 0.0, 0.15]]  # needs the elbow bent
    assert reachable(model, "tip", near, np.random.default_rng(0))[0] < 1e-3
    assert reachable(held, "tip", near, np.random.default_rng(0))[0] > 0.1


@pytest.mark.parametrize("degrees", [60.0, 120.0, 180.0])
def test_axes_are_reached_from_any_side_and_what_is_left_is_the_angle(degrees: float):
    """A wrist of three hinges: its site may be turned anyhow, in place."""
    hinges = "".join(f'<body><joint axis="{a}"/><geom size=".02"/>' for a in ("0 0 1", "0 1 0", "1 0 0"))
    xml = f'<mujoco><worldbody>{hinges}<site name="tip"/></body></body></body></worldbody></mujoco>'
    wrist, angle = mujoco.MjModel.from_xml_string(xml), np.radians(degrees)
    cosine, sine = np.cos(angle), np.sin(angle)
    axes = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    assert reach(wrist, "tip", np.zeros(3), axes=axes, steps=0)[1] == pytest.approx(angle)
    qpos, left = reach(wrist, "tip", np.zeros((2, 3)), axes=axes)
    data = mujoco.MjData(wrist)
    data.qpos[:] = qpos[1]
    mujoco.mj_kinematics(wrist, data)
    assert left.max() < 1e-4
    np.testing.assert_allclose(data.site("tip").xmat.reshape(3, 3), axes, atol=1e-3)


def test_the_chain_has_the_joints_between_site_and_world(model: mujoco.MjModel):
    assert [model.joint(j).name for j in chain(model, "tip")] == ["turn", "shoulder", "elbow"]


def test_an_unknown_site_is_named(model: mujoco.MjModel):
    with pytest.raises(ModelError, match="no site 'tp' in the model; did you mean 'tip'"):
        reach(model, "tp", [[0.0, 0.0, 0.0]])
