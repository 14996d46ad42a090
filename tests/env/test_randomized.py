"""A table of physical quantities in the place of `randomize`: drawn at restarts, told in the contract."""

from typing import Any

import mujoco
import pytest
import torch
from arm import Arm
from torch import Tensor

from robokit.env.checks.laws import check_task
from robokit.env.checks.notes import find_notes
from robokit.env.env import Env
from robokit.errors import ModelError, TaskError
from robokit.export.fields import write_contract
from robokit.export.gate import record
from robokit.task import Add, Scale, Task, uniform
from robokit.training.setup.build import Setup, algorithm

STIFF = Scale(10.0, 10.0, at="servo")


class Pair(Task):
    """Two joints with a servo each, beside one without."""

    model = mujoco.MjSpec.from_string(
        """<mujoco><worldbody><body><joint name="free"/><geom size=".1"/><body><joint name="a"/>
        <geom size=".1"/><body><joint name="b"/><geom size=".1"/></body></body></body></worldbody>
        <actuator><position joint="a" ctrlrange="-1 1"/><position joint="b" ctrlrange="-1 1"/></actuator>
        </mujoco>"""
    )
    control_dt, time_limit = 0.02, 1.0
    weights: Any = {"alive": 1.0}

    def observe(self, sim: Any) -> dict[str, Tensor]:
        return {"joints": sim.qpos[:, 1:] - sim.memory["joint_offset"]}

    def rewards(self, sim: Any, action: Tensor) -> dict[str, Tensor]:
        return {"alive": torch.ones(sim.num_envs)}


class Drawn(Arm):
    """The arm with a gain, a mass and an encoder's error that its reading has too."""

    randomize: Any = {
        "gain": Scale(0.5, 2.0, at="servo"),
        "mass": Scale(0.8, 1.2),
        "joint_offset": Add(-0.1, 0.1, at="shoulder"),
    }

    def reset(self, sim: Any, rng: torch.Generator) -> dict[str, Tensor]:
        return {"qpos": uniform(sim, rng, 2, 0.15)}

    def rewards(self, sim: Any, action: Tensor) -> dict[str, Tensor]:
        return {"alive": torch.ones(sim.num_envs, device=sim.device)}

    def observe(self, sim: Any) -> dict[str, Tensor]:
        seen = super().observe(sim)
        return seen | {"angle": sim.sensor("angle") - sim.memory["joint_offset"]}


def test_an_encoders_error_that_no_observation_has_is_noted():
    class Forgotten(Drawn):
        def observe(self, sim: Any) -> dict[str, Tensor]:
            return Arm.observe(self, sim)

    notes = {
        kind: [note for note in find_notes(kind()) if note.name == "joint offset"]
        for kind in (Drawn, Forgotten)
    }
    assert notes[Drawn] == []
    [note] = notes[Forgotten]
    assert "less sim.memory['joint_offset'] in observe (test_randomized.py, line " in note.detail


def test_offsets_of_some_joints_stand_in_the_order_of_all_that_have_a_servo():
    class Two(Pair):
        randomize: Any = {"joint_offset": Add(0.1, 0.1, at="b")}

    env = Env(Two(), 2, threads=1)
    assert env.sim.memory["joint_offset"].tolist() == [[0.0, 0.1]] * 2


class Both(Drawn):
    def _slippery(self, sim: Any, rng: torch.Generator) -> dict[str, Tensor]:
        return {"geom_friction": 0.5 * sim.nominal("geom_friction").expand(sim.num_envs, -1, -1)}

    randomize: Any = {**Drawn.randomize, "own": _slippery}


def test_draws_differ_between_simulations_and_change_at_a_restart():
    env = Env(Drawn(), 6, seed=1)
    first = env.sim.memory["joint_offset"].clone()
    bias = env.sim._fields["actuator_biasprm"].clone()  # pyright: ignore[reportAttributeAccessIssue]
    gain = env.sim._fields["actuator_gainprm"][:, 1, 0]  # pyright: ignore[reportAttributeAccessIssue]
    assert len(first.unique()) == 6
    assert ((gain > 0.05) & (gain < 0.2)).all()
    torch.testing.assert_close(bias[:, 1, 0], gain * first[:, 0])
    for _ in range(30):  # to the time limit
        env.step(torch.zeros(6, 2))
    assert not torch.isclose(env.sim.memory["joint_offset"], first).any()


