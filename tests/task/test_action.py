"""Action maps: which control each is for, the targets they give, and what is refused."""

from typing import Any

import pytest
import torch
from reach import Reach, Seen, actions, but, spec
from torch import Tensor

from robokit.env.env import Env
from robokit.errors import TaskError
from robokit.sim.base import Sim
from robokit.task.action import Around, Ctrl, Delta, Hold, groups
from robokit.task.command import Command
from robokit.task.sense import Sense
from robokit.task.task import Task, Terms

MOTOR = '<motor name="wheel" joint="wheel" ctrlrange="-2 2"/>'
FREE = (MOTOR, '<position name="wheel" joint="wheel"/>')
SERVO = (MOTOR, '<position name="wheel" joint="wheel" ctrlrange="-2 2"/>')


def all_seen(self: Task, sim: Sim) -> Terms:
    return {"joints": sim.qpos}


def close(found: Tensor, wanted: list[list[float]]) -> bool:
    return torch.allclose(found.double(), torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=1e-6)


# -- which map is whose --------------------------------------------------------------------------


def test_actions_come_in_the_order_of_the_model_whatever_the_order_of_the_patterns():
    env = Env(
        but(action={"wheel": Hold("home"), "arm*": Around("home", (0.2, 0.4)), "f*": Ctrl(0.1, 0.3)}), 1
    )
    assert (env.act_dim, env.map.kinds) == (3, ("ctrl", "around", "hold", "around"))
    assert env.sim.memory["action"].shape == (1, 3)
    given = torch.tensor([[1.0, 0.5, -1.0]])  # finger, arm right, arm left
    # .3 of Ctrl; .1 + .2 * .5; 1.5 is held; -.2 - .4: a group's numbers are those of its controls in order
    assert env.targets(given)[0].tolist() == pytest.approx([0.3, 0.2, 1.5, -0.6])
    env.step(given)
    assert env.sim.ctrl[0].tolist() == pytest.approx([0.3, 0.2, 1.5, -0.6])


def test_one_map_for_all_is_the_pattern_that_matches_all():
    one, all_of_them = (Env(but(action=a), 2).map for a in (Ctrl(), {"*": Ctrl()}))
    for name in ("center", "half", "low", "high", "lowest", "highest"):
        assert torch.equal(getattr(one, name), getattr(all_of_them, name))
    assert one.moving is one.place is None


def test_a_name_with_brackets_is_a_name():
    model = spec(('name="wheel" joint', 'name="wheel[0]" joint')).compile()
    assert [of for _, of in groups({"wheel[0]": Ctrl(), "[!w]*": Hold("home")}, model)] == [[2], [0, 1, 3]]


# -- a Delta -------------------------------------------------------------------------------------


def by_hand(before: list[float], action: list[float], arm: list[float]) -> list[float]:
    """Targets of Reach: finger from its target alone, arm right, wheel, arm left within .15 of its joint."""
    a, (left, right) = [min(max(x, -1.0), 1.0) for x in action], arm
    moved = [before[0] + 0.01 * a[0], before[1] + 0.1 * a[1], before[3] + 0.2 * a[2]]
    moved[1] = min(max(moved[1], right - 0.15), right + 0.15)
    moved[2] = min(max(moved[2], left - 0.15), left + 0.15)
    return [min(max(moved[0], 0.0), 0.4), min(max(moved[1], -1), 1), 1.5, min(max(moved[2], -1), 1.5)]


@pytest.mark.parametrize("task", [Reach, Seen])
@pytest.mark.parametrize("stagger", [False, True])
def test_targets_are_those_of_a_plain_loop_over_what_was_sensed_also_where_episodes_begin(
    task: type[Task], stagger: bool
):
    env = Env(task(), 3, seed=1, threads=1)
    env.reset(stagger)
    begins, before, ends = torch.ones(3, dtype=torch.bool), [[0.0] * 4] * 3, 0
    for action in actions(25, env):
        arm = env.terms()["arm"].tolist()
        start = [[0.3, min(max(right, -1), 1), 1.5, min(max(left, -1), 1.5)] for left, right in arm]
        before = [s if new else b for s, b, new in zip(start, before, begins.tolist(), strict=True)]
        assert close(env.sim.memory["target"], before)
        assert "target" not in env.names.obs or close(env.terms()["target"], before)
        before = [by_hand(*row) for row in zip(before, action.tolist(), arm, strict=True)]
        assert close(env.targets(action), before)
        step = env.step(action)
        begins, ends = step.done, ends + int(step.done.sum())
    assert ends >= 6 and (not stagger or int(begins.sum()) < 3)


def test_a_target_goes_no_further_from_the_joint_than_the_leash_and_no_further_than_the_range():
    env = Env(but(model=spec(SERVO), action={"*": Delta(0.1, leash=0.25)}, observe=all_seen), 1)
    before, joints = torch.tensor([[0.35, 0.2, 0.0, -0.4]]), torch.tensor([[0.0, 0.0, 0.38, 0.0]])
    finger, right, wheel, left = env.map.target(torch.ones(1, 4), before, joints)[0].tolist()
    assert (finger, right, wheel, left) == pytest.approx((0.4, 0.25, 0.1, -0.25))


