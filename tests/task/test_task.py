"""The parts of a task: actions, draws, and defaults for missing parts."""

import math
from typing import Any

import cart
import mujoco
import pytest
import torch

from robokit.errors import ModelError, TaskError
from robokit.sim.base import Sim
from robokit.sim.engines import make_sim
from robokit.task.action import Action, Around, Ctrl
from robokit.task.action_map import map_of
from robokit.task.task import Task, normal, uniform


def sim_of(num_envs: int = 1, unlimited: bool = False):
    spec = cart.spec()
    if unlimited:
        spec.actuators[1].ctrllimited = False
    return make_sim("mujoco", spec, num_envs, {})


def resolved(action: Action, sim: Sim):
    return map_of(action, sim, [None] * int(sim.model.nu))


# -- actions and commands ------------------------------------------------------------------------


def test_ctrl_maps_minus_one_and_one_onto_the_ends_of_ctrlrange():
    own = resolved(Ctrl(), sim_of())  # ctrlranges [-2, 6] and [-0.5, 0.5]
    assert (own.center.tolist(), own.half.tolist()) == ([2.0, 0.0], [4.0, 0.5])


LIMITED = """
<mujoco>
  <worldbody><body>
    <joint name="hip" range="-60 90" limited="true" actuatorfrcrange="-20 30"/><geom size=".1"/>
    <body><joint name="knee"/><geom size=".1"/></body>
  </body></worldbody>
  <tendon>
    <fixed name="wire" range="-1 2" actuatorfrcrange="-6 6"><joint joint="hip" coef="1"/></fixed>
  </tendon>
  <actuator>{}</actuator>
</mujoco>"""


@pytest.mark.parametrize(
    ("actuator", "low", "high"),
    [
        ('<motor joint="hip"/>', -20, 30),
        ('<motor joint="hip" gear="-10"/>', -3, 2),
        ('<motor joint="hip" gear="2" forcerange="-12 4"/>', -10, 4),
        ('<general joint="hip" gainprm="4"/>', -5, 7.5),
        ('<motor tendon="wire" gear="3"/>', -2, 2),
        ('<position joint="hip" kp="2"/>', -math.pi / 3, math.pi / 2),
        ('<position joint="hip" kp="2" gear="-2"/>', -math.pi, 2 * math.pi / 3),
        ('<position tendon="wire"/>', -1, 2),
        ('<pid joint="hip" input="ff"/>', -20, 30),
        ('<pid joint="hip" input="pos"/>', -math.pi / 3, math.pi / 2),
        ('<muscle joint="knee" lengthrange="0 1"/>', 0, 1),
        ('<motor joint="hip" ctrlrange="-1 2"/>', -1, 2),
    ],
)
def test_ctrl_takes_a_range_from_what_the_model_says(actuator: str, low: float, high: float):
    sim = make_sim("mujoco", mujoco.MjSpec.from_string(LIMITED.format(actuator)), 1, {})
    own = resolved(Ctrl(), sim)
    assert [own.low.item(), own.high.item()] == pytest.approx([low, high])
    ends = own.center.item() - own.half.item(), own.center.item() + own.half.item()
    assert ends == pytest.approx((low, high))
    assert bool(Ctrl().borrowed(sim)) == ("ctrlrange" not in actuator)


@pytest.mark.parametrize(
    ("actuator", "words"),
    [
        ('<motor joint="knee"/>', "['knee'] have none, nor a limit"),
        ('<velocity name="wheel" joint="hip"/>', "['wheel'] have none, nor a limit"),
        ('<pid name="p" joint="hip" posrange="-1 1"/>', "['p velocity'] have none, nor a limit"),
        ('<pid name="p" joint="hip" input="vel" ctrlrange="-1 1"/>', "['p'] have none"),  # it is ignored
        ('<intvelocity joint="hip" actrange="-1 1"/>', "['hip'] have none, nor a limit"),
        ('<motor joint="knee"/>' * 2, "['actuator 0 on knee', 'actuator 1 on knee'] have none"),
    ],
)
def test_ctrl_without_any_range_names_both_ways_out(actuator: str, words: str):
    sim = make_sim("mujoco", mujoco.MjSpec.from_string(LIMITED.format(actuator)), 1, {})
    with pytest.raises(TaskError) as error:
        resolved(Ctrl(), sim)
    assert words in str(error.value)
    assert f'write {"velrange" if "pid" in actuator else "ctrlrange"}="..."' in str(error.value)
    assert str(error.value).endswith("in the MJCF, or Ctrl(low, high) in the task")
    assert resolved(Ctrl(-2.0, 3.0), sim).center[-1] == 0.5


def test_a_range_that_is_switched_off_is_named():
    said = r"""\['turn'\] have one that ctrllimited="false" switches off: write ctrllimited="true\""""
    with pytest.raises(TaskError, match=said):
        resolved(Ctrl(), sim_of(unlimited=True))


