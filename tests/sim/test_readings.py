"""Names, units and frames of a model, compared with MuJoCo's definitions."""

import hashlib
import math
from pathlib import Path

import mujoco
import pytest
import torch

from robokit.sim.base import Sim
from robokit.sim.engines import make_sim
from robokit.sim.facts.readings import Channel, actuators, channels, model_hashes, model_name, readings

MODEL = """
<mujoco model="bird">
  <worldbody>
    <body name="trunk" pos="0 0 1">
      <freejoint name="root"/>
      <geom size=".1"/>
      <site name="imu"/>
      <body name="neck">
        <joint name="neck" type="ball"/>
        <geom size=".05" pos=".1 0 0"/>
        <body name="beak" pos=".2 0 0">
          <joint name="slide" type="slide"/>
          <geom size=".02" pos=".1 0 0"/>
          <body name="tip" pos=".1 0 0"><joint name="hinge"/><geom size=".02" pos=".1 0 0"/></body>
        </body>
      </body>
    </body>
  </worldbody>
  <tendon><fixed name="wire"><joint joint="hinge" coef="1"/></fixed></tendon>
  <actuator>
    <motor joint="hinge"/>
    <motor name="push" joint="slide" gear="2.5"/>
    <position name="servo" joint="hinge" kp="20" kv="0.0004"/>
    <position name="lift" joint="slide" kp="30"/>
    <velocity name="spin" joint="hinge" kv="3"/>
    <motor name="pull" tendon="wire"/>
    <position name="geared" joint="hinge" kp="20" gear="2"/>
  </actuator>
  <sensor>
    <gyro name="gyro" site="imu"/>
    <accelerometer name="acc" site="imu"/>
    <framepos name="above" objtype="site" objname="imu"/>
    <framelinvel name="beside" objtype="body" objname="beak" reftype="site" refname="imu"/>
    <jointpos name="q" joint="slide"/>
    <jointvel name="dq" joint="hinge"/>
    <actuatorfrc name="torque" actuator="servo"/>
    <actuatorpos name="length" actuator="geared"/>
    <actuatorfrc name="tension" actuator="pull"/>
    <framequat name="attitude" objtype="site" objname="imu"/>
  </sensor>
</mujoco>
"""


def bird(num_envs: int = 2) -> Sim:
    return make_sim("mujoco", mujoco.MjSpec.from_string(MODEL), num_envs, {})


def test_every_reading_is_named_with_the_unit_and_frame_of_its_sensor_or_joint() -> None:
    known = {c.source: (c.unit, c.frame) for c in channels(bird())}
    assert known["gyro[2]"] == ("rad/s", "site imu")
    assert known["acc[0]"] == ("m/s^2", "site imu")
    assert known["above[1]"] == ("m", "world")
    assert known["beside[1]"] == ("m/s", "site imu")
    assert known["attitude[3]"] == ("1, wxyz", "world")
    assert known["q"] == known["slide"] == ("m", "joint axis")
    assert known["dq"] == known["hinge velocity"] == ("rad/s", "joint axis")
    assert known["torque"] == ("N m", "joint axis")
    assert known["length"][0] is None  # 2 q, of no unit that a robot has
    assert known["tension"][0] is None
    assert known["root z"] == ("m", "world")
    assert known["root qw"] == ("1, wxyz", "world")
    assert known["root vx"] == ("m/s", "world")
    assert known["root wx"] == ("rad/s", "body trunk")
    assert known["neck qw"] == ("1, wxyz", None)
    assert known["neck wz"] == ("rad/s", "body neck")


def test_readings_are_the_columns_that_channels_name() -> None:
    sim = bird()
    sim.reset(torch.ones(2, dtype=torch.bool), {"qvel": torch.arange(22.0).view(2, 11)})
    names, values = [c.source for c in channels(sim)], readings(sim)
    assert values.shape == (2, len(names))
    for source, expected in {
        "gyro[1]": sim.sensor("gyro")[:, 1],
        "q": sim.sensor("q")[:, 0],
        "root z": sim.qpos[:, 2],
        "slide": sim.joint("slide").qpos[:, 0],
        "root wy": sim.qvel[:, 4],
        "hinge velocity": sim.joint("hinge").qvel[:, 0],
    }.items():
        assert torch.equal(values[:, names.index(source)], expected.float()), source


def test_readings_are_a_copy() -> None:
    sim = bird()
    before = readings(sim)
    sim.qpos.add_(1.0)
    assert not torch.equal(before, readings(sim))


