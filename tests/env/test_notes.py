"""What `robokit check` says before hours are spent: each fault, put into a task that has none."""

import math
from dataclasses import replace
from typing import Any

import mujoco
import pytest
import torch
from torch import Tensor

from robokit.env.checks.notes import find_notes
from robokit.sim.base import Sim
from robokit.task.action import Around
from robokit.task.command import Command
from robokit.task.goal import Goal
from robokit.task.region import Points
from robokit.task.sense import Sense
from robokit.task.task import Task, Terms, uniform

XML = """
<mujoco model="bench">
  <compiler angle="radian"/>
  <option timestep="0.01"/>
  <worldbody>
    <geom name="floor" type="plane" size="2 2 .1"/>
    <body name="arm" pos="0 0 1">
      <joint name="elbow" axis="0 1 0" range="-1 1" limited="true" damping=".1"/>
      <geom name="rod" type="capsule" fromto="0 0 0 0 0 .3" size=".02" mass=".2"/>
      <site name="hand" pos="0 0 .3"/>
    </body>
    <body name="cube" pos="1 0 .05">
      <freejoint name="cube"/>
      <geom name="cube" type="box" size=".05 .05 .05" mass=".1"/>
      <site name="middle" size=".1"/>
      <site name="corner" pos=".05 .05 .05"/>
    </body>
    <body name="lid" pos="1 0 .15">
      <freejoint name="lid"/>
      <geom name="lid" type="box" size=".05 .05 .05" mass="10"/>
    </body>
  </worldbody>
  <actuator><position joint="elbow" kp="2" ctrlrange="-.5 .5" forcerange="-5 5"/></actuator>
  <sensor>
    <framepos name="hand" objtype="site" objname="hand"/>
    <framelinvel name="hand_velocity" objtype="site" objname="hand"/>
    <framepos name="corner" objtype="site" objname="corner"/>
    <framepos name="corner_in_cube" objtype="site" objname="corner" reftype="site" refname="middle"/>
    <framepos name="hand_in_cube" objtype="site" objname="hand" reftype="site" refname="middle"/>
    <framezaxis name="up" objtype="xbody" objname="world" reftype="xbody" refname="cube"/>
    <gyro name="gyro" site="middle"/>
    <velocimeter name="velocity" site="middle"/>
    <touch name="touch" site="middle"/>
  </sensor>
  <keyframe><key name="home" ctrl="0"/></keyframe>
</mujoco>
"""


class Bench(Task):
    """An arm that stands on a fixed base, and beside it a cube with a lid on it, at rest on the floor."""

    model = mujoco.MjSpec.from_string(XML)
    control_dt = 0.02
    time_limit = 1.0
    weights = {"up": 1.0}

    def reset(self, sim: Sim, rng: torch.Generator) -> Terms:
        noise = torch.zeros_like(sim.qpos)
        noise[:, :1] = uniform(sim, rng, 1, 0.5)
        return {"qpos": sim.nominal("qpos0") + noise}

    def observe(self, sim: Sim) -> Terms:
        return {"joint": torch.cat((sim.qpos[:, :1], sim.qvel[:, :1]), -1)}

    def rewards(self, sim: Sim, action: Tensor) -> Terms:
        return {"up": torch.cos(sim.qpos[:, 0])}


def found(**attributes: Any) -> dict[str, str]:
    """The notes on Bench with some attributes exchanged."""
    return {note.name: note.detail for note in find_notes(type("Faulty", (Bench,), attributes)())}


def model(*changes: tuple[str, str]) -> mujoco.MjSpec:
    text = XML
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return mujoco.MjSpec.from_string(text)


def test_a_sound_task_has_no_notes():
    assert find_notes(Bench()) == []


def placed(column: int, by: float, share: float = 1.0) -> Any:
    """A reset that adds `by` to a number of qpos in a share of the simulations."""

    def reset(self: Bench, sim: Sim, rng: torch.Generator) -> Terms:
        qpos = Bench.reset(self, sim, rng)["qpos"]
        qpos[:, column] = torch.where(uniform(sim, rng, 1)[:, 0] < 2 * share - 1, by, qpos[:, column])
        return {"qpos": qpos}

    return reset