# -- bad input -----------------------------------------------------------------------------------


ARM, REST = {"arm*": Delta(0.1, leash=0.1)}, {"wheel": Ctrl(), "finger": Ctrl()}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"action": {**ARM, **REST}, "commands": {"target": Command((0.0,), (1.0,))}},
            "may not be called ['target']: these names are taken, 'target' for those of a Delta; use others",
        ),
        ({"action": {}}, "But.action must be Ctrl(), Around(...), Delta(...) or Hold(...), or {pattern"),
        ({"action": {"*": "home"}}, "or {pattern: one of these}, got {'*': 'home'}"),
        ({"action": {0: Ctrl()}}, "or {pattern: one of these}, got {0:"),
        (
            {"action": {"*": Ctrl(), "whel": Ctrl()}},
            "no control 'whel'; did you mean 'wheel'? There are ['finger',",
        ),
        (
            {"action": {"*": Ctrl(), "arm*": Ctrl()}},
            "control 'arm right' must match one pattern of ['*', 'arm*'],",
        ),
        (
            {"action": {"arm*": Ctrl(), "f*": Ctrl()}},
            "control 'wheel' must match one pattern of ['arm*', 'f*'], got none",
        ),
        (
            {"action": Hold("home")},
            "no actuator with a control that its action does not hold",
        ),
        (
            {"action": {"a*": Ctrl((0, 0, 0), 1), **REST}},
            "Ctrl.low must be a finite number, or one for each of 2 controls",
        ),
        (
            {"action": {"a*": Around("home", (1, 1, 1)), **REST}},
            "Around.scale must be > 0, one or 2 numbers; got (1, 1, 1)",
        ),
        (
            {"action": {"a*": Delta(0.0, leash=0.1), **REST}},
            "Delta.scale must be > 0, one or 2 numbers; got 0.0",
        ),
        (
            {"action": {"a*": Delta(0.1, leash=-1.0), **REST}},
            "Delta.leash must be > 0, one or 2 numbers; got -1.0",
        ),
        (
            {"action": {"a*": Delta(0.1), **REST}},
            "Delta of ['arm right', 'arm left'] needs a leash, as the joint is observed: without one its",
        ),
        (
            {"action": {**ARM, "wheel": Ctrl(), "finger": Delta(0.1)}},
            "Delta of ['finger'] must know where it starts: an observation that is its joint's position",
        ),
        (
            {"action": {**ARM, "wheel": Ctrl(), "finger": Delta(0.1, leash=0.1, keyframe="home")}},
            "Delta.leash of ['finger'] needs an observation that is its joint's position",
        ),
        (
            {"action": {**ARM, **REST}, "sensing": {"arm": Sense(hidden=True)}},
            "Delta of ['arm right', 'arm left'] must know where it starts",
        ),
        (
            {"action": {**ARM, **REST}, "observe": lambda self, sim: {"arm": sim.qpos[:, :2] - 0.1}},
            "Delta of ['arm right', 'arm left'] must know where it starts",
        ),
        (
            {"action": {"*": Delta(0.1, leash=0.1)}, "observe": all_seen},
            "Delta moves a target of position, so it needs a position actuator; ['wheel'] have another",
        ),
        (
            {"action": {"*": Delta(0.1, leash=0.1)}, "observe": all_seen, "model": spec(FREE)},
            "needs a ctrlrange on every actuator; ['wheel'] have none",
        ),
        (
            {"model": spec(('ctrl=".3', 'ctrl=".5'))},
            "Delta's targets of 'finger', 0.5 to 0.5, must overlap its ctrlrange, 0 to 0.4: does",
        ),
        (
            {"model": spec((".1 1.5", ".1 2.5"))},
            "Hold's targets of 'wheel', 2.5 to 2.5, must overlap its ctrlrange, -2 to 2: does the keyframe",
        ),
        (
            {"observe": lambda self, sim: {"arm": sim.qpos[:, :2], "target": sim.ctrl + 0.0}},
            "observe 'target' must equal sim.memory['target'], the targets sent last; give another",
        ),
        ({"memory": {"target": 4}}, "memory and commands may not be called ['target']"),
        ({"sensing": {"target": Sense(noise=0.1)}}, "sensing['target'] must name a measured observation"),
    ],
)
def test_a_map_that_cannot_be_is_refused_before_anything_runs(changes: dict[str, Any], words: str):
    task = but(Seen if "sensing" in changes and "target" in changes["sensing"] else Reach, **changes)
    with pytest.raises(TaskError) as error:
        Env(task, 2)
    assert words in str(error.value)


def test_a_term_of_ones_own_may_be_called_target_where_no_target_is_carried():
    own = {"memory": {"target": 1}, "observe": lambda self, sim: {"target": sim.memory["target"] + 1.0}}
    env = Env(but(action=Ctrl(), **own), 1)
    assert [column.kind for column in env.columns] == ["sensed"]