def test_actuators_say_what_ctrl_1_does() -> None:
    told = [
        {key: value for key, value in actuator.items() if key not in ("joint", "joint_range", "force_range")}
        for actuator in actuators(bird())
    ]
    assert told == [
        {"name": "hinge", "unit": "N m"},  # without a name of its own
        {"name": "push", "unit": "2.5 N"},
        {"name": "servo", "unit": "rad", "kp": 20.0, "kd": 0.0004},
        {"name": "lift", "unit": "m", "kp": 30.0, "kd": 0.0},
        {"name": "spin", "unit": "rad/s"},
        {"name": "pull", "unit": None},
        {"name": "geared", "unit": None, "kp": 20.0, "kd": 0.0},
    ]


def test_an_actuator_is_no_servo_or_motor_where_ctrl_is_integrated_or_the_force_has_an_offset() -> None:
    mjcf = """
    <mujoco>
      <worldbody><body><joint name="hip"/><geom size=".1"/></body></worldbody>
      <actuator>
        <intvelocity joint="hip" kp="40" actrange="-1 1"/>
        <general joint="hip" dyntype="integrator" gainprm="5" actlimited="true" actrange="-1 1"/>
        <general joint="hip" biastype="affine" gainprm="7" biasprm="1 -7 0"/>
        <general joint="hip" dyntype="filterexact" dynprm=".1" gainprm="5"/>
        <position name="hip" joint="hip" kp="7" timeconst=".1"/>
      </actuator>
    </mujoco>"""
    facts = actuators(make_sim("mujoco", mujoco.MjSpec.from_string(mjcf), 1, {}))
    assert [(a["unit"], a.get("kp")) for a in facts] == [
        ("rad/s", None),
        (None, None),
        (None, None),
        ("5.0 N m", None),
        ("rad", 7.0),
    ]
    # two cannot be told apart by their joint's name
    assert [a["name"] for a in facts] == [*(f"actuator {i}" for i in range(4)), "hip"]


def test_actuators_say_which_joint_they_drive_and_what_limits_it() -> None:
    mjcf = """
    <mujoco>
      <worldbody>
        <body>
          <joint name="knee" range="-90 45" limited="true" actuatorfrcrange="-9 5" actuatorfrclimited="true"/>
          <geom size=".1"/>
        </body>
      </worldbody>
      <tendon><fixed name="wire"><joint joint="knee" coef="1"/></fixed></tendon>
      <actuator>
        <position name="servo" joint="knee" kp="2" forcerange="-7 8"/>
        <motor name="back" joint="knee" gear="-2" forcerange="-3 1"/>
        <motor name="pull" tendon="wire" forcerange="-3 1"/>
      </actuator>
    </mujoco>"""
    facts = actuators(make_sim("mujoco", mujoco.MjSpec.from_string(mjcf), 1, {}))
    limits = [(a["joint"], a["joint_range"], a["force_range"]) for a in facts]
    bend = [-math.pi / 2, math.pi / 4]
    assert limits == [
        ("knee", bend, [-7.0, 5.0]),  # the narrower of the actuator's and the joint's own
        ("knee", bend, [-2.0, 5.0]),  # -2 * [-3, 1] = [-2, 6] at the joint
        (None, None, None),
    ]


def test_each_control_is_named_after_its_actuator_and_input() -> None:
    mjcf = """
    <mujoco>
      <worldbody>
        <body>
          <joint name="knee" range="-90 45" limited="true" actuatorfrcrange="-9 5"/><geom size=".1"/>
          <body><joint name="ball" type="ball"/><geom size=".1"/></body>
        </body>
      </worldbody>
      <actuator>
        <dcmotor name="brake" joint="knee" motorconst=".5" resistance="1" input="none"/>
        <pid name="servo" joint="knee" kp="20" kv="3" input="pos vel ff"/>
        <position name="plain" joint="knee" kp="7" kv="2"/>
        <pid name="one" joint="knee" kp="4" kv="1" input="pos" gear="2"/>
        <orientation joint="ball" kp="1" input="quat"/>
        <dcmotor name="volt" joint="knee" motorconst=".5" resistance="1"/>
        <motor name="servo velocity" joint="knee" gear="3"/>
        <motor name="after" joint="knee" gear="5"/>
      </actuator>
      <sensor>
        <actuatorfrc name="geared" actuator="after"/>
        <actuatorfrc name="straight" actuator="plain"/>
      </sensor>
    </mujoco>"""
    sim = make_sim("mujoco", mujoco.MjSpec.from_string(mjcf), 1, {})
    assert (sim.model.nu, sim.model.nactuator) == (12, 8)
    told = [
        (a["name"], a.get("input"), a["unit"], a["joint"], a.get("kp"), a.get("kd")) for a in actuators(sim)
    ]
    assert told == [
        ("servo position", "position", "rad", "knee", 20.0, 3.0),
        ("servo velocity (control 1)", "velocity", "rad/s", "knee", None, 3.0),
        ("servo feedforward", "feedforward", "N m", "knee", None, None),
        ("plain", None, "rad", "knee", 7.0, 2.0),
        ("one", None, None, "knee", 4.0, 1.0),
        *((f"ball q{part}", f"q{part}", "1", "ball", None, None) for part in "wxyz"),
        ("volt", None, "V", "knee", None, None),
        ("servo velocity (control 10)", None, "3.0 N m", "knee", None, None),
        ("after", None, "5.0 N m", "knee", None, None),
    ]
    assert [c.unit for c in channels(sim) if c.source in ("geared", "straight")] == [None, "N m"]


