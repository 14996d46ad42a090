"""Each physical quantity equals a model compiled with that value by hand; what is not physical is refused."""

from typing import Any

import mujoco
import numpy as np
import pytest
import torch

from robokit.errors import ModelError
from robokit.sim.engines import make_sim
from robokit.sim.model import compile_model
from robokit.sim.quantities.draw import Add, Scale
from robokit.sim.quantities.table import Table
from robokit.sim.quantities.write import QUANTITIES

ARM = """
<mujoco><option timestep="0.002"/>
  <default><geom condim="3"/></default>
  <worldbody><geom name="floor" type="plane" size="2 2 .1" friction="{floor} .005 .0001"/>
    <body name="base" pos="0 0 .5"><freejoint/>
      <inertial pos="{com}" mass="{mass}" {inertia}/><geom name="box" type="box" size=".1 .1 .1" friction="{box} .005 .0001" mass="0"/>
      <body name="link" pos=".1 0 0"><joint name="hip" axis="0 1 0" damping="{damping}" armature="{armature}" frictionloss="{loss}"/>
        <inertial pos=".1 0 0" mass="{link}" diaginertia="{i1} {i2} {i3}"/>
        <geom name="rod" type="capsule" fromto="0 0 0 .2 0 0" size=".02" mass="0"/>
        <body name="tip" pos=".2 0 0"><joint name="knee" axis="0 1 0" damping=".1"/>
          <inertial pos=".05 0 0" mass=".2" diaginertia=".001 .002 .003"/></body></body></body></worldbody>
  <actuator><general name="servo" joint="hip" gainprm="{kp}" biastype="affine" biasprm="{shift} -{kp} -{kd}"
      ctrlrange="-1 1" forcerange="-{limit} {limit}"/>
    <motor name="motor" joint="knee" gear="1" ctrlrange="-1 1"/></actuator>
</mujoco>"""  # noqa: E501 - a model
USUAL = {
    "floor": 0.8, "box": 0.6, "com": "0 0 0", "mass": 2.0, "inertia": 'diaginertia=".02 .03 .04"',
    "damping": 0.3, "armature": 0.02, "loss": 0.05, "link": 0.5, "i1": 0.001, "i2": 0.004, "i3": 0.004,
    "kp": 20.0, "kd": 0.5, "shift": 0.0, "limit": 3.0,
}  # fmt: skip


def spec(**changes: Any) -> mujoco.MjSpec:
    return mujoco.MjSpec.from_string(ARM.format(**{**USUAL, **changes}))


def exact(low: float) -> Any:
    return {"low": low, "high": low}


def heavier(mass: float, payload: float, place: tuple[float, float, float]) -> dict[str, Any]:
    """The base with a point mass, by the sum over both of m (|r|^2 1 - r r^T) about the new centre."""
    at = np.asarray(place)
    center = payload * at / (mass + payload)
    inertia = np.diag([0.02, 0.03, 0.04])
    for m, r in ((mass, -center), (payload, at - center)):
        inertia = inertia + m * (r @ r * np.eye(3) - np.outer(r, r))
    six = (inertia[0, 0], inertia[1, 1], inertia[2, 2], inertia[0, 1], inertia[0, 2], inertia[1, 2])
    full = " ".join(repr(float(x)) for x in six)
    com = " ".join(repr(float(x)) for x in center)
    return {"mass": mass + payload, "com": com, "inertia": f'fullinertia="{full}"'}


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "gain": ({"gain": Scale(**exact(1.5), at="servo")}, {"kp": 30.0}),
    "more gain": ({"gain": Add(**exact(-5.0), at="servo")}, {"kp": 15.0}),
    "damping": ({"damping": Scale(**exact(2.0), at="hip")}, {"damping": 0.6, "kd": 1.0}),
    "more damping": ({"damping": Add(**exact(0.2), at="hip")}, {"damping": 0.5}),
    "torque_limit": ({"torque_limit": Scale(**exact(0.5), at="servo")}, {"limit": 1.5}),
    "less torque": ({"torque_limit": Add(**exact(-1.0), at="servo")}, {"limit": 2.0}),
    "armature": ({"armature": Add(**exact(0.03), at="hip")}, {"armature": 0.05}),
    "friction_loss": ({"friction_loss": Scale(**exact(4.0), at="hip")}, {"loss": 0.2}),
    "torque_speed": ({"torque_speed": Add(**exact(0.4), at="hip")}, {"damping": 0.7, "kd": 0.1}),
    "damping and line": (
        {"torque_speed": Add(**exact(0.4), at="hip"), "damping": Scale(**exact(2.0), at="hip")},
        {"damping": 1.0, "kd": 0.6},
    ),
    "mass": (
        {"mass": Scale(**exact(1.2), at="link")},
        {"link": 0.6, "i1": 0.0012, "i2": 0.0048, "i3": 0.0048},
    ),
    "center_of_mass": ({"center_of_mass": Add(**exact(0.03), at="base")}, {"com": ".03 .03 .03"}),
    "payload": ({"payload": Add(**exact(1.0), at="base")}, {"mass": 3.0}),
    "payload at a place": (
        {"payload": Add(**exact(1.0), at="base", place=(0.05, 0.1, 0.08))},
        heavier(2.0, 1.0, (0.05, 0.1, 0.08)),
    ),
    "less at a place": (
        {"payload": Add(**exact(-0.5), at="base", place=(0.02, 0.03, 0.01))},
        heavier(2.0, -0.5, (0.02, 0.03, 0.01)),
    ),
    "joint_offset": ({"joint_offset": Add(**exact(0.1), at="hip")}, {"shift": 2.0}),
    "gain and offset": (
        {"joint_offset": Add(**exact(0.1), at="hip"), "gain": Scale(**exact(2.0), at="servo")},
        {"kp": 40.0, "shift": 4.0},
    ),
    "friction": ({"friction": Scale(**exact(0.5), at=("floor", "box"))}, {"floor": 0.4, "box": 0.3}),
    "more friction": ({"friction": Add(**exact(0.2), at=("floor", "box"))}, {"floor": 1.0, "box": 0.8}),
}


