"""Missing, malformed and unfit models raise an error with their name before anything runs."""

import os
import warnings
import zipfile
from pathlib import Path
from typing import Any

import cart
import mujoco
import pytest

import robokit.sim.mjcf.files
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
        ("", "is not valid MJCF"),
        ("<mujoco><worldbody>", "is not valid MJCF"),
        ("\x00\x01", "is not valid MJCF"),
        ("<mojuco/>", "is not valid MJCF"),
        ("<mujoco><nonsense/></mujoco>", "is not valid MJCF"),
        (mjcf('<geom size="a"/>'), "is not valid MJCF"),
        (mjcf('<geom size=".1" mass="NaN"/>'), "<geom mass='NaN'> is not a number"),
        (mjcf('<geom size=".1" mass="&#110;an(1)"/>'), "mass='nan(1)'> is not a number"),
        (mjcf('<!-- -- --><geom size=".1"mass="-nan"/>'), "mass='-nan'> is not a number"),
        (mjcf('<include file="../loop.xml"/>'), "loop.xml includes itself"),
        (mjcf(more='<asset><model name="m" file="model.xml"/></asset>'), "includes itself"),  # MuJoCo crashes
        (mjcf(more='<asset><model name="m" file="../loop.xml"/></asset>'), "loop.xml includes itself"),
        (mjcf('<include file="model.xml"/>'), "includes itself"),
        (mjcf('<include file="absent.xml"/>'), "absent.xml"),
        (mjcf('<include file="/absent/part.xml"/>'), "/absent/part.xml"),
        (mjcf(f'<replicate count="1000"><replicate count="1000">{BALL}</replicate></replicate>'), "1000000"),
        (mjcf(f'<replicate count=" +6&#48;00 "angle="1">{BALL}</replicate>'), "6000 copies"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, text: str, words: str):
    write(tmp_path, '<mujoco><include file="loop.xml"/></mujoco>', "loop.xml")
    with pytest.raises(ModelError) as error:
        load(write(tmp_path / "folder", text))
    assert words in str(error.value)
    assert ".xml" in str(error.value)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (mjcf(), "got XML: mujoco.MjSpec.from_string(text)"),
        (mujoco.MjModel.from_xml_string(mjcf()), "got MjModel, which cannot be edited: give its file"),
        (None, "got NoneType"),
    ],
)
def test_what_is_no_model_is_told_what_to_give(source: Any, words: str):
    with pytest.raises(ModelError) as error:
        load(source)
    assert str(error.value) == f"a model is an MJCF file or an MjSpec, {words}"


def test_utf_16_is_named(tmp_path: Path):
    path = tmp_path / "model.xml"
    path.write_bytes(mjcf().encode("utf-16"))
    with pytest.raises(ModelError, match="it is UTF-16, which MuJoCo does not read: save it as UTF-8"):
        load(path)


def test_a_name_path_or_text_may_be_nan(tmp_path: Path):
    text = """<mujoco><compiler meshdir="nan"/><custom><text name="about" data="nan is no number"/></custom>
      <worldbody><body name="nan"><joint name="nan"/><geom size=".1"/><site name="nan"/></body></worldbody>
      <contact><exclude body1="nan" body2="world"/></contact>
      <tendon><fixed name="nan"><joint joint="nan" coef="1"/></fixed></tendon>
      <sensor><tendonpos tendon="nan"/><framepos objtype="site" objname="nan"/></sensor></mujoco>"""
    assert compile_model(load(write(tmp_path, text))).nsensor == 2


LENIENT = {  # MuJoCo reads all of these
    "dashes in a comment": b"<!-- a -- b --->@",
    "a space before the declaration": b'\n <?xml version="1.0"?>@',
    "a byte order mark": b'\xef\xbb\xbf<?xml version="1.0"?>@',
    "an unknown encoding": b'<?xml version="1.0" encoding="martian"?>@',
    "Latin-1": b"<!-- gr\xf6\xdfe -->@",
    "a document type": b'<!DOCTYPE mujoco [<!ENTITY a "b">]>@',
    "text before the root": b"text & @",
    "several roots": b'@<mujoco><include file="absent.xml"/><geom mass="nan"/></mujoco>',
    "a zero byte": b"@\0<junk mass='nan'",
}


@pytest.mark.parametrize("around", LENIENT.values(), ids=LENIENT.keys())
@pytest.mark.parametrize(
    "body",
    [
        b"<body name='b'pos=\"0 0 1\"><geom\vsize = '.1'/></body>",
        b'<body name="a&nbsp;b & c<d&#xZZ;\x01"><geom size=".1"/>< /body>',
        b"<body name='gr\xf6\xdfe' ><![CDATA[<a mass='nan'>]]><!- x ><geom size='.1'/></body\n>",
    ],
    ids=["unspaced", "entities", "Latin-1"],
)
def test_what_mujoco_reads_loads_and_its_faults_are_seen(tmp_path: Path, around: bytes, body: bytes):
    path = tmp_path / "model.xml"
    path.write_bytes(around.replace(b"@", b"<mujoco><worldbody>" + body + b"</worldbody></mujoco>"))
    model = compile_model(load(path))
    assert names(model, "body")[1] in ("b", "a&nbsp;b & c<d&#xZZ;\x01", "größe")
    path.write_bytes(
        path.read_bytes().replace(b"<geom\v", b"<geom ").replace(b"<geom s", b"<geom rgba='nan 0 0 1's", 1)
    )
    with pytest.raises(ModelError, match="rgba='nan 0 0 1'> is not a number"):
        load(path)


