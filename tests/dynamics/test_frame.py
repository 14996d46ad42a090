"""Frames: held columns exact, carried ones by their own rule, the rest by the change that is predicted."""

from typing import Any

import pytest
import reach
import torch
from cart import Cart, but
from torch import Tensor

from robokit.dynamics.frame import Frames
from robokit.env.checks.laws import check_task
from robokit.env.env import Env, make
from robokit.errors import TaskError
from robokit.sim.base import Sim
from robokit.task.sense import Sense
from robokit.task.task import Task, Terms


class Clocked(Cart):
    """Commands that are redrawn on the way, a clock, the previous action."""

    clock = 2.0

    def observe(self, sim: Sim) -> Terms:
        return {**super().observe(sim), "clock": sim.memory["clock"]}


@pytest.mark.parametrize("task", [Clocked, reach.Reach, reach.Seen])
def test_the_true_change_gives_the_final_observation_and_the_next_targets(task: type[Task]):
    env, rng = Env(task(), 5, threads=1), torch.Generator().manual_seed(0)
    frames = Frames(env)
    assert frames.hidden == (4 if task is reach.Reach else 0)
    followed = [name for name, kind in frames.kinds.items() if kind != "sensed"]
    assert {Clocked: 4, reach.Reach: 1, reach.Seen: 1}[task] == len(followed)
    for _ in range(25):  # beyond an episode's end
        frame = torch.cat((env.obs, frames.targets(env)), -1)
        action = torch.rand(5, env.act_dim, generator=rng) * 2 - 1
        step = env.step(action)
        final = torch.cat((step.final_obs, frame[:, env.obs_dim :]), -1)
        after = frames.next(frame, action, frames.of(final) - frames.of(frame))
        torch.testing.assert_close(after[:, : env.obs_dim], step.final_obs, atol=1e-6, rtol=1e-5)
        going = ~step.done
        if frames.hidden:
            torch.testing.assert_close(after[going, env.obs_dim :], frames.targets(env)[going])
        held = [name for name, kind in frames.kinds.items() if kind == "command"]
        for name in held:  # exact, whatever the change
            wild = frames.next(frame, action, torch.full((5, frames.predicted), 1e3))
            assert torch.equal(frames.split(wild)[name], frames.split(frame)[name])


def test_a_hidden_command_and_a_frame_with_nothing_to_predict_are_refused():
    def lacks(self: Any, sim: Sim) -> Terms:
        return {"slide": sim.sensor("slide")}

    def given(self: Any, sim: Sim) -> Terms:
        return {name: sim.memory[name] for name in ("goal", "turn", "action")}

    with pytest.raises(TaskError, match=r"must observe its commands.*not observed: \['goal', 'turn'\]"):
        Frames(Env(but(observe=lacks), 1, threads=1))
    with pytest.raises(TaskError, match=r"nothing that a model could predict, only \['goal', 'turn', 'act"):
        Frames(Env(but(observe=given), 1, threads=1))


@pytest.mark.parametrize("name", ["inverted_pendulum", "hopper", "walker2d", "hopper:Velocities"])
def test_what_a_shipped_task_tells_of_its_end_is_what_ends_it(name: str):
    env, rng, seen = make(name, 16, threads=1), torch.Generator().manual_seed(0), set[bool]()
    for _ in range(80):
        step = env.step(torch.rand(16, env.act_dim, generator=rng) * 2 - 1)
        told = env.task.ended(env.split(step.final_obs))
        assert (told is None) == (name == "hopper:Velocities")
        if told is not None:
            assert torch.equal(told, step.terminated)
            seen |= {*told.tolist()}
    assert len(seen) in (0, 2) and bool(seen) == (name != "hopper:Velocities")


def test_check_tells_an_end_that_is_not_the_tasks():
    wrong = ends(lambda terms: terms["slide"][:, 0] > 0.0)
    [law] = [law for law in check_task(wrong, steps=20) if not law.ok]
    assert law.name == "rollout" and "ended says" in law.detail and "terminated says" in law.detail


def ends(told: Any, **more: Any) -> Task:
    return but(ended=lambda self, terms: told(terms), **more)


def test_ended_is_checked_as_the_other_functions_are():
    def slide(terms: dict[str, Tensor]) -> Tensor:
        return terms["slide"][:, 0].abs() > 0.9

    Env(ends(slide), 2, threads=1)
    Env(ends(lambda terms: None), 2, threads=1)
    for told, words in (
        (
            lambda terms: slide(terms)[:, None],
            r"But.ended 'ended' must be a tensor of shape \(2,\), got \(2, 1\)",
        ),
        (lambda terms: slide(terms).float(), "But.ended must be bool, got torch.float32"),
        (lambda terms: terms["touch"], "But.ended.* raised KeyError: 'touch'"),
    ):
        with pytest.raises(TaskError, match=words):
            Env(ends(told), 2, threads=1)
    with pytest.raises(TaskError, match="raised KeyError: 'slide'"):  # a hidden term is not told
        Env(ends(slide, sensing={"slide": Sense(hidden=True)}), 2, threads=1)
