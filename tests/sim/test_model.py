"""Missing, malformed and unfit models raise an error with their name before anything runs."""

import warnings
from pathlib import Path
from typing import Any

import cart
import mujoco
import pytest

import robokit.sim.model
from robokit.errors import ModelError
from robokit.sim.model import compile_model, index, load, names, nominal
from robokit.task.task import packaged

BALL = '<body name="ball"><freejoint/><geom name="shell" size=".1"/></body>'


def mjcf(inside: str = BALL, more: str = "") -> str:
    return f"<mujoco>{more}<worldbody>{inside}</worldbody></mujoco>"


def write(folder: Path, text: str, name: str = "model.xml") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


def test_a_good_model_loads_from_a_file_a_string_and_a_spec(tmp_path: Path):
    path = write(tmp_path, mjcf())
    for source in (path, str(path), mujoco.MjSpec.from_string(mjcf())):
        assert compile_model(load(source)).nq == 7


def test_loading_a_spec_leaves_it_as_it_was():
    spec = mujoco.MjSpec.from_string(mjcf())
    load(spec).option.timestep = 0.05
    assert spec.compile().opt.timestep == 0.002


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not XML"),
        ("<mujoco><worldbody>", "is not XML"),
        ("\x00\x01", "is not XML"),
        ("<mojuco/>", "is not valid MJCF"),
        ("<mujoco><nonsense/></mujoco>", "is not valid MJCF"),
        (mjcf('<geom size="a"/>'), "is not valid MJCF"),
        (mjcf('<geom size=".1" mass="NaN"/>'), "<geom mass='NaN'> is not a number"),
        (mjcf('<include file="../other.xml"/>'), "leaves the model's folder"),
        (mjcf('<include file="/etc/hostname"/>'), "leaves the model's folder"),
        (mjcf(more='<asset><model name="m" file="../other.xml"/></asset>'), "leaves the model's folder"),
        (mjcf('<include file="model.xml"/>'), "includes itself"),
        (mjcf('<include file="absent.xml"/>'), "is not valid MJCF"),
        (mjcf(f'<replicate count="1000"><replicate count="1000">{BALL}</replicate></replicate>'), "1000000"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, text: str, words: str):
    write(tmp_path, "<mujoco/>", "other.xml")
    with pytest.raises(ModelError) as error:
        load(write(tmp_path / "folder", text))
    assert words in str(error.value)
    assert "model.xml" in str(error.value)


def test_what_is_no_model_is_refused(tmp_path: Path):
    with pytest.raises(ModelError, match=r"no model file .*absent\.xml"):
        load(tmp_path / "absent.xml")
    with pytest.raises(ModelError, match="no model file"):
        load(tmp_path)
    source: Any = None
    with pytest.raises(ModelError, match="got NoneType"):
        load(source)


def test_includes_inside_the_folder_are_followed(tmp_path: Path):
    write(tmp_path / "parts", f"<mujocoinclude>{BALL}</mujocoinclude>", "ball.xml")
    path = write(tmp_path, mjcf('<include file="parts/ball.xml"/>'))
    assert names(compile_model(load(path)), "geom") == ["shell"]
    write(tmp_path / "parts", '<mujocoinclude><include file="/etc/hostname"/></mujocoinclude>', "ball.xml")
    with pytest.raises(ModelError, match=r"ball\.xml: .*leaves the model's folder"):
        load(path)


def test_as_many_copies_as_are_allowed_are_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(robokit.sim.model, "MAX_REPLICAS", 6)
    copies = mjcf('<replicate count="2"><replicate count="3"><site/></replicate></replicate>')
    assert compile_model(load(write(tmp_path, copies))).nsite == 6
    with pytest.raises(ModelError, match="8 copies; at most 6"):
        load(write(tmp_path, copies.replace("3", "4")))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('<body name="b" pos="nan 0 0"><freejoint/><geom size=".1"/></body>', "body_pos of b"),
        ('<body name="b" pos="0 inf 0"><freejoint/><geom size=".1"/></body>', "body_pos of b"),
        ('<body name="b"><freejoint/><geom size=".1" mass="inf"/></body>', "body_mass of b"),
        (
            '<body name="b"><freejoint/><inertial pos="0 0 0" mass="1" diaginertia="inf inf inf"/></body>',
            "body_inertia of b",
        ),
        ('<geom name="g" size=".1" pos="nan 0 0"/>', "geom_pos of g"),
        ('<geom size=".1" pos="nan 0 0"/>', "geom_pos of number 0"),
        ('<site name="s" pos="inf 0 0"/>', "site_pos of s"),
    ],
)
@pytest.mark.filterwarnings("ignore:XML contains:UserWarning")
def test_numbers_that_are_not_finite_are_refused_by_name(body: str, words: str):
    with pytest.raises(ModelError) as error:
        compile_model(load(mujoco.MjSpec.from_string(mjcf(body))))
    assert words in str(error.value)
    assert "is not finite" in str(error.value)


@pytest.mark.parametrize("timestep", [0.0, -0.01, 0.2, float("nan"), float("inf")])
def test_an_impossible_timestep_is_refused(timestep: float):
    spec = cart.spec()
    spec.option.timestep = timestep
    with pytest.raises(ModelError, match="timestep must be in"):
        compile_model(spec)


def test_what_mujoco_refuses_to_compile_is_refused():
    spec = cart.spec()
    spec.add_sensor(name="lost", type=mujoco.mjtSensor.mjSENS_GYRO, objname="nowhere")
    with pytest.raises(ModelError, match="does not compile"):
        compile_model(spec)


def test_a_deprecated_attribute_says_nothing_and_other_warnings_are_heard():
    cheetah = packaged("gymnasium", "envs/mujoco/assets/half_cheetah.xml")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sum(compile_model(load(cheetah)).body_mass) == pytest.approx(14.0)
        with pytest.raises(UserWarning, match="deprecated"):
            load(cheetah).compile()


def test_names_come_in_mujocos_order_and_nameless_ones_are_empty():
    spec = cart.spec()
    spec.worldbody.add_geom(size=[0.1, 0, 0])
    model = compile_model(spec)
    assert names(model, "joint") == ["slide", "hinge", "free"]
    assert names(model, "actuator") == ["push", "turn"]
    assert names(model, "geom") == ["floor", "", "box", "rod", "ball"]
    assert index(model, "geom", "rod") == 3


def test_an_unknown_name_is_answered_with_all_there_is():
    with pytest.raises(ModelError, match=r"no actuator 'push_'.*did you mean 'push'.*\['push', 'turn'\]"):
        index(compile_model(cart.spec()), "actuator", "push_")


def test_nominal_reads_model_and_option_fields():
    model = compile_model(cart.spec())
    assert nominal(model, "body_mass").tolist() == pytest.approx([0.0, 1.0, 0.2, 0.1])
    assert nominal(model, "opt.gravity").tolist() == [0.0, 0.0, -9.81]
    assert nominal(model, "opt.timestep").shape == ()
    with pytest.raises(ModelError, match="no model field 'geom'"):
        nominal(model, "geom")


def test_newton_never_meets_the_sparse_jacobian_that_mujoco_4_0_0_gets_wrong():
    links = "<body pos='0 0 .1'><joint/><geom size='.01'/>" * 61 + "</body>" * 61
    big = compile_model(mujoco.MjSpec.from_string(f"<mujoco><worldbody>{links}</worldbody></mujoco>"))
    assert big.nv == 61 and big.opt.jacobian == mujoco.mjtJacobian.mjJAC_DENSE