def test_a_servo_that_reads_its_offset_holds_the_target_it_reads():
    class Still(Drawn):
        time_limit = 100.0
        randomize: Any = {
            "joint_offset": Add(0.05, 0.05, at="shoulder"),
            "gain": STIFF,
        }

        def reset(self, sim: Any, rng: torch.Generator) -> dict[str, Tensor]:
            return {}

        def terminated(self, sim: Any) -> Tensor:
            return torch.zeros(sim.num_envs, dtype=torch.bool, device=sim.device)

    class Plain(Still):
        randomize: Any = {"gain": STIFF}
        observe = Arm.observe

    held = []
    for task in (Still(), Plain()):
        env = Env(task, 1)
        for _ in range(500):
            step = env.step(torch.zeros(1, 2))
            assert not step.bad.any()
        held.append(float(env.sim.joint("shoulder").qpos))
    assert 0.4 < held[1] < 1.4  # gravity pulls it beyond the target of action 0, 0.875
    assert held[0] - held[1] == pytest.approx(0.05, abs=0.03)


def test_a_function_draws_beside_the_table():
    env = Env(Both(), 3)
    friction = env.sim._fields["geom_friction"]  # pyright: ignore[reportAttributeAccessIssue]
    torch.testing.assert_close(friction, 0.5 * env.sim.nominal("geom_friction").expand(3, -1, -1))
    assert len(env.sim.memory["joint_offset"].unique()) == 3


def test_what_the_table_and_a_function_both_write_is_refused():
    class Twice(Both):
        randomize: Any = {**Both.randomize, "friction": Scale(0.5, 1.0)}

    with pytest.raises(TaskError, match=r"Twice.randomize\['own'\] writes 'geom_friction', which a quantity"):
        Env(Twice(), 2)


def test_nominal_simulations_have_none_and_a_second_env_of_one_task_draws_again():
    task = Drawn()
    assert not Env(task, 2, nominal=True).sim.memory["joint_offset"].any()
    assert Env(task, 2).sim.memory["joint_offset"].all()


def test_a_wrong_table_is_refused_before_anything_runs():
    class Wrong(Arm):
        randomize: Any = {"gain": Scale(0.5, 2.0, at="servos")}

    with pytest.raises(ModelError, match="gain at 'servos': the model has no such actuator; did you"):
        Env(Wrong(), 2)


def test_the_laws_hold_for_a_table():
    assert not [finding for finding in check_task(Drawn()) if not finding.ok]


def test_the_contract_tells_the_ranges():
    env = Env(Drawn(), 4)
    config = algorithm(Setup().algo).Config(num_envs=4, hidden=(8,))
    policy = algorithm(Setup().algo).make_actor(env, config)
    ranges = write_contract(policy, env, record(policy, env, 20), None)["randomized"]
    assert ranges["gain"] == {"scale": [0.5, 2.0], "unit": "1", "of": ["servo"]}
    assert ranges["joint_offset"] == {"add": [-0.1, 0.1], "unit": "rad", "of": ["shoulder"]}
    plain = Env(Arm(), 4)
    assert "randomized" not in write_contract(policy, plain, record(policy, plain, 20), None)


def test_a_resumed_env_continues_bit_for_bit():
    straight, other = Env(Drawn(), 4, seed=2), Env(Drawn(), 4, seed=3)
    actions = torch.rand(40, 4, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for action in actions[:17]:
        straight.step(action)
    other.load_state_dict(straight.state_dict())
    for action in actions[17:]:
        one, two = straight.step(action), other.step(action)
        assert torch.equal(one.obs, two.obs)


def test_a_task_without_a_table_is_as_before():
    assert type(Arm().randomize).__name__ == "method"
    assert Task.randomize is Arm.randomize
