"""A simulation that breaks is counted by its cause, and every command says so."""

from typing import Any

import mujoco
import pytest
import torch
from cart import Cart, Still, actions, but, new, spec

from robokit.env.checks.laws import check_task
from robokit.env.env import Env
from robokit.sim.base import Sim
from robokit.task.task import Terms


class Fragile(Still):
    """Simulation 0 becomes too fast in its second control step, again and again."""

    def disturb(self, sim: Sim, rng: torch.Generator) -> Terms:
        hit = (torch.arange(sim.num_envs) == 0) & (sim.memory["age"][:, 0] == 1)
        return {"qvel": torch.where(hit[:, None], 1e12, sim.qvel)}


def after(task: type[Cart], steps: int) -> Env:
    env = new(task, 3)
    for action in actions(steps, 3):
        env.step(action)
    return env


def test_what_breaks_is_counted_once_each_time_and_told_first_and_last():
    env = new(Fragile, 3)
    assert env.broken.note() == env.broken.note(last=True) == ""
    for action in actions(2, 3):
        env.step(action)
    first = env.broken.note()
    assert first.startswith(
        "a simulation broke once: qvel not finite or above 1e10 (1); such an episode ends"
    )
    assert first.endswith("a smaller timestep may help")
    for action in actions(4, 3):
        env.step(action)
    assert env.broken.note() == "" != env.broken.note(last=True)
    assert after(Fragile, 6).broken.note().startswith("a simulation broke 3 times: qvel")
    assert after(Still, 6).broken.note(last=True) == ""


def test_of_several_causes_the_first_counts_and_the_most_frequent_is_named_first():
    env = new(Still, 4)
    faults = torch.zeros(4, len(env.sim.causes), dtype=torch.bool)
    faults[0, :2] = faults[1, 1:] = faults[2, 1] = True
    env.broken.add(faults)
    env.broken.add(faults[3:])
    one, other = [*env.sim.causes][:2]
    said = env.broken.note()
    assert said.startswith(f"a simulation broke 3 times: {other} (2), {one} (1); ")
    assert said.endswith([*env.sim.causes.values()][1])


def test_check_names_the_cause_and_the_remedy():
    model = spec()
    model.option.timestep, model.option.gravity = 0.02, [0, 0, -1e12]
    found = {f.name: f for f in check_task(but(model=model), 2, 10)}
    assert not found["rollout"].ok and "not finite or above 1e10" in found["rollout"].detail
    assert "a simulation broke" in found["rollout"].detail and "timestep" in found["rollout"].detail
    assert found["rollout"].detail.endswith("look also at what reset and randomize return")  # at step 0
    late = {f.name: f for f in check_task(Fragile(), 2, 10)}["rollout"].detail
    assert "a simulation broke" in late and "reset" not in late


def test_check_says_that_a_model_that_sleeps_cannot_be_resumed():
    model = mujoco.MjSpec.from_string(
        spec().to_xml().replace("<worldbody>", '<option><flag sleep="enable"/></option><worldbody>')
    )
    found = {f.name: f for f in check_task(but(model=model), 2, 10)}
    assert not found["deterministic"].ok and '<flag sleep="enable"/>' in found["deterministic"].detail


@pytest.mark.parametrize("name", ["opt.timestep", "actuator_ctrlrange"])
def test_what_is_promised_to_the_robot_cannot_be_randomized(name: str):
    def randomize(self: Any, sim: Sim, rng: torch.Generator) -> Terms:
        value = sim.nominal(name)
        return {name: value.expand(sim.num_envs, *value.shape) * 0.5}

    found = check_task(but(randomize=randomize), 2, 10)
    assert len(found) == 1 and found[0].detail.startswith(f"{name!r} cannot be randomized: ")
