"""What Warp refuses, or would leave out in silence, is named before anything runs; so is a missing GPU."""

import mujoco
import pytest
import torch

from robokit.errors import ModelError, OptionError

pytest.importorskip("mujoco_warp", reason="needs robokit[gpu]")
from robokit.sim.warp.support import check_model, check_unmoved, cuda_fault, warp_device

pytestmark = pytest.mark.slow

Version = tuple[int, int] | None

ARM = """
<mujoco>
  <option/>
  <worldbody><body><joint name="hinge"/><geom name="link" size="0.1"/></body></worldbody>
  <actuator><general name="motor" joint="hinge" group="1"/></actuator>
</mujoco>
"""
PID = """
<mujoco>
  <extension><plugin plugin="mujoco.pid"/></extension>
  <worldbody><body><joint name="hinge"/><geom size="0.1"/></body></worldbody>
  <actuator><plugin name="servo" joint="hinge" plugin="mujoco.pid"/></actuator>
</mujoco>
"""
BOLT = """
<mujoco>
  <extension><plugin plugin="mujoco.sdf.bolt"><instance name="bolt"/></plugin></extension>
  <asset><mesh name="bolt"><plugin instance="bolt"/></mesh></asset>
  <worldbody>
    <body><joint/><geom name="screw" type="sdf" mesh="bolt"><plugin instance="bolt"/></geom></body>
  </worldbody>
</mujoco>
"""


def arm(old: str = "", new: str = "") -> mujoco.MjModel:
    assert old in ARM
    return mujoco.MjModel.from_xml_string(ARM.replace(old, new) if old else ARM)


def test_a_plain_model_fits():
    check_model(arm())


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("<option/>", '<option solver="PGS"/>', 'PGS solver: put <option solver="Newton"/> into the model'),
        ("<option/>", '<option actuatorgroupdisable="1"/>', "actuatorgroupdisable>: all actuators would act"),
        ("<option/>", '<option><flag midphase="disable"/></option>', "<flag midphase>: take it out"),
        ("<option/>", '<option><flag override="enable"/></option>', "<flag override>: take it out"),
        ('group="1"', 'dyntype="user" actdim="1"', "dyntype user of actuator motor: nothing would compute"),
        ('group="1"', 'gaintype="user"', "gaintype user of actuator motor"),
        (
            "<actuator>",
            '<actuator><dcmotor joint="hinge" motorconst="1" resistance="1" input="none"/>'
            '<pid name="p" joint="hinge"/>',
            "gaintype pid of actuator p",
        ),
    ],
)
def test_what_warp_lacks_is_named_with_what_to_change(old: str, new: str, words: str):
    with pytest.raises(ModelError, match="or take sim='mujoco'") as found:
        check_model(arm(old, new))
    assert words in str(found.value)


@pytest.mark.parametrize(("xml", "owner"), [(PID, "actuator servo"), (BOLT, "geom screw")])
def test_a_plugin_is_named_with_what_has_it(xml: str, owner: str):
    with pytest.raises(ModelError, match=f"plugins, as {owner} has one: take it out"):
        check_model(mujoco.MjModel.from_xml_string(xml))


def test_a_callback_that_warp_would_never_call_is_named():
    model = arm()
    mujoco.set_mjcb_control(lambda model, data: None)
    try:
        with pytest.raises(ModelError, match="set_mjcb_control has set one: set None"):
            check_model(model)
    finally:
        mujoco.set_mjcb_control(None)
    check_model(model)


@pytest.mark.parametrize(
    ("driver", "toolkit", "words"),
    [
        ((12, 8), None, "warp-lang has no CUDA: install"),
        (None, (12, 9), "Warp finds no NVIDIA driver"),
        ((11, 8), (12, 9), "runs CUDA 11.8, warp-lang is built with CUDA 12.9 and needs 12.0"),
        ((12, 2), (12, 9), None),
        ((13, 0), (12, 9), None),
    ],
)
def test_why_warp_cannot_use_cuda(driver: Version, toolkit: Version, words: str | None):
    found = cuda_fault(driver, toolkit)
    assert found is None if words is None else found is not None and words in found


@pytest.mark.parametrize("name", ["tpu", "mps", "cuda:9999"])
def test_a_device_that_is_not_there_is_named(name: str):
    with pytest.raises(OptionError, match=name):
        warp_device(name)


def test_without_a_gpu_the_error_says_what_runs_anywhere():
    with pytest.raises(OptionError, match="device='cpu' run anywhere"):
        warp_device("cuda:9999")
    assert warp_device("cpu").type == "cpu"


ROOM = """
<mujoco>
  <worldbody>
    <geom name="floor" type="plane" size="1 1 1"/>
    <body name="shelf"><body name="board"><geom name="plank" size="0.1"/></body></body>
    <body name="mark"><site name="goal"/></body>
    <body name="cart" mocap="true"><geom name="top" size="0.1"/></body>
    <body name="ball"><freejoint/><geom name="shell" size="0.1"/></body>
  </worldbody>
</mujoco>
"""


@pytest.mark.parametrize(
    ("field", "row", "words"),
    [
        ("geom_pos", 0, "geom_pos of geom floor is fixed to the world"),
        ("geom_quat", 1, "geom_quat of geom plank"),
        ("body_pos", 1, "body_pos of body shelf is fixed to the world"),
        ("body_pos", 2, "body_pos of body board"),
        ("geom_pos", 2, None),  # on a mocap body
        ("geom_pos", 3, None),
        ("body_pos", 3, None),  # only a site hangs on it, and that follows
        ("body_quat", 5, None),
    ],
)
def test_a_geom_that_warp_would_not_move_is_named(field: str, row: int, words: str | None):
    model = mujoco.MjModel.from_xml_string(ROOM)
    value = torch.tensor(getattr(model, field), dtype=torch.float32).repeat(2, 1, 1)
    check_unmoved(model, field, value)
    value[1, row, 0] += 0.1
    if words is None:
        check_unmoved(model, field, value)
    else:
        with pytest.raises(ModelError, match=words):
            check_unmoved(model, field, value)