@pytest.mark.parametrize("name", ["model.mjcf", "MODEL.XML", "model", "a:b c\n.xml", "größe🤖.xml"])
def test_the_files_name_does_not_matter(tmp_path: Path, name: str):
    write(tmp_path, f"<mujocoinclude>{BALL}</mujocoinclude>", "ball.xml")
    path = write(tmp_path, mjcf('<include file="ball.xml"/>'), name)
    assert compile_model(load(path)).nbody == 2


def test_an_archive_loads_and_its_faults_are_seen(tmp_path: Path):
    path = tmp_path / "model.mjz"
    for text in (mjcf(), mjcf('<geom size=".1" mass="nan"/>')):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("model.xml", text)
        if "nan" not in text:
            assert compile_model(load(path)).nbody == 2
    with pytest.raises(ModelError, match=r"model\.mjz/model\.xml: <geom mass='nan'>"):
        load(path)


def test_a_compiled_model_is_refused_by_name(tmp_path: Path):
    mujoco.mj_saveModel(compile_model(cart.spec()), str(tmp_path / "model.mjb"), None)
    with pytest.raises(ModelError, match=r"model\.mjb is no MJCF or URDF"):
        load(tmp_path / "model.mjb")


def test_a_path_that_is_not_utf_8_is_refused_unless_it_is_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/gr\xf6\xdfe"))
    try:
        path = write(folder, mjcf())
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    with pytest.raises(ModelError, match=r"rename .*gr\\xf6\\xdfe/model\.xml") as error:
        load(path)
    str(error.value).encode()
    monkeypatch.chdir(folder)
    assert compile_model(load(path)).nbody == 2


def test_what_is_no_model_is_refused(tmp_path: Path):
    with pytest.raises(ModelError, match=r"no model file .*absent\.xml"):
        load(tmp_path / "absent.xml")
    with pytest.raises(ModelError, match="no model file"):
        load(tmp_path)
    with pytest.raises(ModelError, match=r"^no model file [^\n]*a\\nb\.xml$"):
        load(tmp_path / "a\nb.xml")
    with pytest.raises(ModelError, match="no model file"):
        load(tmp_path / ("long" * 200))
    source: Any = None
    with pytest.raises(ModelError, match="got NoneType"):
        load(source)


@pytest.mark.parametrize(
    "place", ["parts/ball.xml", "../parts/ball.xml", "{}/parts/ball.xml", "link.xml", r"..\parts\ball.xml"]
)
def test_what_is_included_and_attached_may_stand_anywhere(tmp_path: Path, place: str):
    folder = tmp_path / "robot"
    place = place.format(tmp_path)  # an absolute one
    shell = f"<mujocoinclude>{BALL}</mujocoinclude>"
    for parts in (tmp_path / "parts", folder / "parts"):
        parts.mkdir(parents=True)
        write(parts, shell, "shell.xml")
        write(parts, '<mujoco><worldbody><include file="shell.xml"/></worldbody></mujoco>', "ball.xml")
    (folder / "link.xml").symlink_to("../parts/ball.xml")
    write(folder, shell, "shell.xml")
    attach = '<frame><attach model="m" body="ball" prefix="a_"/></frame>'
    attached = mjcf(attach, f'<asset><model name="m" file="{place}"/></asset>')
    assert names(compile_model(load(write(folder, attached))), "geom") == ["a_shell"]
    included = f'<mujoco><include file="{place}"/></mujoco>'
    assert names(compile_model(load(write(folder, included))), "geom") == ["shell"]
    # the faults are found there, too
    write(folder, mjcf('<body name="ball" pos="nan&#0; 0 0"/>'), place.replace("\\", "/"))
    for text in (attached, included):
        with pytest.raises(ModelError, match="<body pos='nan'> is not a number"):
            load(write(folder, text))


def test_a_circle_through_links_is_named(tmp_path: Path):
    write(tmp_path, '<mujocoinclude><include file="b.xml"/></mujocoinclude>', "a.xml")
    (tmp_path / "b.xml").symlink_to("a.xml")
    with pytest.raises(ModelError, match=r"b\.xml includes itself"):
        load(write(tmp_path, '<mujoco><include file="a.xml"/></mujoco>'))


def test_copies_of_an_attached_model_count(tmp_path: Path):
    write(tmp_path, mjcf(f'<replicate count="100">{BALL}</replicate>'), "many.xml")
    inside = '<replicate count="100"><attach model="m" body="ball" prefix="a_"/></replicate>'
    more = '<asset><model name="m" file="many.xml"/></asset>'
    with pytest.raises(ModelError, match="10000 copies"):
        load(write(tmp_path, mjcf(inside, more)))


def test_as_many_copies_as_are_allowed_are_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(robokit.sim.mjcf.files, "MAX_REPLICAS", 6)
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


def test_a_fault_found_when_compiling_names_the_file(tmp_path: Path):
    for text, words in (
        (mjcf(more='<asset><mesh name="m" file="absent.stl"/></asset>'), "does not compile"),
        (mjcf(more='<option timestep="1"/>'), "timestep must be in"),
    ):
        with pytest.raises(ModelError, match=rf"model\.xml: .*{words}[^\n]*$"):
            compile_model(load(write(tmp_path, text)))


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
