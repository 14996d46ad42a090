"""The filter between a policy and its actuators: its bounds, numbers by hand, and the latched fallback."""

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from shutil import copy
from typing import Any

import numpy as np
import pytest
import torch
from test_controller import CONTRACT, GOOD, write
from test_packaging import HERE

import robokit
from robokit.controller import Controller, ObservationError
from robokit.export.bounds import EACH, WHOLE, filter_for, resolve, write_filter
from robokit.export.file import Exported
from robokit.filter import Bound, ConcurrentCall, Filter, Filtered, FilterError, Guard, digest

ROOT = Path(__file__).parent.parent
KNEE: dict[str, Any] = {
    "name": "knee", "unit": "rad", "kp": 40.0, "kd": 1.0, "joint": "knee", "joint_range": [-1.5, 1.5],
    "force_range": [-20.0, 20.0], "low": -1.0, "high": 2.0, "default": 0.5,
}  # fmt: skip
WHEEL: dict[str, Any] = {
    "name": "wheel", "unit": "2.0 N m", "joint": "wheel", "joint_range": None, "force_range": [-1.0, 1.0],
    "low": -1.0, "high": 1.0, "default": 0.0,
}  # fmt: skip
BACKWARD = WHEEL | {"name": "backward", "unit": "-4.0 N m", "joint": "backward", "force_range": [-1.0, 3.0]}
JOINTS = ["knee", "wheel", "backward"]


def contract(*actuators: dict[str, Any]) -> dict[str, Any]:
    """A robot that observes the position and velocity of three joints, in another order than its ctrl."""
    turned = JOINTS[::-1]
    angle = {"name": "q", "size": 3, "source": turned, "unit": "rad", "frame": "joint axis", "max_age": 0.5}
    speed = angle | {"name": "dq", "source": [f"{j} velocity" for j in turned], "unit": "rad/s"}
    return {"control_dt": 0.02, "inputs": [angle, speed], "actuators": [*actuators]}


ALL = contract(KNEE, WHEEL, BACKWARD)
SHA256 = "0" * 64  # of the file with such a contract


def guarding(contract: dict[str, Any], batch: int = 1, **numbers: Any) -> Guard:
    """A guard with the numbers that a person gives for such a robot."""
    return Guard(resolve(numbers, contract, SHA256), batch)


def run(guard: Guard, targets: Any, **measured: Any) -> list[float]:
    """What a guard of one actuator sends, step by step."""
    return [float(guard.step(np.array([x]), **measured)[0]) for x in targets]