def looked_up(self: Bench, sim: Sim) -> Terms:
    """A number from a table by the cube's place, which ends 5 m from here; and the cube's velocity."""
    return {"table": torch.ones(50, 1)[(10 * sim.qpos[:, 1]).long()], "velocity": sim.sensor("velocity")}


def test_an_observation_that_fails_far_away_is_one_note_and_the_others_are_there():
    faulty = type("Faulty", (Bench,), {"observe": looked_up})
    said = [note.detail for note in find_notes(faulty()) if note.name == "observation"]
    line = looked_up.__code__.co_firstlineno + 2
    failed, velocity = said
    assert failed.startswith(f"Faulty.observe (test_notes.py, line {line}) raised IndexError: ")
    assert velocity.startswith("'velocity' needs ")


def test_what_fails_in_one_part_of_the_notes_hides_no_other_part():
    def rewards(self: Bench, sim: Sim, action: Tensor) -> Terms:
        assert len(action) != 32 or float(sim.memory["age"].max()) < 2, "too old"
        return Bench.rewards(self, sim, action)

    said = found(rewards=rewards, observe=lambda self, sim: {"place": sim.sensor("corner")})
    assert "not looked at to the end: step 0 raised AssertionError: too old" in said["rollout"]
    assert said["observation"].startswith("'place' needs ")


def test_a_start_beyond_a_joint_s_range_is_noted_with_its_size_and_the_line_of_reset():
    said = found(reset=placed(0, 10.0))["joint range"]
    line = placed(0, 0.0).__code__.co_firstlineno
    assert said.startswith("100% of 128 starts, up to 'elbow' by 9 rad:")
    assert said.endswith(f"in reset (test_notes.py, line {line})")


def test_a_start_a_little_beyond_the_range_is_none():
    assert "joint range" not in found(reset=placed(0, 1.019))  # 1 % of the range is 0.02 rad
    assert "joint range" in found(reset=placed(0, 1.021))


def test_a_start_inside_the_floor_is_noted_with_its_depth():
    said = found(reset=placed(3, 0.03, share=0.25))["penetration"]
    assert "of 128 starts, up to 'floor' and 'cube' by 20 mm" in said
    assert 15 <= int(said.split("%")[0]) <= 35


def test_a_task_without_a_reset_is_told_that_it_has_none():
    said = found(model=model(('pos="1 0 .05"', 'pos="1 0 .03"')), reset=Task.reset)["penetration"]
    assert said.endswith("in reset (the task has none)")


def test_a_solver_cut_short_is_noted():
    said = found(model=model(("<option", '<option iterations="1"')))["solver"]
    share, rest = said.split("%", 1)
    assert int(share) > 90
    assert rest.startswith(" of the control steps end at the cap of 1 iterations")
    assert said.endswith('<option iterations="3"/> in the model')


@pytest.mark.parametrize(("share", "noted"), [(0.0, False), (0.1, True)])
def test_episodes_that_end_in_their_first_control_step_are_noted(share: float, noted: bool):
    def terminated(self: Bench, sim: Sim) -> Tensor:
        return sim.qpos[:, 0] > 0.7

    said = found(reset=placed(0, 0.8, share), terminated=terminated)
    assert ("first step" in said) == noted
    assert not noted or "of 128 episodes terminate in their first control step" in said["first step"]


def test_torque_at_its_limit_is_noted_by_actuator():
    tight = model(('forcerange="-5 5"', 'forcerange="-.2 .2"'))
    said = found(model=tight, action=Around("home", scale=0.5))["torque"]
    assert said.startswith(
        "share of the time at the limit under random actions: 'elbow' (range -0.2 to 0.2) "
    )
    share = int(said.split("0.2) ")[1].split("%")[0])
    assert 50 < share < 100
    assert "Faulty.action" in said


@pytest.mark.parametrize(
    "change",
    [('forcerange="-5 5"', 'forcerange="-.1 .1" gear="2"'), ('damping=".1"', 'actuatorfrcrange="-.2 .2"')],
)
def test_a_limit_of_torque_counts_behind_the_gear_and_may_be_the_joint_s(change: tuple[str, str]):
    said = found(model=model(change), action=Around("home", scale=0.5))["torque"]
    assert "'elbow' (range -0.2 to 0.2)" in said


