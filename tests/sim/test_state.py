"""All that MuJoCo keeps between steps is saved, or the model is refused; a task reads it by name."""

import mujoco
import pytest
import torch

from robokit.errors import ModelError
from robokit.sim.base import Sim
from robokit.sim.drawn import check_drawn
from robokit.sim.engines import make_sim
from robokit.sim.rows import Rows

MOTOR = '<motor joint="s"/>'
PID = """<extension><plugin plugin="mujoco.pid"><instance name="pid"><config key="kp" value="40"/>
  <config key="ki" value="40"/><config key="imax" value="5"/></instance></plugin></extension>"""
MOCAP = '<body name="mark" mocap="true" pos="0 .1 .5"><geom size=".05"/></body>'
HOME = """<keyframe>
  <key name="home" time="2" qpos=".3 .1 0 .2 1 0 0 0" act=".8" mpos="1 2 3" mquat="0 1 0 0"/></keyframe>"""
FEATURES = {  # attributes of <option>; actuators; sensors; the rest
    "activation": ("", '<intvelocity joint="s" kp="30" actrange="-1 1"/>', "", ""),
    "muscle": ("", '<muscle joint="s" lengthrange="-1 1"/>', "", ""),
    "actuator delay": ("", '<motor joint="s" delay=".02" nsample="6"/>', "", ""),
    "sensor delay": ("", MOTOR, '<jointpos joint="s" delay=".02" nsample="6" interp="linear"/>', ""),
    "sensor interval": ("", MOTOR, '<jointpos joint="s" interval=".02" nsample="6"/>', ""),
    "weld": ("", MOTOR, "", '<equality><weld body1="arm" body2="cube"/></equality>'),
    "plugin": ("", '<plugin joint="s" plugin="mujoco.pid" instance="pid" actdim="1"/>', "", PID),
    "RK4": ('integrator="RK4"', MOTOR, "", ""),
    "noslip": ('noslip_iterations="3"', MOTOR, "", ""),
}


def spec(option: str = "", actuators: str = MOTOR, sensors: str = "", rest: str = "") -> mujoco.MjSpec:
    return mujoco.MjSpec.from_string(
        f"""
    <mujoco>
      <option timestep=".004" {option}/>
      <worldbody>
        <geom type="plane" size="3 3 .1"/>
        <body name="arm" pos="0 0 1"><joint name="s" axis="0 1 0" damping=".1"/>
          <geom type="capsule" fromto="0 0 0 0 0 -.4" size=".03"/></body>
        <body name="cube" pos=".1 0 .1"><freejoint/><geom type="box" size=".05 .05 .05"/></body>
        {MOCAP}
      </worldbody>
      <actuator>{actuators}</actuator><sensor>{sensors}<accelerometer site="on"/></sensor>{rest}
    </mujoco>""".replace("</geom>", "").replace('size=".03"/>', 'size=".03"/><site name="on"/>')
    )


def sim_of(*parts: str) -> Sim:
    sim = make_sim("mujoco", spec(*parts), 2, {"a": 1}, threads=1)
    sim.field("qacc")  # read before it is saved
    return sim