def test_the_tasks_own_range_is_narrowed_by_ctrlrange():
    own = resolved(Ctrl((-1.0, -0.75), [8.0, 0.25]), sim_of())  # ctrlranges [-2, 6] and [-0.5, 0.5]
    assert (own.low.tolist(), own.high.tolist()) == ([-1.0, -0.5], [6.0, 0.25])
    own = resolved(Ctrl(-1.0, 0.75), sim_of(unlimited=True))
    assert (own.low.tolist(), own.high.tolist()) == ([-1.0, -1.0], [0.75, 0.75])


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (-1.0, None, "Ctrl.high must be a finite number, or one for each of 2 controls; got None"),
        (-float("inf"), 1.0, "Ctrl.low must be a finite number"),
        ("a", 1.0, "Ctrl.low must be a finite number"),
        ((0.0, 0.0, 0.0), 1.0, "one for each of 2 controls; got (0.0, 0.0, 0.0)"),
        (1.0, 1.0, "Ctrl.low must be below Ctrl.high and within ctrlrange; of ['push'] 1 to 1 is left"),
        (0.5, 2.0, "of ['turn'] 0.5 to 0.5 is left"),
    ],
)
def test_an_impossible_range_is_refused(low: Any, high: Any, words: str):
    with pytest.raises(TaskError) as error:
        resolved(Ctrl(low, high), sim_of())
    assert words in str(error.value)


@pytest.mark.parametrize("scale", [0.5, (0.5, 0.5)])
def test_around_maps_onto_offsets_from_the_keyframes_ctrl(scale: Any):
    own = resolved(Around("home", scale), sim_of())
    assert (own.center.tolist(), own.half.tolist()) == ([1.0, 0.4], [0.5, 0.5])


@pytest.mark.parametrize(
    "scale", [0.0, -1.0, float("nan"), float("inf"), (1.0,), (1.0, 0.0), (1.0, 1.0, 1.0)]
)
def test_around_refuses_an_impossible_scale(scale: Any):
    with pytest.raises(TaskError, match=r"Around\.scale must be > 0, one or 2 numbers"):
        resolved(Around("home", scale), sim_of())


def test_around_needs_a_keyframe_that_there_is():
    with pytest.raises(ModelError, match="no key 'hme' in the model; did you mean 'home'"):
        resolved(Around("hme", 1.0), sim_of())


@pytest.mark.parametrize("center", [-2.0, -1.0, 1.0, 2.0])  # of ctrlrange -.5 .5
def test_around_needs_targets_within_ctrlrange(center: float):
    spec = cart.spec()
    spec.keys[0].ctrl = [1.0, center]
    sim = make_sim("mujoco", spec, 1, {})
    targets = f"targets of 'turn', {center - 0.5:g} to {center + 0.5:g}"
    said = (
        f"Around's {targets}, must overlap its ctrlrange, -0.5 to 0.5: does the keyframe 'home' have a ctrl"
    )
    with pytest.raises(TaskError, match=said):
        resolved(Around("home", (8.0, 0.5)), sim)
    assert resolved(Around("home", (8.0, abs(center))), sim).center.tolist() == [1.0, center]


def test_an_actuator_without_a_range_is_clipped_nowhere():
    own = resolved(Around("home", 1.0), sim_of(unlimited=True))
    assert (own.low.tolist(), own.high.tolist()) == ([-2.0, -torch.inf], [6.0, torch.inf])


# -- draws ---------------------------------------------------------------------------------------


def test_draws_have_their_bounds_and_moments_and_come_from_the_generator():
    sim = sim_of(2000)
    flat = uniform(sim, torch.Generator().manual_seed(0), 3, 0.5)
    bell = normal(sim, torch.Generator().manual_seed(0), 3, 0.5)
    assert flat.shape == bell.shape == (2000, 3)
    assert flat.dtype == bell.dtype == sim.qpos.dtype
    assert -0.5 <= flat.min() < -0.49
    assert 0.49 < flat.max() < 0.5
    assert flat.std().item() == pytest.approx(0.5 / 3**0.5, rel=0.03)
    assert bell.std().item() == pytest.approx(0.5, rel=0.03)
    assert torch.equal(flat, uniform(sim, torch.Generator().manual_seed(0), 3, 0.5))
    assert not torch.equal(flat, uniform(sim, torch.Generator().manual_seed(1), 3, 0.5))


def test_a_bare_task_has_defaults_for_all_but_what_it_must_define():
    class Bare(Task):
        pass

    task, sim, rng = Bare(), sim_of(3), torch.Generator()
    action = torch.zeros(3, 2)
    assert [task.reset(sim, rng), task.randomize(sim, rng), task.disturb(sim, rng)] == [{}, {}, {}]
    assert [task.privileged(sim), task.costs(sim, action), task.remember(sim, action)] == [{}, {}, {}]
    assert task.metrics(sim) == {}
    assert task.terminated(sim).tolist() == [False] * 3
    assert isinstance(task.action, Ctrl)