def test_a_servos_filter_and_delay_are_told_where_there_are_any() -> None:
    mjcf = """
    <mujoco>
      <worldbody><body><joint name="hip"/><geom size=".1"/></body></worldbody>
      <actuator>
        <position joint="hip" timeconst=".05"/>
        <position joint="hip" delay=".02" nsample="6"/>
        <general joint="hip" dyntype="filter" dynprm=".3" delay=".01" nsample="9"/>
        <motor joint="hip"/>
        <dcmotor joint="hip" motorconst=".5" resistance="2" inductance=".08"/>
        <muscle joint="hip" lengthrange="0 1"/>
      </actuator>
    </mujoco>"""
    facts = actuators(make_sim("mujoco", mujoco.MjSpec.from_string(mjcf), 1, {}))
    told = [{key: a[key] for key in ("time_constant", "delay") if key in a} for a in facts]
    assert told == [
        {"time_constant": 0.05},
        {"delay": 0.02},
        {"time_constant": 0.3, "delay": 0.01},
        {},
        {"time_constant": 0.04},
        {},
    ]


@pytest.mark.parametrize(
    ("actuator", "gains"),
    [
        ('<pid joint="hip" kp="20" kv="3" input="pos"/>', (20.0, 3.0)),
        ('<pid joint="hip" kp="20" kv="3" ki="1" input="pos"/>', (None, None)),
        ('<pid joint="hip" kp="20" kv="3" slewmax="1" input="pos"/>', (None, None)),
        ('<dcmotor joint="hip" motorconst=".5" resistance="2" input="pos" controller="7 0 2"/>', (7.0, 2.0)),
        (
            '<dcmotor joint="hip" motorconst=".5" resistance="2" input="pos" controller="7 1 2"/>',
            (None, None),
        ),
    ],
)
def test_gains_are_told_where_they_are_the_whole_law(actuator: str, gains: tuple[float | None, ...]) -> None:
    hip = '<worldbody><body><joint name="hip"/><geom size=".1"/></body></worldbody>'
    spec = mujoco.MjSpec.from_string(f"<mujoco>{hip}<actuator>{actuator}</actuator></mujoco>")
    (fact,) = actuators(make_sim("mujoco", spec, 1, {}))
    assert (fact.get("kp"), fact.get("kd")) == gains


def test_the_model_is_known_by_its_name_and_the_hashes_of_all_its_files(tmp_path: Path) -> None:
    assert model_name(bird()) == "bird"
    files = {
        "scene.xml": '<mujoco><include file="robot.xml"/></mujoco>',
        "robot.xml": '<mujoco><include file="parts/arm.xml"/></mujoco>',
        "parts/arm.xml": '<mujoco><asset><model name="hand" file="parts/hand.xml"/></asset></mujoco>',
        "parts/hand.xml": '<mujoco><worldbody><body name="palm"/></worldbody></mujoco>',
    }
    (tmp_path / "parts").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    expected = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()}
    assert model_hashes(tmp_path / "scene.xml") == expected
    (tmp_path / "robot").mkdir()
    outside = '<!-- -- --><mujoco><include file="../robot.xml"/></mujoco>'
    (tmp_path / "robot/scene.xml").write_text(outside)
    assert list(model_hashes(tmp_path / "robot/scene.xml")) == [
        "scene.xml",
        "../robot.xml",
        "../parts/arm.xml",
    ]
    assert list(model_hashes(mujoco.MjSpec.from_string(MODEL))) == ["MjSpec"]


def test_a_channel_that_the_model_does_not_explain_has_no_unit() -> None:
    spec = mujoco.MjSpec.from_string('<mujoco><sensor><user name="u" dim="1"/></sensor></mujoco>')
    assert channels(make_sim("mujoco", spec, 1, {})) == [Channel("u", None, None)]