def run(model: mujoco.MjSpec, engine: str, table: dict[str, Any]) -> tuple[torch.Tensor, Any]:
    """qpos after 100 steps of a push, a fall and a slide; the last field values."""
    memory = Table(table, compile_model(model)).memory
    sim = make_sim(engine, model, 2, memory, **({"device": "cpu"} if engine == "warp" else {}))
    values = Table(table, sim.model).draw(sim, torch.Generator().manual_seed(0)) if table else {}
    start = sim.qpos.clone()
    start[:, 2] = 0.099
    speed = torch.zeros_like(sim.qvel)
    speed[:, 0] = 1.0
    sim.reset(None, {"qpos": start, "qvel": speed, **values})
    for _ in range(100):
        sim.step(torch.full((2, 2), 0.6, dtype=sim.dtype), 1)
    return sim.qpos.clone(), sim


@pytest.mark.parametrize("case", CASES)
def test_a_quantity_equals_a_model_that_is_compiled_with_it(case: str):
    table, changes = CASES[case]
    mine, _ = run(spec(), "mujoco", table)
    theirs, _ = run(spec(**changes), "mujoco", {})
    plain, _ = run(spec(), "mujoco", {})
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)
    assert (mine - plain).abs().max() > 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_on_warp_too(case: str):
    pytest.importorskip("mujoco_warp")
    table, changes = CASES[case]
    mine, _ = run(spec(), "warp", table)
    theirs, _ = run(spec(**changes), "warp", {})
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-4)


def test_every_quantity_has_a_case():
    assert {name for table, _ in CASES.values() for name in table} == {*QUANTITIES}


def test_a_payload_adds_to_the_total_mass_and_inertia_stays_positive_definite():
    table = {"payload": Add(-0.5, 4.0, at="base", place=(0.02, -0.05, 0.04)), "mass": Scale(0.8, 2.0)}
    sim = make_sim("mujoco", spec(), 64, {})
    fields = Table(table, sim.model).draw(sim, torch.Generator().manual_seed(1))
    draws = torch.Generator().manual_seed(1)
    factor = torch.empty(64, 3, dtype=torch.float64).uniform_(0.8, 2.0, generator=draws)
    payload = torch.empty(64, 1, dtype=torch.float64).uniform_(-0.5, 4.0, generator=draws)
    expected = (factor * torch.tensor([2.0, 0.5, 0.2], dtype=torch.float64)).sum(1) + payload[:, 0]
    torch.testing.assert_close(fields["body_mass"].sum(1), expected)
    assert (fields["body_inertia"][:, 1:] > 0).all()
    torch.testing.assert_close(fields["body_iquat"].norm(dim=-1), torch.ones(64, 4, dtype=torch.float64))