def adversary(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Numbers of every size, a few of them no numbers."""
    plain = rng.normal(0, 2, shape)
    huge = rng.normal(0, 1, shape) * 10.0 ** rng.integers(-45, 60, shape)
    kind = rng.choice(8, shape, p=[0.7, 0.1, 0.1, 0.02, 0.02, 0.02, 0.02, 0.02])
    edges = [plain, 1000 * plain, huge, np.nan, np.inf, -np.inf, 0.0, -0.0]
    return np.choose(kind, [np.broadcast_to(e, shape) for e in edges])


@pytest.mark.parametrize(
    "fallback", [{"fallback": "damp"}, {"fallback": "pose", "pose": {"knee": 1.0}, "pose_speed": 3.0}]
)
def test_no_bound_is_breached_in_1e5_random_actions(fallback: dict[str, Any]):
    rng, b = np.random.default_rng(0), 100
    options: dict[str, Any] = {"slew": {"knee": 7.0, "wheel": 11.0}, "margin": 0.1, "soft_start": 0.1}
    clamps: dict[str, Any] = {"velocity": 9.0, "torque": {"knee": 15.0, "wheel": 1.3}}
    guard = guarding(ALL, b, **options, **clamps, **fallback)
    slew = np.array([7.0, 11.0, math.inf]) * 0.02
    edges = np.array([[-1.0, -1.0, -1.0], [1.4, 1.0, 1.0]])
    for t in range(1000):
        target, q, dq = (adversary(rng, (b, 3)) for _ in range(3))
        q = np.where(rng.random((b, 3)) < 0.5, guard.last + rng.normal(0, 0.3, (b, 3)), q)
        rows = rng.random(b) < 0.01 if t else np.ones(b, bool)
        guard.begin(rows)
        before = guard.last.astype(float)
        sent = guard.step(target, q, dq, good=rng.random(b) < 0.95)
        u = sent.astype(float)
        assert sent.dtype == np.float32
        assert np.isfinite(u).all()
        assert ((edges[0] <= u) & (u <= edges[1])).all()
        assert (np.abs(u - before) <= slew)[~rows].all()
        assert (np.abs(u[:, 1] * 2.0) <= 1.3).all()  # a motor's torque needs no measurement
        # a servo's: where it is more, no target that slew and range permit has less
        with np.errstate(invalid="ignore", over="ignore", under="ignore"):
            q, dq = q.astype(np.float32).astype(float), dq.astype(np.float32).astype(float)
            seen = np.isfinite(q[:, 0]) & np.isfinite(dq).all(-1) & ~rows
            torque = 40.0 * (u[:, 0] - q[:, 0]) - dq[:, 0]
        least = np.maximum(before[:, 0] - slew[0], edges[0, 0])
        most = np.minimum(before[:, 0] + slew[0], edges[1, 0])
        assert (u[:, 0] <= np.nextafter(np.float32(least), np.float32(9)))[seen & (torque > 15.0)].all()
        assert (u[:, 0] >= np.nextafter(np.float32(most), np.float32(-9)))[seen & (torque < -15.0)].all()
    assert all(guard.acted[stage].sum() > 100 for stage in guard.acted if stage != "late")
    assert guard.unmet["torque"].sum() > 100


def test_torque_and_velocity_are_never_breached_where_nothing_contradicts_them():
    rng, b = np.random.default_rng(1), 1000
    wide = contract(KNEE | {"low": None, "high": None}, WHEEL, BACKWARD)
    for stage in ("torque", "velocity"):
        numbers: dict[str, Any] = {stage: {"knee": 12.0, "wheel": 0.7, "backward": 2.0}}
        guard = guarding(wide, b, **numbers, grace=0)
        for _ in range(100):
            guard.begin()
            q, dq = rng.normal(0, 2, (2, b, 3)).astype(np.float32)
            u = guard.step(adversary(rng, (b, 3)), q, dq).astype(np.longdouble)
            moving = guard.why == 0
            servo = 40 * (u[:, 0] - q[:, 0]) - (dq[:, 0] if stage == "torque" else 0)
            assert (np.abs(servo) <= 12)[moving].all()  # velocity: kp ahead <= kd 12
            force = u[:, 1:] * np.array([2.0, -4.0])
            if stage == "torque":
                assert (np.abs(force) <= np.array([0.7, 2.0])).all()
            else:
                fast = np.abs(dq[:, 1:]) > np.array([0.7, 2.0])
                assert (force * dq[:, 1:] <= 0)[fast & moving[:, None]].all()
        assert not guard.unmet[stage][guard.why == 0].any()


def test_what_needs_no_bound_passes_to_the_last_bit():
    guard = guarding(ALL, 500, slew=1e9, torque=1e9, velocity=1e9, margin=0.0)
    rng = np.random.default_rng(2)
    low, high = guard.bounds.low, guard.bounds.high
    for _ in range(20):
        target = (low + (high - low) * rng.random((500, 3))).astype(np.float32)
        assert np.array_equal(
            guard.step(target, rng.normal(size=(500, 3)), rng.normal(size=(500, 3))), target
        )
    assert not any(count.any() for count in guard.acted.values())


def test_the_range_of_the_file_is_the_float32_that_the_graph_clips_to():
    odd = contract(KNEE | {"low": -0.9472, "high": 0.1})
    guard = guarding(odd)
    assert run(guard, [-5.0, 5.0]) == [float(np.float32(-0.9472)), float(np.float32(0.1))]
    mine = guarding(odd, low=-0.3, high=0.05)
    sent = run(mine, [-5.0, 5.0])
    assert sent[0] >= -0.3 and sent[1] <= 0.05  # a person's number is not rounded outward
    assert sent == pytest.approx([-0.3, 0.05], abs=1e-7)


def test_slew_by_hand():
    guard = guarding(contract(KNEE), slew=12.5)  # 0.25 in a control period
    assert run(guard, [2.0, 2.0, 2.0, 1.2, -9.0], q=1.0) == [1.25, 1.5, 1.75, 1.5, 1.25]
    assert guard.acted["slew"].tolist() == [5]
    assert guard.acted["range"].tolist() == [0]


def test_a_soft_start_by_hand_and_again_after_begin():
    guard = guarding(contract(KNEE), soft_start=0.08)  # 4 control periods
    assert run(guard, [1.0] * 6, q=0.0) == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    guard.begin()
    assert run(guard, [1.0, 1.0], q=-1.0) == [-1.0, -0.5]
    assert guard.acted["soft start"].tolist() == [6]
    motor = guarding(contract(WHEEL), soft_start=0.08)
    assert run(motor, [1.0, 1.0], q=0.7) == [0.0, 0.25]  # from no force, wherever its joint is


def test_without_a_measured_position_a_servo_starts_from_its_default_and_outside_its_range_from_the_edge():
    assert run(guarding(contract(KNEE), soft_start=0.04), [1.5] * 3) == [0.5, 1.0, 1.5]
    assert run(guarding(contract(KNEE), slew=12.5), [0.0], q=7.0) == [1.75]  # its range ends at 2


def test_the_torque_law_by_hand():
    # |40 (u - 0.5) - 1 * 4| <= 16: u from 0.5 - 12 / 40 to 0.5 + 20 / 40
    guard = guarding(contract(KNEE), torque=16.0)
    assert run(guard, [9.0, -9.0], q=0.5, dq=4.0) == pytest.approx([1.0, 0.2], abs=1e-7)
    motor = guarding(contract(WHEEL), torque=0.5)
    assert run(motor, [9.0, -9.0]) == [0.25, -0.25]  # ctrl 1 is 2 N m
    filed = guarding(contract(BACKWARD), torque="file")
    assert run(filed, [9.0, -9.0]) == [0.25, -0.75]  # ctrl 1 is -4 N m, and the joint bears -1 to 3
    assert guarding(contract(KNEE), torque="file").bounds.torque == pytest.approx(np.array([[-20.0], [20.0]]))


def test_the_velocity_law_by_hand():
    # a servo at 8 rad/s that is kd 8 / kp = 0.2 ahead: 40 * 0.2 - 1 * 8 = 0 N m
    guard = guarding(contract(KNEE), velocity=8.0)
    assert run(guard, [9.0, -9.0, 0.6], q=0.5) == pytest.approx([0.7, 0.3, 0.6], abs=1e-7)
    motor = guarding(contract(WHEEL), velocity=8.0)
    assert run(motor, [1.0, -1.0], dq=9.0) == [0.0, -1.0]
    assert run(motor, [1.0, -1.0], dq=-9.0) == [1.0, 0.0]
    assert run(motor, [1.0, -1.0], dq=8.0) == [1.0, -1.0]
    backward = guarding(contract(BACKWARD), velocity=8.0)
    assert run(backward, [1.0, -1.0], dq=9.0) == [1.0, 0.0]


def test_of_two_bounds_that_contradict_each_other_the_later_holds_and_the_earlier_is_counted():
    guard = guarding(contract(KNEE), torque=4.0, slew=5.0)  # 0.1 rad around q; 0.1 a control period
    run(guard, [0.0], q=0.0, dq=0.0)
    assert run(guard, [0.0], q=1.0, dq=0.0) == pytest.approx([0.1])  # torque wants 0.9, slew permits 0.1
    assert guard.unmet["torque"].tolist() == [1]
    beyond = guarding(contract(KNEE), torque=4.0)
    assert run(beyond, [0.0], q=3.0, dq=0.0) == [2.0]  # torque wants 2.9, the range ends at 2
    assert beyond.unmet["torque"].tolist() == [1]
    both = guarding(contract(KNEE), velocity=4.0, torque=4.0)  # 0.1 around q, 0.1 around q + dq / 40
    assert run(both, [0.5], q=0.5, dq=12.0) == pytest.approx([0.7])
    assert both.unmet["velocity"].tolist() == [1]


def test_numbers_may_be_numpys_and_a_pose_at_the_very_edge():
    assert run(guarding(contract(WHEEL), torque=np.float32(0.5)), [9.0]) == [0.25]
    for edge in (3.2902, 0.1, 1 / 3):  # none is a float32
        posed: dict[str, Any] = {"fallback": "pose", "pose": edge, "pose_speed": 1e3, "grace": 0}
        for guard in (
            guarding(contract(KNEE | {"low": -edge, "high": edge, "joint_range": None}), **posed),
            guarding(contract(KNEE | {"high": 5.0}), low=-edge, high=edge, **posed),
        ):
            assert run(guard, [0.0], good=False) == [guard.bounds.high[0]]


def test_the_margin_keeps_a_servo_inside_its_joints_range():
    assert run(guarding(contract(KNEE), margin=0.25), [9.0, -9.0]) == [1.25, -1.0]
    given: dict[str, Any] = {"margin": 0.5, "joint_range": {"knee": [-1.0, 1.0]}}
    assert run(guarding(contract(KNEE), **given), [9.0, -9.0]) == [0.5, -0.5]


def test_a_bad_row_is_held_for_the_grace_then_latched_and_stays():
    guard = guarding(contract(KNEE), grace=2)
    assert run(guard, [1.0, math.nan, math.inf, 1.5, math.nan], q=0.0) == [1.0, 1.0, 1.0, 1.5, 1.5]
    assert guard.why.tolist() == [0]
    assert run(guard, [math.nan] * 2 + [0.0] * 3, q=0.0) == [1.5] * 5
    assert guard.why.tolist() == [1]
    assert [guard.acted[k].tolist() for k in ("held", "fallback")] == [[4], [4]]
    guard.rearm()
    assert run(guard, [0.0], q=0.0) == [0.0]


def test_damp_follows_the_joint_and_pose_goes_there_at_its_speed_and_motors_go_to_rest():
    pair = contract(KNEE, WHEEL)
    damp = guarding(pair, grace=0, fallback="damp")
    damp.step([1.0, 0.5], [0.0, 0.0])
    assert damp.step([1.0, 0.5], [0.25, 0.0], good=False).tolist() == [0.25, 0.0]
    assert damp.step([1.0, 0.5], [-0.5, 0.0]).tolist() == [-0.5, 0.0]
    assert damp.step([1.0, 0.5], [math.nan, 0.0]).tolist() == [-0.5, 0.0]  # not measured: held
    pose = guarding(pair, grace=0, fallback="pose", pose={"knee": -0.5}, pose_speed=25.0)
    pose.step([0.75, 0.5])
    moves = [pose.step([2.0, 0.5], good=False).tolist() for _ in range(4)]
    assert moves == [[0.25, 0.0], [-0.25, 0.0], [-0.5, 0.0], [-0.5, 0.0]]
    slow = guarding(pair, grace=0, slew={"wheel": 12.5})
    slow.step([1.0, 0.25])
    slow.step([1.0, 0.5])
    assert slow.step([1.0, 0.5], good=False).tolist() == [1.0, 0.25]  # the fallback is slewed as well


def test_a_batch_is_its_rows_one_by_one_and_a_second_run_is_the_same():
    rng = np.random.default_rng(3)
    numbers = {
        "slew": 7.0,
        "velocity": 9.0,
        "torque": 10.0,
        "soft_start": 0.1,
        "fallback": "damp",
        "margin": 0.1,
    }
    steps = [
        (*(adversary(rng, (20, 3)) for _ in range(3)), rng.random(20) < 0.9, rng.random(20) < 0.1)
        for _ in range(50)
    ]

    def together() -> tuple[Any, Guard]:
        guard = guarding(ALL, 20, **numbers)
        return np.stack([guard.step(x, q, dq, good=g, late=late) for x, q, dq, g, late in steps]), guard

    (sent, guard), (again, _) = together(), together()
    assert np.array_equal(sent, again)
    for row in range(20):
        alone = guarding(ALL, **numbers)
        ones = [
            alone.step(x[row], q[row], dq[row], good=g[row], late=late[row]) for x, q, dq, g, late in steps
        ]
        assert np.array_equal(np.stack(ones), sent[:, row])
        assert all(count[row] == alone.acted[stage][0] for stage, count in guard.acted.items())


def test_rows_begin_anew_alone():
    guard = guarding(contract(KNEE), 2, slew=5.0, grace=0)
    guard.step([[1.0], [1.0]], [[0.0], [0.0]], good=[False, False])
    guard.begin(np.array([True, False]))
    assert guard.step([[1.0], [1.0]], [[1.5], [1.5]]).tolist() == [[pytest.approx(1.4)], [0.0]]
    assert guard.why.tolist() == [0, 1]


def test_measured_joints_are_found_by_name_in_any_order():
    q, dq = guarding(ALL, 2).measure({"q": [[3, 2, 1], [6, 5, 4]], "dq": [[9, 8, 7], [0, 0, 0]]})
    assert q.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert dq.tolist() == [[7, 8, 9], [0, 0, 0]]
    given = {"knee": ["dq", 1], "wheel": None, "back*": ["q", 0]}
    q, _ = guarding(ALL, position_from=given).measure({"q": [3, 2, 1], "dq": [9, 8, 7]})
    assert np.array_equal(q, [[8, math.nan, 3]], equal_nan=True)


LIMP = KNEE | {"kd": 0.0}
OLD = {k: v for k, v in KNEE.items() if k not in ("joint", "joint_range", "force_range")}
POSE: dict[str, Any] = {"fallback": "pose", "pose_speed": 1.0}


@pytest.mark.parametrize(
    ("actuator", "numbers", "says"),
    [
        (KNEE, {"slew": 0.0}, "slew of 'knee' must be finite and above 0, got 0.0"),
        (KNEE, {"slew": math.nan}, "slew of 'knee' must be finite and above 0, got nan"),
        (KNEE, {"slew": "fast"}, "slew of 'knee' must be finite and above 0, got 'fast'"),
        (KNEE, {"torque": [1.0, 2.0]}, r"torque of 'knee' must be finite and above 0, got \[1.0, 2.0\]"),
        (KNEE, {"velocity": {"kne": 1.0}}, "velocity: no actuator 'kne'; did you mean 'knee'"),
        (KNEE, {"margin": -0.1}, "margin of 'knee' must be finite and at least 0, got -0.1"),
        (KNEE, {"margin": 1.6}, "the range of 'knee' is empty: from 0.1"),
        (KNEE, {"low": 1.0, "high": 0.0}, "the range of 'knee' is empty: from 1.0 to 0.0"),
        (KNEE, {"low": "x"}, "low of 'knee' must be finite, got 'x'"),
        (KNEE, {"high": [1.0]}, r"high of 'knee' must be finite, got \[1.0\]"),
        (KNEE, {"torque": 1.0, "velocity_from": {"knee": None}}, "torque of 'knee' needs the velocity"),
        (KNEE | {"unit": "0.5 rad"}, {"torque": 1.0, "kind": "servo"}, "torque of 'knee' needs kp"),  # geared
        (KNEE, {"soft_start": -1.0}, "soft_start must be a number of seconds from 0 on, got -1.0"),
        (KNEE, {"soft_start": math.nan}, "soft_start must be a number of seconds from 0 on, got nan"),
        (KNEE, {"deadline": 0}, "deadline must be a number of seconds above 0, got 0"),
        (KNEE, {"grace": -1}, "grace must be a whole number of control periods from 0 on, got -1"),
        (KNEE, {"grace": 1.5}, "grace must be a whole number"),
        (KNEE, {"fallback": "stop"}, r"fallback must be one of \('hold', 'damp', 'pose'\), got 'stop'"),
        (
            KNEE,
            POSE,
            "fallback 'pose' goes with pose and pose_speed of 'knee'; got pose None, pose_speed 1.0",
        ),
        (
            KNEE,
            {"pose": 1.0},
            "goes with pose and pose_speed of 'knee'; got pose 1.0, pose_speed None and fallback 'hold'",
        ),
        (KNEE, {**POSE, "pose": [1.0, 2.0]}, r"pose of 'knee' must be finite, got \[1.0, 2.0\]"),
        (KNEE, {**POSE, "pose": {}}, "got pose None, pose_speed 1.0 and fallback 'pose'"),
        (KNEE, {**POSE, "pose": 2.5}, "pose of 'knee' must be within its range, -1.0 to 2.0; got 2.5"),
        (KNEE, {"kind": {"knee": "muscle"}}, "kind of 'knee' must be 'servo' or 'motor'; got 'muscle'"),
        (KNEE, {"joint_range": [1.0, 0.0], "margin": 0.0}, r"joint_range of 'knee' must be \[low, high\]"),
        (KNEE, {"position_from": "p"}, "position_from of 'knee': no input 'p'"),
        (KNEE, {"position_from": "dq"}, r"no column of 'dq' is 'knee': give \['dq', column\]"),
        (KNEE, {"position_from": ["q", 3]}, "position_from of 'knee': 'q' has columns 0 to 2, got 3"),
        (KNEE, {"torque": "fil"}, "torque of 'knee' must be finite and above 0, got 'fil'"),
        (KNEE, {"torque": {"hip*": 1.0}}, r"torque: no actuator 'hip\*'; there are \['knee'\]"),
        (KNEE, {"slew": 10**400}, "slew of 'knee' must be finite and above 0, got 1000"),
        (LIMP, {"velocity": 1.0}, "velocity of 'knee' needs a kd above 0, got 0.0"),
        (
            OLD | {"name": "hip"},
            {"torque": 1.0},
            "torque of 'hip' needs the position of its joint, which no input",
        ),
        (
            OLD,
            {"fallback": "damp"},
            "fallback 'damp' of 'knee' needs the position of its joint.* give position_from",
        ),
        (OLD, {"torque": "file"}, "torque 'file' needs force_range of 'knee', which the file does not say"),
        (
            KNEE | {"force_range": [1.0, 2.0]},
            {"torque": "file"},
            r"torque of 'knee' must be \[low <= 0, high >= 0\]",
        ),
        (
            OLD,
            {"margin": 0.1},
            "margin of 'knee' needs the range of its joint, which the file does not say: give joint_range",
        ),
        (
            KNEE,
            {"margin": 0.1, "joint_range": {"knee": None}},
            "margin of 'knee' needs the range of its joint",
        ),
        (
            KNEE | {"input": "position"},
            {},
            "kind of 'knee' must be 'servo' or 'motor'; the file does not say",
        ),
        (KNEE | {"unit": None}, {}, "kind of 'knee' must be 'servo' or 'motor'; the file does not say which"),
        (
            {k: v for k, v in KNEE.items() if k != "kp"},
            {"torque": 1.0, "kind": {"knee": "servo"}},
            "torque of 'knee' needs kp, which the file does not say: give kp",
        ),
        (
            KNEE | {"unit": "%"},
            {"torque": 1.0, "kind": "motor"},
            "torque of 'knee' needs the force of ctrl 1",
        ),
        (
            WHEEL,
            {"velocity": 1.0, "velocity_from": {"*": None}},
            "velocity of 'wheel' needs the velocity of its joint",
        ),
        (
            WHEEL | {"low": 0.5},
            {"torque": 0.5},
            "torque leaves 'wheel' a ctrl of -0.25 to 0.25, outside its range",
        ),
    ],
)
def test_an_impossible_filter_is_refused_by_thing_rule_and_value(
    actuator: dict[str, Any], numbers: dict[str, Any], says: str
):
    with pytest.raises(FilterError, match=says):
        guarding(contract(actuator), **numbers)


COLUMN = r"position_from of 'knee' must be an input or \[input, column\], got "
RANGE = r"joint_range of 'knee' must be \[low, high\], got "


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        ({"kind": 5}, "kind of 'knee' must be 'servo' or 'motor'; got 5"),
        ({"kind": ["servo"]}, r"kind of 'knee' must be 'servo' or 'motor'; got \['servo'\]"),
        ({"kind": {"knee": ["servo"]}}, r"kind of 'knee' must be 'servo' or 'motor'; got \['servo'\]"),
        ({"position_from": 5}, COLUMN + "5"),
        ({"position_from": []}, COLUMN + r"\[\]"),
        ({"position_from": {"knee": ["q"]}}, COLUMN + r"\['q'\]"),
        ({"position_from": {"knee": {"q": 0, "dq": 1}}}, COLUMN + r"\{'q': 0, 'dq': 1\}"),
        ({"position_from": [["q"], 0]}, COLUMN + r"\[\['q'\], 0\]"),
        ({"position_from": ["q", True]}, "position_from of 'knee': 'q' has columns 0 to 2, got True"),
        ({"velocity_from": ["dq", 1.0]}, "velocity_from of 'knee': 'dq' has columns 0 to 2, got 1.0"),
        ({"joint_range": 5}, RANGE + "5"),
        ({"joint_range": "k"}, RANGE + "'k'"),
        ({"joint_range": [5]}, RANGE + r"\[5\]"),
        ({"joint_range": [[-1.0, 1.0]]}, RANGE + r"\[\[-1.0, 1.0\]\]"),
        ({"joint_range": {"knee": "ab"}}, RANGE + "'ab'"),
        ({"joint_range": {"knee": {"low": -1.0, "high": 1.0}}}, RANGE + r"\{'low': -1.0, 'high': 1.0\}"),
        ({"soft_start": None}, "soft_start must be a number of seconds from 0 on, got None"),
    ],
)
@pytest.mark.parametrize("used", [{}, {"margin": 0.1, "torque": 4.0}])
def test_a_value_of_the_wrong_kind_is_refused_by_key_rule_and_value_whether_or_not_a_stage_uses_it(
    numbers: dict[str, Any], says: str, used: dict[str, Any]
):
    with pytest.raises(FilterError, match=says + "$"):
        guarding(contract(KNEE), **used | numbers)


def test_what_an_older_file_does_not_say_a_person_may():
    said: dict[str, Any] = {"kp": 20.0, "kd": 2.0, "position_from": ["q", 2], "velocity_from": ["dq", 2]}
    guard = guarding(contract(OLD), torque=4.0, margin=0.5, joint_range=[-1.0, 1.0], **said)
    assert run(guard, [9.0], q=0.0, dq=1.0) == pytest.approx([0.3])  # (4 + 2) / 20
    assert run(guard, [9.0], q=0.4, dq=1.0) == [0.5]


def test_an_input_is_searched_for_the_joint_or_in_older_files_for_the_actuator_of_that_name():
    for knee in (KNEE, OLD):
        [row] = resolve({"position_from": "q", "velocity_from": "dq"}, contract(knee), SHA256).actuators
        assert (row.q, row.dq) == (("q", 2), ("dq", 2))


def test_a_name_comes_before_a_pattern_and_an_earlier_pattern_before_a_later_one():
    slew = {"w*": 2.0, "*": 3.0, "knee": 1.0}
    rows = resolve({"slew": slew, "velocity": {"knee": 9.0}}, ALL, SHA256).actuators
    assert [(row.slew, row.velocity) for row in rows] == [(1.0, 9.0), (2.0, None), (3.0, None)]


def test_numbers_are_resolved_into_a_table_with_a_row_for_each_actuator():
    numbers = {
        "slew": 7.0,
        "margin": {"knee": 0.25},
        "torque": "file",
        "fallback": "pose",
        "pose": 0.5,
        "grace": 3,
    }
    filter = resolve(numbers | {"pose_speed": 1.0}, ALL, SHA256)
    assert (filter.sha256, filter.control_dt, filter.grace, filter.deadline) == (SHA256, 0.02, 3, None)
    knee, _, backward = filter.actuators
    bounds: dict[str, Any] = {"slew": 7.0, "pose": 0.5, "pose_speed": 1.0}
    assert knee == Bound(
        "knee", "servo", -1.0, 1.25, torque=(-20.0, 20.0), default=0.5, kp=40.0, kd=1.0,
        q=("q", 2), dq=("dq", 2), **bounds,
    )  # fmt: skip
    assert backward == Bound(
        "backward", "motor", -1.0, 1.0, torque=(-1.0, 3.0), force=-4.0, q=("q", 0), dq=("dq", 0), **bounds
    )


def test_a_table_that_was_written_is_read_as_it_was(tmp_path: Path):
    numbers: dict[str, Any] = {"low": -0.3, "slew": 1 / 3, "torque": {"*": 2.0}, "deadline": 0.03}
    filter = resolve(numbers, ALL, SHA256)
    write_filter(filter, tmp_path / "table.json")
    assert Filter.open(tmp_path / "table.json") == filter
    assert len((tmp_path / "table.json").read_text().splitlines()) == 1 + 7 + 1 + 3 + 2


@pytest.mark.parametrize(
    ("old", "new"), [("12.5", "12.6"), ('"grace": 2', '"grace": 3'), ('"kd": 1.0, ', "")]
)
def test_a_table_that_was_changed_by_hand_is_refused(tmp_path: Path, old: str, new: str):
    file = tmp_path / "table.json"
    write_filter(resolve({"slew": 12.5}, contract(KNEE), SHA256), file)
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    with pytest.raises(
        FilterError, match=r"no filter in .*table\.json: not written by robokit filter, or changed since"
    ):
        Filter.open(file)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"slaw": 3.0}', "a filter has no 'slaw'; did you mean 'slew'"),
        ("[1]", "must hold a JSON object, got list"),
        ("{", "no filter in"),
        ('{"soft_start": NaN}', "NaN is no finite number"),
        ('{"soft_start": 1e999}', "1e999 is no finite number"),
        ('{"slew": 1.0, "slew": 9.0}', "an object has a key twice: .*'slew'"),
        ("[" * 100_000, "nested more than 32 deep"),
        (" " * (1 << 22) + "{}", "more than 4,194,304 bytes"),
        ('{"sha256": "0"}', "not written by robokit filter, or changed since"),
        (None, "no filter in"),
    ],
)
def test_a_json_file_that_is_no_filter_is_refused(file: Path, tmp_path: Path, text: str | None, says: str):
    numbers = tmp_path / "numbers.json"
    if text is not None:
        numbers.write_text(text)
    with pytest.raises(FilterError, match=says):
        filter_for(Exported.open(file), numbers)


def signed(path: Path, **changed: Any) -> Path:
    """A table with some keys changed, and its digest made again."""
    table = json.loads(path.read_text()) | changed
    del table["digest"]
    path.write_text(json.dumps({"digest": digest(table)} | table))
    return path


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"actuators": []}, "actuators must be 1 to 4096 rows"),
        ({"actuators": {"knee": 1}}, "no filter in"),
        ({"actuators": [{"name": 3, "kind": "servo"}]}, "name of an actuator must be a text, got 3"),
        ({"actuators": [{"name": "a", "kind": "motor"}] * 2}, "two actuators must not have one name"),
        (
            {"actuators": [{"name": "a", "kind": "motor", "q": ["q", -1]}]},
            r"q of 'a' must be \[input, column\]",
        ),
        ({"actuators": [{"name": "a", "kind": "motor", "dq": "q"}]}, r"dq of 'a' must be \[input, column\]"),
        ({"actuators": [{"name": "a", "kind": "motor", "low": "x"}]}, "low of 'a' must be finite, got 'x'"),
        ({"actuators": [{"name": "a", "kind": ["motor"]}]}, "kind of 'a' must be one of"),
        ({"grace": True}, "grace must be a whole number"),
        ({"control_dt": "fast"}, "control_dt of 'the file' must be finite and above 0"),
        ({"more": 1}, "unexpected keyword argument 'more'"),
    ],
)
def test_a_table_with_a_good_digest_and_impossible_content_is_refused(
    tmp_path: Path, changed: dict[str, Any], says: str
):
    file = tmp_path / "table.json"
    write_filter(resolve({"slew": 12.5}, contract(KNEE), SHA256), file)
    with pytest.raises(FilterError, match=says):
        Filter.open(signed(file, **changed))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"name": "other"}, r"the file drives \['knee'\] every 0.02 s, not \['other'\]"),
        ({"q": ("q", 3)}, "the file has no input 'q' with a column 3"),
        ({"dq": ("speed", 0)}, "the file has no input 'speed' with a column 0"),
    ],
)
def test_a_filter_that_names_what_the_file_lacks_is_refused(changed: dict[str, Any], says: str):
    table = resolve({}, contract(KNEE), SHA256)
    table = replace(table, actuators=(replace(table.actuators[0], **changed),))
    with pytest.raises(FilterError, match=says):
        table.check(SHA256, contract(KNEE))


@pytest.mark.parametrize("kind", ["folder", "fifo", "device"])
def test_only_a_regular_file_is_read_as_a_filter(tmp_path: Path, kind: str):
    file = tmp_path / "table.json"
    makers = {
        "folder": file.mkdir,
        "fifo": lambda: os.mkfifo(file),
        "device": lambda: file.symlink_to("/dev/zero"),
    }
    makers[kind]()
    with pytest.raises(FilterError, match=r"no filter in .*not a regular file"):
        Filter.open(file)


def test_a_call_inside_another_is_refused_and_changes_nothing(file: Path):
    policy = filtered(file, slew=100.0)
    refused = []

    class Nested(dict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            for call in (policy.reset, policy.rearm, lambda: policy.step(GOOD)):
                with pytest.raises(ConcurrentCall, match="was called while another call is inside"):
                    call()
                refused.append(name)
            return super().__getitem__(name)

    before = policy.step(GOOD).tolist()
    plain = filtered(file, slew=100.0)
    assert plain.step(GOOD).tolist() == before
    assert policy.step(Nested(GOOD)).tolist() == plain.step(GOOD).tolist()
    assert refused and policy.state == "policy"
    policy.reset()  # the lock is free again


def test_a_table_of_another_file_is_refused(file: Path, tmp_path: Path):
    ours = Exported.open(file)
    table = resolve({"slew": 3.0}, ours.contract, ours.sha256)
    write_filter(table, tmp_path / "table.json")
    assert filter_for(ours, tmp_path / "table.json") == table
    other = Exported.open(write(tmp_path / "other.onnx", contract=ours.contract | {"task": "other"}))
    says = (
        f"the filter is for the file of sha256 {ours.sha256}, not {other.sha256}: make a table for this file"
    )
    for refuses in (
        lambda: Filtered(Controller(other), table),
        lambda: filter_for(other, tmp_path / "table.json"),
    ):
        with pytest.raises(FilterError, match=says):
            refuses()


# -- tightened on the robot --------------------------------------------------------------------------------


def test_a_tightened_filter_bounds_by_the_factor():
    filter = resolve(
        {"slew": 12.5, "velocity": {"knee": 8.0}, "torque": {"knee": 16.0, "back*": "file"}}, ALL, SHA256
    )
    tight = filter.tightened(slew=0.5, torque=0.25).tightened(slew=0.5, velocity=1.0)
    assert [row.slew for row in tight.actuators] == [3.125] * 3
    assert [row.torque for row in tight.actuators] == [(-4.0, 4.0), None, (-0.25, 0.75)]
    assert [row.velocity for row in tight.actuators] == [8.0, None, None]
    assert filter.tightened() == filter == filter.tightened(slew=1.0)
    assert run(
        Guard(resolve({"slew": 12.5}, contract(KNEE), SHA256).tightened(slew=0.5)), [2.0] * 2, q=1.0
    ) == [
        1.125,
        1.25,
    ]


@pytest.mark.parametrize("factor", [0.0, -0.5, 1.0000001, 2.0, math.nan, math.inf, "0.5", None, True])
@pytest.mark.parametrize("rule", ["slew", "velocity", "torque"])
def test_a_filter_is_never_widened(rule: str, factor: Any):
    filter = resolve({"slew": 12.5, "velocity": 8.0, "torque": 16.0}, contract(KNEE), SHA256)
    with pytest.raises(
        FilterError, match=f"{rule} is tightened by a factor above 0 and at most 1, got {factor!r}"
    ):
        filter.tightened(**{rule: factor})


def test_what_cannot_be_tightened_is_refused():
    filter = resolve({"slew": 12.5}, contract(WHEEL | {"low": 0.5}), SHA256)
    with pytest.raises(
        FilterError, match=r"only \('slew', 'velocity', 'torque'\) can be tightened, got 'grace'"
    ):
        filter.tightened(grace=0.5)
    with pytest.raises(FilterError, match="torque has no bound that could be tightened"):
        filter.tightened(torque=0.5)
    with pytest.raises(FilterError, match=r"torque leaves 'wheel' a ctrl of -0\.25 to 0\.25, outside"):
        resolve({"torque": 1.0}, contract(WHEEL | {"low": 0.5}), SHA256).tightened(torque=0.5)


# -- on the robot: ctrl = 2 angle + the previous ctrl, 10 after a reset ------------------------------------


def filtered(path: Path, **numbers: Any) -> Filtered:
    """A file behind the filter that these numbers make for it."""
    file = Exported.open(path)
    return Filtered(Controller(file), resolve(numbers, file.contract, file.sha256))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    angle = {
        "name": "angle",
        "size": 1,
        "unit": "rad",
        "source": "hinge",
        "frame": "joint axis",
        "max_age": 0.1,
    }
    hinge = {
        "name": "hinge",
        "joint": "hinge",
        "unit": "rad",
        "kp": 10.0,
        "kd": 1.0,
        "low": -50.0,
        "high": 50.0,
    }
    inputs = [angle, CONTRACT["inputs"][1]]
    return write(tmp_path / "spin.onnx", contract=CONTRACT | {"inputs": inputs, "actuators": [hinge]})


BROKEN = {"angle": [0.25], "rate": [math.nan, 0.0]}


def test_a_bad_observation_is_answered_with_the_last_target_then_with_the_latched_fallback(file: Path):
    policy = filtered(file, grace=1)
    given: list[Any] = [GOOD, BROKEN, GOOD, BROKEN, {"angle": [0.25]}, GOOD]
    seen = [(policy.step(obs).tolist(), policy.state) for obs in given]
    assert seen == [
        ([10.5], "policy"),
        ([10.5], "held"),
        ([11.0], "policy"),
        ([11.0], "held"),
        ([11.0], "fallback"),
        ([11.0], "fallback"),
    ]
    assert policy.reason == (
        "step 4, 0.08 s: ObservationError: observation 'rate' is missing; the policy takes ['angle', 'rate']"
    )
    policy.reset()
    assert (policy.step(GOOD).tolist(), policy.state) == ([11.0], "fallback")  # only rearm leaves it
    policy.rearm()
    assert (policy.step(GOOD).tolist(), policy.state, policy.reason) == ([10.5], "policy", None)
    assert policy.acted == dict.fromkeys(policy.acted, 0) | {"held": 2, "fallback": 3}


def test_before_the_first_good_observation_there_is_no_safe_target_and_step_raises(file: Path):
    policy = filtered(file)
    with pytest.raises(ObservationError, match="'rate' is not finite"):
        policy.step(BROKEN)
    policy.step(GOOD)
    policy.step(BROKEN)
    policy.reset()
    with pytest.raises(ObservationError, match="'rate' is not finite"):
        policy.step(BROKEN)


def test_a_stale_observation_and_a_late_step_count_against_the_grace(file: Path):
    policy = filtered(file, grace=1, deadline=0.03)
    policy.step(GOOD, {"angle": 1.0}, now=1.0)
    policy.step(GOOD, {"angle": 0.9}, now=1.02)
    assert policy.state == "held"
    policy.step(GOOD, {"angle": 1.04}, now=1.04)
    assert policy.step(GOOD, now=1.08).tolist() == [11.5]
    assert policy.state == "late"  # and acted on: it is the newest there is
    policy.step(GOOD, now=1.12)
    assert policy.reason is not None
    assert policy.reason.startswith("step 4, 0.08 s: 0.04")
    assert policy.reason.endswith("s since the step before, at most 0.03 s")
    assert policy.guard.why.tolist() == [2]


def test_damp_goes_on_measuring_the_joint_while_another_sensor_is_dead(file: Path):
    policy = filtered(file, grace=0, fallback="damp")
    policy.step(GOOD)
    assert policy.step({"angle": [7.0], "rate": [math.nan, 0.0]}).tolist() == [7.0]
    assert policy.step({"angle": [8.0], "rate": [0.0, 0.0]}).tolist() == [8.0]
    old = {"angle": 0.0}, 0.2
    assert policy.step({"angle": [9.0], "rate": [0.0, 0.0]}, *old).tolist() == [8.0]  # stale: held
    assert policy.step({"angle": [math.nan], "rate": [0.0, 0.0]}).tolist() == [8.0]
    assert policy.step({}).tolist() == [8.0]


@pytest.mark.parametrize(
    "angle", [0.25, [], [0.25, 0.5], [[0.25]], ["0.25"], [10**400], None, [1e60], [True], object()]
)
def test_an_angle_that_is_no_angle_is_answered_too_and_never_followed(file: Path, angle: Any):
    policy = filtered(file, grace=0, fallback="damp")
    policy.step(GOOD)
    odd: list[Any] = [None, {"angle": None}, {"rate": "now"}, [1.0], np.zeros(2)]
    for stamps in odd:
        sent = policy.step(GOOD | {"angle": angle, "rate": [math.nan, 0.0]}, stamps)
        assert (sent.tolist(), policy.state) == ([10.5], "fallback")


def test_damp_follows_the_joint_while_only_its_speed_is_dead(tmp_path: Path):
    angle = {"name": "angle", "size": 1, "source": "hinge", "frame": "joint axis", "unit": "rad"}
    rate = {"name": "rate", "size": 2, "source": ["hinge velocity", "other"], "frame": "joint axis"}
    rate |= {"unit": "rad/s"}
    hinge = {"name": "hinge", "joint": "hinge", "unit": "rad", "kp": 10.0, "kd": 1.0}
    said = CONTRACT | {"inputs": [angle, rate], "actuators": [hinge]}
    policy = filtered(write(tmp_path / "spin.onnx", contract=said), grace=0, fallback="damp")
    policy.step(GOOD)
    for q, rest in ((7.0, {}), (8.0, {"rate": [1.0]}), (9.0, {"rate": [math.nan, 0.0]})):
        assert policy.step({"angle": [q], **rest}).tolist() == [q]
    stamps = {"angle": 5.0, "rate": 1.0}
    assert policy.step(GOOD | {"angle": [6.0]}, stamps, now=5.0).tolist() == [6.0]  # stale speed


def test_a_trip_in_the_middle_of_a_step_counts_from_the_next_one_on(file: Path, monkeypatch):
    policy = filtered(file)
    policy.step(GOOD)
    watch = policy.guard._watch

    def interrupted(good: Any, late: Any) -> None:
        before = policy.guard.why.copy()
        policy.trip("the red button")
        policy.guard.why = before  # what this step had read already is what it writes
        watch(good, late)

    monkeypatch.setattr(policy.guard, "_watch", interrupted)
    assert (policy.step(GOOD).tolist(), policy.state) == ([11.0], "policy")
    monkeypatch.setattr(policy.guard, "_watch", watch)
    assert (policy.step(GOOD).tolist(), policy.state) == ([11.0], "fallback")
    assert policy.guard.why.tolist() == [3]
    assert policy.reason == "step 1, 0.02 s: the red button"


def test_a_trip_before_the_first_good_observation_invents_no_target(file: Path):
    policy = filtered(file, slew=100.0)
    policy.trip("the red button")
    with pytest.raises(ObservationError, match="'rate' is not finite"):
        policy.step(BROKEN)
    assert (policy.step(GOOD).tolist(), policy.state) == ([0.25], "fallback")  # where the hinge is


def test_waiting_for_the_first_observation_is_not_late(file: Path):
    policy = filtered(file, grace=0, deadline=0.03)
    with pytest.raises(ObservationError):
        policy.step(BROKEN, now=1.0)
    policy.step(GOOD, now=2.0)
    assert policy.state == "policy"


def test_a_person_trips_it_and_rearm_starts_softly_from_the_last_target(file: Path):
    policy = filtered(file, soft_start=0.04)
    for expected in (0.25, 5.625, 11.5):  # 0.25 + 0, 1/2, 1 of the way to 10.5, 11, 11.5
        assert policy.step(GOOD).tolist() == [expected]
    policy.trip("the red button")
    assert policy.step(GOOD).tolist() == [11.5]
    assert policy.reason == "step 3, 0.06 s: the red button"
    policy.rearm()
    assert [policy.step(GOOD).tolist() for _ in range(2)] == [[11.5], [11.25]]  # half way to 11


def test_the_page_names_every_number_and_its_example_fits_the_shipped_policy():
    page = (ROOT / "docs/filter.md").read_text()
    table = page.partition("## The numbers")[2]
    rows = re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE)
    keys = [key for row in rows for key in re.findall(r"`(\w+)`", row)]
    assert sorted(keys) == sorted((*EACH, *WHOLE))
    [example] = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    [factors] = re.findall(r"(\w+)=([\d.]+), (\w+)=([\d.]+)\)   #", page)
    policy = filtered(WALK, **json.loads(example))
    policy.guard.filter.tightened(**{factors[0]: float(factors[1]), factors[2]: float(factors[3])})


def test_the_filter_runs_as_a_single_copied_file(tmp_path: Path):
    copy(ROOT / "robokit/filter.py", tmp_path)
    code = "import filter; print({'robokit', 'torch', 'mujoco', 'onnxruntime'} & sys.modules.keys())"
    done = subprocess.run(
        [sys.executable, "-c", HERE + code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


# -- a shipped policy, exported before the contract named joints --------------------------------------------

WALK = ROOT / "policies/go2_walk.onnx"
OLD_FACTS: dict[str, Any] = {"position_from": "joint_pos", "velocity_from": "joint_vel"}


def walk(policy: Any, periods: int) -> tuple[Any, Any, Any]:
    """(T, A) ctrl, q, dq of go2_walk in closed loop."""
    env = robokit.make("go2_walk", num_envs=1, seed=7, nominal=True, threads=1)
    env.hold({"velocity": (0.5, 0.0, 0.0)})
    env.reset()
    inputs, (sent, q, dq) = Controller(WALK).inputs, ([], [], [])
    for _ in range(periods):
        obs = {n: t[0].numpy() for n, t in env.terms().items() if n in inputs}
        sent.append(policy.step(obs))
        q.append(obs["joint_pos"].copy())
        dq.append(obs["joint_vel"].copy())
        env.step((torch.from_numpy(sent[-1])[None] - env.map.center) / env.map.half)
    return np.stack(sent), np.stack(q), np.stack(dq)


def test_a_shipped_policy_walks_through_a_wide_filter_as_without_it():
    policy = filtered(WALK, slew=1e4, torque=1e4, velocity=1e4, grace=0, **OLD_FACTS)
    sent, plain = walk(policy, 100), walk(Controller(WALK), 100)
    assert all(np.array_equal(a, b) for a, b in zip(sent, plain, strict=True))
    assert not any(policy.acted.values())


def test_a_shipped_policy_walks_within_narrow_bounds():
    policy = filtered(WALK, slew=15.0, torque=15.0, velocity=15.0, soft_start=0.2, **OLD_FACTS)
    sent, q, dq = walk(policy, 100)
    u = sent.astype(float)
    assert (np.abs(np.diff(u, axis=0)) <= 15.0 * 0.02).all()
    torque = np.abs(40 * (u - q) - dq) > 15.0
    ahead = np.abs(u - q) > 15.0 / 40
    assert torque.any(-1).sum() == policy.unmet["torque"]
    assert ahead.any(-1).sum() == policy.unmet["velocity"]
    assert min(policy.acted[stage] for stage in ("soft start", "velocity", "torque", "slew")) > 0
    assert (policy.acted["range"], policy.acted["fallback"]) == (0, 0)