def test_a_range_that_is_taken_from_elsewhere_is_noted():
    said = found(model=model(('ctrlrange="-.5 .5" ', "")))["range"]
    assert "Ctrl() takes what bounds it: 'elbow' -1 to 1 (its joint's range); to set it, ctrlrange=" in said
    assert "range" not in found(model=model(('ctrlrange="-.5 .5" ', "")), action=Around("home", scale=0.5))


def test_a_limit_of_torque_is_that_of_the_right_actuator():
    brake = '<actuator><dcmotor name="brake" joint="elbow" motorconst=".01" resistance="1" input="none"/>'
    tight = model(('forcerange="-5 5"', 'forcerange="-.2 .2"'), ("<actuator>", brake))
    said = found(model=tight, action=Around("home", scale=0.5))["torque"]
    assert "'elbow' (range -0.2 to 0.2)" in said and "brake" not in said


def far(self: Bench, sim: Sim, action: Tensor) -> Terms:
    near = torch.exp(-1e6 * (sim.qpos[:, 0] - 3).square()).float()
    return {"up": torch.cos(sim.qpos[:, 0]), "near": near}


def test_a_reward_term_that_never_moves_is_noted():
    said = found(rewards=far, weights={"up": 1.0, "near": 2.0})
    assert list(said) == ["reward"]
    assert said["reward"].startswith("'near' is 0 in all 1472 random control steps")
    assert said["reward"].endswith(f"in rewards (test_notes.py, line {far.__code__.co_firstlineno})")


def test_a_reward_term_without_weight_is_none():
    assert found(rewards=far, weights={"up": 1.0, "near": 0.0}) == {}


PLACE, SPEED = "the position of 'cube'", "the linear velocity of 'cube'"
SEEN = {
    "sensor of place": (lambda sim: sim.sensor("corner"), PLACE),
    "row of xpos": (lambda sim: sim.body("cube").xpos, PLACE),
    "of qpos, scaled": (lambda sim: 0.1 * sim.qpos[:, 1:4], PLACE),
    "height as a flag": (lambda sim: (sim.joint("cube").qpos[:, 2:3] > 0.3).double(), PLACE),
    "from the hand": (lambda sim: sim.body("cube").xpos - sim.site("hand").xpos, PLACE),
    "as a sensor from the hand": (lambda sim: sim.sensor("hand_in_cube"), PLACE),
    "velocimeter, clipped": (lambda sim: sim.sensor("velocity").clamp(-1, 1), SPEED),
    "of qvel": (lambda sim: sim.joint("cube").qvel[:, :3], SPEED),
    "touch as a flag": (lambda sim: (sim.sensor("touch") > 0).double(), "exact contact"),
    "contact forces": (lambda sim: sim.body("cube").cfrc_ext, "exact contact"),
    "gyro": (lambda sim: sim.sensor("gyro"), None),
    "gravity": (lambda sim: sim.sensor("up"), None),
    "orientation": (lambda sim: sim.joint("cube").qpos[:, 3:], None),
    "rates of rotation": (lambda sim: sim.joint("cube").qvel[:, 3:], None),
    "place of a fixed arm's hand": (lambda sim: sim.sensor("hand"), None),
    "velocity of a fixed arm's hand": (lambda sim: sim.sensor("hand_velocity"), None),
    "within one body": (lambda sim: sim.body("cube").xpos - sim.site("corner").xpos, None),
    "as a sensor within one body": (lambda sim: sim.sensor("corner_in_cube"), None),
}  # fmt: skip


def watching(**terms: Any) -> Any:
    return lambda _, sim: {name: read(sim) for name, read in terms.items()}


@pytest.mark.parametrize(("read", "quantity"), SEEN.values(), ids=SEEN)
def test_an_observation_that_no_sensor_of_a_robot_reads_is_noted(read: Any, quantity: str | None):
    said = found(observe=watching(seen=read))
    assert list(said) == ([] if quantity is None else ["observation"])
    if quantity is not None:
        rule = f"'seen' needs {quantity}, which no sensor on a robot reads: name what measures it, Sense("
        assert said["observation"].startswith(rule)
        assert said["observation"].endswith("in Faulty.sensing['seen']")


def test_an_observation_with_a_source_or_hidden_is_none():
    place, speed = SEEN["row of xpos"][0], SEEN["of qvel"][0]
    sensing = {"place": Sense(source="motion capture"), "speed": Sense(hidden=True)}
    assert found(observe=watching(place=place, speed=speed, turn=SEEN["gyro"][0]), sensing=sensing) == {}