def advance(sim: Sim, steps: int, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        sim.step(torch.rand(2, sim.model.nu, generator=rng, dtype=torch.float64) * 2 - 1, 4)


@pytest.mark.parametrize("feature", FEATURES)
def test_a_saved_simulation_continues_bit_for_bit(feature: str):
    one, other = sim_of(*FEATURES[feature]), sim_of(*FEATURES[feature])
    one.reset(None, {"qvel": torch.full((2, one.model.nv), 0.3, dtype=torch.float64)})
    advance(one, 15, seed=0)
    other.load_state_dict(one.state_dict())
    for sim in (one, other):
        advance(sim, 10, seed=1)
    for name in ("qpos", "qvel", "act", "qacc", "sensordata", "time"):
        assert torch.equal(one.field(name), other.field(name)), name


@pytest.mark.parametrize("flag", ["sleep", "ipc"])
def test_what_mujoco_cannot_save_can_be_simulated_but_not_saved(flag: str):
    option = f'<option integrator="discrete"><flag {flag}="enable"/></option>'
    xml = spec().to_xml().replace("<worldbody>", f"{option}<worldbody>")
    sim = make_sim("mujoco", mujoco.MjSpec.from_string(xml), 2, {"a": 1}, threads=1)
    advance(sim, 5, seed=0)
    with pytest.raises(ModelError, match=f'<flag {flag}="enable"/> holds more than.*take it out'):
        sim.state_dict()


# -- read by name --------------------------------------------------------------------------------


def test_a_reset_to_a_keyframe_takes_all_of_its_state():
    sim = sim_of("", FEATURES["activation"][1], "", HOME)
    key = sim.keyframe("home")
    names = ("qpos", "act", "mocap_pos", "mocap_quat", "time")
    sim.reset(None, {n: getattr(key, n).expand(2, *getattr(key, n).shape) for n in names})
    assert sim.act.tolist() == [[0.8]] * 2 and sim.time.tolist() == [2.0] * 2
    assert sim.mocap_pos.tolist() == [[[1, 2, 3]]] * 2 and sim.mocap_quat.tolist() == [[[0, 1, 0, 0]]] * 2
    assert sim.qpos[0].tolist() == [0.3, 0.1, 0, 0.2, 1, 0, 0, 0]
    assert Rows(sim, torch.tensor([1])).act.tolist() == [[0.8]]
    sim.step(sim.ctrl.clone(), 5)
    assert sim.time.tolist() == pytest.approx([2.02] * 2)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("qacc", r"sim has no 'qacc': read it with sim.field\('qacc'\)"),
        ("body_mass", r"read the model's with sim.nominal\('body_mass'\)"),
        ("gravity", r"read the option with sim.nominal\('opt.gravity'\)"),
        ("nv", "read sim.model.nv"),
        ("contact", "through sensors of the model"),
        ("efc_force", "through sensors of the model"),
        ("qposs", "did you mean 'qpos'"),
        ("mocap_poss", "did you mean 'mocap_pos'"),
        ("keyframes", "did you mean 'keyframe'"),
    ],
)
def test_an_attribute_that_a_sim_lacks_is_answered_with_how_it_is_read(name: str, answer: str):
    sim = sim_of()
    for one in (sim, Rows(sim, torch.tensor([0]))):
        with pytest.raises(ModelError, match=answer):
            getattr(one, name)
        assert not hasattr(one, name) and getattr(one, name, None) is None
    with pytest.raises(AttributeError, match=r"^'MujocoSim' object has no attribute '_qacc'"):
        _ = sim._qacc  # pyright: ignore[reportAttributeAccessIssue]


# -- what may be randomized ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("opt.timestep", "a control step lasts control_dt"),
        ("opt.integrator", "all simulations share it"),
        ("opt.solver", "all simulations share it"),
        ("opt.jacobian", "all simulations share it"),
        ("opt.disableflags", "all simulations share it"),
        ("actuator_ctrlrange", "one ctrlrange, which the exported file holds"),
        ("actuator_ctrllimited", "one ctrlrange"),
        ("key_qpos", "return the state from reset"),
        ("body_user", "nothing in the physics reads it"),
        ("body_invweight0", "MuJoCo computes it"),
        ("body_subtreemass", "MuJoCo computes it"),
        ("tendon_length0", "MuJoCo computes it"),
        ("geom_type", "the structure of the model"),
        ("jnt_qposadr", "the structure of the model"),
    ],
)
def test_what_breaks_a_promise_or_does_nothing_cannot_be_randomized(name: str, reason: str):
    sim = sim_of()
    value = sim.nominal(name)
    with pytest.raises(ModelError, match=f"'{name}' cannot be randomized.*{reason}"):
        sim.reset(None, {name: value.expand(2, *value.shape)})


@pytest.mark.parametrize(
    "name",
    [
        "body_mass",
        "geom_friction",
        "opt.gravity",
        "opt.iterations",
        "geom_contype",
        "actuator_gainprm",
        "qpos0",
    ],
)
def test_physical_quantities_can_be_randomized(name: str):
    check_drawn(sim_of().model, name)
