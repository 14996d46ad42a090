"""Reading a simulation by name; the error for a wrong name suggests the nearest."""

from collections.abc import Callable

import cart
import pytest
import torch

from robokit.errors import ModelError
from robokit.sim.base import Sim
from robokit.sim.engines import make_sim
from robokit.task.task import uniform

N = 3
ALL = torch.ones(N, dtype=torch.bool)


def sim_of() -> Sim:
    """Every simulation in another state, one step on."""
    sim = make_sim("mujoco", cart.spec(), N, {"a": 1, "b": 2}, threads=1)
    rng = torch.Generator().manual_seed(0)
    qpos = sim.nominal("qpos0") + uniform(sim, rng, sim.model.nq, 0.1)
    sim.reset(ALL, {"qpos": qpos, "qvel": uniform(sim, rng, sim.model.nv)})
    return sim


def test_views_are_live_and_keep_their_storage():
    sim = sim_of()
    views = {
        "qpos": sim.qpos,
        "sensor": sim.sensor("tip"),
        "body": sim.body("ball").xpos,
        "joint": sim.joint("free").qvel,
        "memory": sim.memory["b"],
    }
    places = {name: view.data_ptr() for name, view in views.items()}
    sim.step(torch.zeros(N, 2), 1)
    sim.reset(ALL, {})
    again = {
        "qpos": sim.qpos,
        "sensor": sim.sensor("tip"),
        "body": sim.body("ball").xpos,
        "joint": sim.joint("free").qvel,
        "memory": sim.memory["b"],
    }
    assert {name: view.data_ptr() for name, view in again.items()} == places
    assert torch.equal(again["body"], sim.qpos[:, 2:5])


def test_a_joint_has_as_many_numbers_as_its_kind():
    sim = sim_of()
    assert torch.equal(sim.joint("slide").qpos, sim.qpos[:, 0:1])
    assert torch.equal(sim.joint("hinge").qvel, sim.qvel[:, 1:2])
    assert torch.equal(sim.joint("free").qpos, sim.qpos[:, 2:9])
    assert torch.equal(sim.joint("free").qvel, sim.qvel[:, 2:8])


def test_memory_is_named_slices_of_one_width_each():
    sim = sim_of()
    sim.memory["a"].fill_(1.0)
    sim.memory["b"].fill_(2.0)
    assert sim.field("memory").tolist() == [[1.0, 2.0, 2.0]] * N


def test_a_keyframe_is_the_models():
    key = sim_of().keyframe("home")
    assert key.qpos.tolist() == [0.1, 0.2, 0.5, 0.0, 0.049, 1.0, 0.0, 0.0, 0.0]
    assert key.qvel.tolist() == [0.0] * 8
    assert key.ctrl.tolist() == [1.0, 0.4]


def test_an_index_stands_for_a_name_as_in_mujoco():
    sim = sim_of()
    assert torch.equal(sim.keyframe(0).qpos, sim.keyframe("home").qpos)
    assert torch.equal(sim.joint(sim.model.joint("free").id).qvel, sim.joint("free").qvel)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda sim: sim.sensor("spead"), "no sensor 'spead' in the model; did you mean 'speed'?"),
        (lambda sim: sim.joint("slid"), "no joint 'slid' in the model; did you mean 'slide'?"),
        (lambda sim: sim.body("bal"), "no body 'bal' in the model; did you mean 'ball'?"),
        (lambda sim: sim.geom("rot"), "no geom 'rot' in the model; did you mean 'rod'?"),
        (lambda sim: sim.site("tipp"), "no site 'tipp' in the model; did you mean 'tip'?"),
        (lambda sim: sim.keyframe("hom"), "no key 'hom' in the model; did you mean 'home'?"),
        (lambda sim: sim.keyframe(7), "no key 7 in the model"),
        (lambda sim: sim.keyframe("home").mpos, "a keyframe has no 'mpos'; it has ['qpos', 'qvel', 'ctrl',"),
        (lambda sim: sim.body(-1), "no body -1 in the model"),
        (lambda sim: sim.body("ball").xpoz, "a body has no 'xpoz'; did you mean 'xpos'?"),
        (lambda sim: sim.body("ball").qpos, "a body has no 'qpos': a joint has it"),
        (lambda sim: sim.data, "sim has no 'data': read sim.qpos"),
        (lambda sim: sim.key, "sim has no 'key': read sim.keyframe(name)"),
        (lambda sim: sim.dt, "sim has no 'dt': read sim.timestep"),
        (lambda sim: sim.joint("slide").xpos, "a joint has no 'xpos'"),
        (lambda sim: sim.nominal("body_mas"), "no model field 'body_mas'; did you mean 'body_mass'?"),
        (lambda sim: sim.nominal("opt.gravit"), "no model field 'opt.gravit'; did you mean 'gravity'?"),
        (lambda sim: sim.field("qpoz"), "qpoz"),
        (lambda sim: sim.written("qpo"), "no state or memory 'qpo' to write; did you mean 'qpos'?"),
        (lambda sim: sim.reset(ALL, {"bodymass": ALL}), "cannot write 'bodymass'; did you mean 'body_mass'?"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(ask: Callable[[Sim], object], words: str):
    with pytest.raises(ModelError) as error:
        ask(sim_of())
    assert words in str(error.value)


def test_an_unknown_engine_is_named():
    with pytest.raises(ModelError, match="sim must be 'mujoco' or 'warp', got 'cup'"):
        make_sim("cup", cart.spec(), 1, {})
    with pytest.raises(ModelError, match="computes on the CPU, not on 'cuda'"):
        make_sim("mujoco", cart.spec(), 1, {}, device="cuda")