def test_one_draw_for_all_or_one_for_each():
    sim = make_sim("mujoco", spec(), 8, {})
    rng = torch.Generator().manual_seed(0)
    friction = Table({"friction": Scale(0.5, 1.5)}, sim.model).draw(sim, rng)["geom_friction"]
    factor = friction[:, :, 0] / sim.nominal("geom_friction")[:, 0]
    assert torch.allclose(factor, factor[:, :1])
    assert len(factor[:, 0].unique()) == 8
    each = Table({"friction": Scale(0.5, 1.5, each=True)}, sim.model).draw(sim, rng)["geom_friction"]
    assert not torch.allclose(each[:, 0, 0] / 0.8, each[:, 1, 0] / 0.6)
    same = Table({"mass": Scale(0.5, 1.5, each=False)}, sim.model).draw(sim, rng)["body_mass"]
    assert torch.allclose(same[:, 1] / 2.0, same[:, 2] / 0.5)


def test_what_is_drawn_is_told():
    model = compile_model(spec())
    facts = Table({"gain": Scale(0.9, 1.1, at="servo"), "payload": Add(-1, 2, at="base")}, model).facts()
    assert facts == {
        "gain": {"scale": [0.9, 1.1], "unit": "1", "of": ["servo"]},
        "payload": {"add": [-1, 2], "unit": "kg", "of": ["base"]},
    }


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"gian": Scale(1, 2)}, "no physical quantity 'gian'; did you mean 'gain'"),
        ({"action_delay": Add(0, 0.1)}, "'action_delay' is no physical quantity: .* `action_delay`"),
        ({"noise": Add(0, 0.1)}, r"'noise' is no physical quantity: it is Sense\(noise=\)"),
        ({"gain": 1.2}, "gain must be a Scale or an Add, got 1.2"),
        ({"gain": Scale(1.1, 0.9)}, "the range of gain must be low <= high, finite, got 1.1 to 0.9"),
        ({"gain": Scale(float("nan"), 1.0)}, "the range of gain must be low <= high, finite, got nan"),
        ({"mass": Scale(0.0, 1.0)}, "mass must be scaled by more than 0, got 0.0"),
        ({"payload": Scale(1.0, 2.0)}, "payload has no value to scale: use Add, in kg"),
        ({"gain": Scale(1, 2, at="sevro")}, "gain at 'sevro': the model has no such actuator; did you mean"),
        (
            {"mass": Add(-0.3, 0.0)},
            "body 'tip': mass and inertia must stay above 0, .* a draw has -0.1 kg",
        ),
        ({"damping": Add(-0.2, 0.0, at="knee")}, "damping of 'knee' must stay at least 0: it is 0.1"),
        ({"torque_limit": Scale(0.5, 1.0)}, "torque_limit at 'motor': the actuator has no forcerange"),
        ({"joint_offset": Add(-0.1, 0.1, at="knee")}, "none of .*'knee'.* is driven by a servo"),
        ({"torque_speed": Add(0.1, 0.2, at="knee")}, "none of .*'knee'.* is driven by a servo, whose torque"),
        ({"torque_speed": Add(-0.1, 0.2, at="hip")}, "torque_speed of 'hip' must stay at least 0: it is 0"),
        ({"torque_speed": Scale(1.0, 2.0)}, "torque_speed has no value to scale: use Add, in N m s/rad"),
        ({"payload": Add(0, 1, at="base", place=(0.25, 0.0))}, "`place` must be three finite numbers"),  # pyright: ignore[reportArgumentType]
        ({"payload": Add(0, 1, at="base", place=(float("nan"), 0, 0))}, "`place` must be three finite"),
        ({"gain": Scale(1, 2, at=3)}, "`at` must be a pattern or a tuple of patterns, got 3"),  # pyright: ignore[reportArgumentType]
        ({"gain": Scale(1, 2, at=())}, r"`at` must be a pattern or a tuple of patterns, got \(\)"),
        ({"gain": Scale(1, 2, each=3)}, "`each` must be True, False or None, got 3"),  # pyright: ignore[reportArgumentType]
        ({"gain": Scale("a", 1.1)}, "the range of gain must be low <= high, finite, got a to 1.1"),  # pyright: ignore[reportArgumentType]
        ({3: Scale(1, 2)}, "no physical quantity 3"),
        (
            {
                "center_of_mass": Add(-0.1, 0.1, at="base"),
                "payload": Add(-1.0, 0, at="base", place=(0, 0.1, 0)),
            },
            "body 'base': mass and inertia must stay above 0",
        ),
        ({"gain": Add(0, 1, place=(0.0, 0.0, 0.0))}, "a place is for a payload, not for gain"),
        (
            {"payload": Add(-1.9, 0.0, at="base", place=(0.2, 0.2, 0.2))},
            r"body 'base': mass and inertia must .* a draw has 0.1 kg and \[-",
        ),
        ({"payload": Add(-1.0, 0.0, at="base"), "mass": Scale(0.5, 1.0)}, "body 'base': .* a draw has 0 kg"),
    ],
)
def test_what_is_unknown_or_not_physical_is_refused(table: dict[str, Any], words: str):
    with pytest.raises(ModelError, match=words):
        Table(table, compile_model(spec()))