def test_a_planar_base_floats_on_slides_that_nothing_drives():
    planar = """
    <mujoco><worldbody><body name="torso">
      <joint name="x" type="slide" axis="1 0 0"/><joint name="pitch" axis="0 1 0"/><geom size=".1"/>
      <body><joint name="knee" axis="0 1 0"/><geom size=".1" pos="0 0 .2"/></body>
    </body></worldbody>
    <tendon><fixed name="belt"><joint joint="x" coef="2"/></fixed></tendon>
    <actuator><motor joint="knee" ctrlrange="-1 1"/>CART</actuator></mujoco>"""

    def said(actuator: str, read: Any) -> list[str]:
        spec = mujoco.MjSpec.from_string(planar.replace("CART", actuator))
        return list(found(model=spec, observe=watching(seen=read), reset=Task.reset))

    assert said("", lambda sim: sim.qpos[:, :1]) == ["observation"]
    assert said("", lambda sim: sim.qvel[:, :1]) == ["observation"]
    assert said("", lambda sim: sim.qpos[:, 1:]) == []
    for on in ('joint="x"', 'tendon="belt"'):
        assert said(f'<motor {on} ctrlrange="-1 1"/>', lambda sim: sim.qpos[:, :1]) == []


KEY = '<keyframe><key name="pose" qpos="{} 1 0 .05 1 0 0 0 1 0 .15 1 0 0 0" ctrl="{}"/></keyframe></mujoco>'


@pytest.mark.parametrize(
    ("elbow", "ctrl", "scale", "says"),
    [
        (0.7, 0.7, 0.5, "its pose 0.7 is beyond, so action 0 is not it, actions -0.4 to 1 all do the same"),
        (0.3, 0.3, 0.5, "(ctrlrange -0.5 to 0.5), actions 0.4 to 1 all do the same"),
        (0.0, 0.0, 1.0, "(ctrlrange -0.5 to 0.5), actions -1 to -0.5 and 0.5 to 1 all do the same"),
        (0.3, 0.0, 0.4, "the keyframe 'pose' has a qpos but no ctrl, so action 0 drives the joints to 0"),
        (0.3, 0.3, 0.2, None),
        (0.0, 0.0, 0.5, None),
        (0.0, 0.0, 0.52, None),  # a little
    ],
)
def test_actions_that_ctrlrange_makes_the_same_are_noted(
    elbow: float, ctrl: float, scale: float, says: str | None
):
    spec = model(("</mujoco>", KEY.format(elbow, ctrl)))
    said = found(model=spec, action=Around("pose", scale)).get("action")
    assert said is None if says is None else said is not None and says in said


def test_a_pose_beyond_a_joints_range_is_noted():
    wide = model(('ctrlrange="-.5 .5"', 'ctrlrange="-2 2"'), ("</mujoco>", KEY.format(0.0, 1.5)))
    said = found(model=wide, action=Around("pose", 0.2))["action"]
    assert "action 0 drives 'elbow' to 1.5, beyond its joint's range -1 to 1 rad" in said
    at_its_end = model(('ctrlrange="-.5 .5"', 'ctrlrange="-2 2"'), ("</mujoco>", KEY.format(0.0, 1.0)))
    assert "action" not in found(model=at_its_end, action=Around("pose", 0.2))


def test_a_group_of_actuators_that_is_switched_off_is_noted():
    spec = model(('<option timestep="0.01"/>', '<option timestep="0.01" actuatorgroupdisable="0 3"/>'))
    assert (
        "actuatorgroupdisable switches off 'elbow', so these actions do nothing"
        in found(model=spec)["action"]
    )
    spec = model(('<option timestep="0.01"/>', '<option timestep="0.01" actuatorgroupdisable="3"/>'))
    assert "action" not in found(model=spec)


@pytest.mark.parametrize(("act", "says"), [(0.5, False), (0.6, True)])
def test_a_start_beyond_an_actrange_is_noted(act: float, says: bool):
    servo = '<intvelocity name="turn" joint="elbow" kp="2" actrange="-.5 .5" ctrlrange="-1 1"/>'
    spec = model(('<position joint="elbow" kp="2" ctrlrange="-.5 .5" forcerange="-5 5"/>', servo))

    def reset(self: Task, sim: Sim, rng: torch.Generator) -> Terms:
        return {"act": torch.full_like(sim.act, act), "qpos": sim.nominal("qpos0").expand_as(sim.qpos)}

    said = found(model=spec, reset=reset).get("act", "")
    assert ("up to 'turn' by 0.1: beyond actrange" in said) == says