def test_a_servo_without_a_torque_limit_has_no_line():
    free = ARM.format(**USUAL).replace('forcerange="-3.0 3.0"', "")
    with pytest.raises(ModelError, match="torque_speed at 'hip': its servo has no forcerange to lower"):
        Table({"torque_speed": Add(0.1, 0.2)}, compile_model(mujoco.MjSpec.from_string(free)))


def test_an_offset_moves_the_target_of_a_geared_servo_by_as_much():
    geared = ARM.replace('joint="hip" gainprm', 'joint="hip" gear="2" gainprm').format(**USUAL)
    sim = make_sim("mujoco", mujoco.MjSpec.from_string(geared), 1, {"joint_offset": 1})
    draw = Table({"joint_offset": Add(0.1, 0.1)}, sim.model).draw(sim, torch.Generator())
    assert draw["joint_offset"].tolist() == [[0.1]]
    assert float(draw["actuator_biasprm"][0, 0, 0]) == pytest.approx(20.0 * 2 * 0.1)


WHEEL = """<mujoco><option gravity="0 0 0" timestep=".001" integrator="implicitfast"/>
  <worldbody><body><joint name="axle" axis="0 0 1"/><geom size=".1" mass="1"/></body></worldbody>
  <actuator><general joint="axle" gear="2" gainprm="50" biastype="affine" biasprm="0 -50 -.3"
    forcerange="-3 3"/></actuator></mujoco>"""


def spun(target: float, table: dict[str, Any]) -> torch.Tensor:
    """(2000, 2) angle and speed of the wheel in 2 s with this target, in units of the actuator."""
    sim = make_sim("mujoco", mujoco.MjSpec.from_string(WHEEL), 1, {})
    sim.reset(None, Table(table, sim.model).draw(sim, torch.Generator()))
    rows = []
    for _ in range(2000):
        sim.step(torch.full((1, 1), target).double(), 1)
        rows.append(torch.cat((sim.qpos[0], sim.qvel[0])))
    return torch.stack(rows)


def test_a_torque_limit_falls_with_speed_to_none_at_the_no_load_speed():
    """3 N m of the actuator, .25 N m s/rad less: none at 12 rad/s, which a gear of 2 makes 6 of the joint."""
    line = {"torque_speed": Add(0.25, 0.25)}
    speed, inertia = spun(1e6, line)[:, 1], 0.4 * 1.0 * 0.1**2
    torque = inertia * speed.diff() / 0.001
    torch.testing.assert_close(torque, 2 * (3 - 0.25 * 2 * speed[1:]), rtol=1e-6, atol=1e-6)
    assert float(speed[-1]) == pytest.approx(6.0, rel=1e-6)
    assert float(spun(1e6, {})[-1, 1]) > 1000


def test_below_its_limit_a_servo_moves_as_without_the_line():
    line = {"torque_speed": Add(0.25, 0.25)}
    mine, plain = spun(0.05, line), spun(0.05, {})  # at most 2.5 N m
    torch.testing.assert_close(mine, plain, rtol=0, atol=1e-12)
    assert float(plain[:, 1].abs().max()) > 0.1


def test_bodies_that_cannot_move_have_no_mass_to_draw():
    fixed = ARM.format(**USUAL).replace(
        "</worldbody>", '<body name="goal" mocap="true"><geom size=".1"/></body></worldbody>'
    )
    chosen = Table({"mass": Scale(0.9, 1.1)}, compile_model(mujoco.MjSpec.from_string(fixed))).facts()["mass"]
    assert chosen["of"] == ["base", "link", "tip"]