def on_arc(angle: float, radius: float) -> tuple[float, float, float]:
    return radius * math.sin(angle), 0.0, 1 + radius * math.cos(angle)


class Handed(Bench):
    """Bring the hand to a place of its arc about the elbow: in x and z, .3 m around a height of 1 m."""

    commands = {"place": Command(region=Points(tuple(on_arc(a / 10, 0.3) for a in range(-9, 10))))}
    goal = Goal("place", "hand", 0.02)

    def observe(self, sim: Sim) -> Terms:
        return Bench.observe(self, sim) | {"hand": sim.site("hand").xpos, "place": sim.memory["place"]}


def goal_notes(**attributes: Any) -> list[str]:
    task = type("Faulty", (Handed,), attributes)()
    return [note.detail for note in find_notes(task) if note.name == "goal"]


def test_a_region_that_the_hand_reaches_has_no_note_and_one_beyond_it_has():
    assert goal_notes() == []
    places = tuple(on_arc(a / 10, radius) for a in range(-9, 10) for radius in (0.3, 0.5))
    [note] = goal_notes(commands={"place": Command(region=Points(places))})
    reached = int(note.split("within 0.02 m of ")[1].split()[0])
    assert 35 <= reached <= 65  # each second one
    assert "it stays 0.2 m away from (" in note
    assert note.startswith("'hand' comes within 0.02 m of ")
    assert note.endswith("without regard to contacts: a smaller region in Faulty.commands")


def test_a_goal_that_no_observation_depends_on_is_noted():
    blind = type("Blind", (Handed,), {"observe": lambda self, sim: {"hand": sim.site("hand").xpos}})
    [note] = [note.detail for note in find_notes(blind()) if note.name == "command"]
    words = "no observation depends on 'place', so a policy cannot follow it: sim.memory['place'] in observe"
    assert note.startswith(words)
    assert not [note for note in find_notes(Handed()) if note.name == "command"]


@pytest.mark.parametrize("height", [0.9, 1.5])
def test_a_place_of_a_body_is_found_as_a_site_s_is(height: float):
    def observe(self: Handed, sim: Sim) -> Terms:
        return Bench.observe(self, sim) | {"hand": sim.body("hand").xpos, "place": sim.memory["place"]}

    spec = model(('<site name="hand" pos="0 0 .3"/>', '<body name="hand" pos="0 0 .3"/>'), *NO_HAND)
    place = {"place": Command((0.0, 0.0, height), (0.0, 0.0, height))}
    [note] = goal_notes(observe=observe, model=spec, commands=place)
    assert note.startswith("'hand' comes within 0.02 m of 0 of 100 points of 'place'; it stays ")


NO_HAND = (
    ('<framepos name="hand" objtype="site" objname="hand"/>', ""),
    ('<framelinvel name="hand_velocity" objtype="site" objname="hand"/>', ""),
    ('<framepos name="hand_in_cube" objtype="site" objname="hand" reftype="site" refname="middle"/>', ""),
)


def test_a_cube_s_place_is_noted_unless_another_frame_or_what_may_carry_it_leaves_it_open():
    far = Command((9.0, 9.0, 9.0), (9.0, 9.0, 9.0))

    def observe(self: Handed, sim: Sim) -> Terms:
        return Bench.observe(self, sim) | {"hand": sim.body("cube").xpos, "place": sim.memory["place"]}

    [note] = goal_notes(commands={"place": far}, observe=observe)
    assert note.startswith("'middle' comes within 0.02 m of 0 of 100 points of 'place'; it stays 1")
    thrust = model(("</actuator>", '<motor site="middle" gear="0 0 1 0 0 0" ctrlrange="0 1"/></actuator>'))
    weld = model(("</worldbody>", '</worldbody><equality><weld body1="cube" body2="lid"/></equality>'))
    for other in (thrust, weld):
        assert goal_notes(commands={"place": far}, observe=observe, model=other) == []
    assert goal_notes(commands={"place": replace(far, frame="body cube")}) == []
