"""Levels: each simulation's moves by its own successes in training; elsewhere it is the highest."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import mujoco
import pytest
import torch
from slide import LEVELLED, MODEL, levelled, write
from torch import Generator, Tensor

from robokit.algos import ppo, sac
from robokit.env.checks.laws import check_task, check_training
from robokit.env.env import Env
from robokit.errors import TaskError
from robokit.sim.base import Sim
from robokit.task.action import Delta
from robokit.task.command import Command
from robokit.task.goal import Goal
from robokit.task.level import Level
from robokit.task.lookup.find import load_task
from robokit.task.task import Task, Terms
from robokit.training.loop import train
from robokit.training.run import Run
from robokit.training.selection import validate
from robokit.training.setup.build import Setup, build_learner
from robokit.training.setup.provenance import create
from robokit.training.setup.restore import rebuild

PERIODS, NEEDED = 3, 2  # of an episode; of the last half second


class Pushed(Task):
    """Succeeds in an episode whose last two controls are above 0; starts as far away as its level is high."""

    model = mujoco.MjSpec.from_string(MODEL.replace("<worldbody>", '<option timestep=".05"/><worldbody>'))
    control_dt = 0.25
    time_limit = PERIODS * control_dt
    weights = {"alive": 1.0}
    level = Level(highest=2, rise=2, fall=2, success="pushed")

    def reset(self, sim: Sim, rng: Generator) -> Terms:
        return {"qpos": sim.memory["level"] * 1.0}

    def observe(self, sim: Sim) -> Terms:
        return {"slide": sim.qpos}

    def privileged(self, sim: Sim) -> Terms:
        return {"level": sim.memory["level"]}

    def rewards(self, sim: Sim, action: Tensor) -> Terms:
        return {"alive": sim.qpos[:, 0] * 0 + 1}

    def metrics(self, sim: Sim) -> Terms:
        return {"pushed": sim.ctrl[:, 0] > 0}


def but(**attributes: Any) -> Task:
    return type("But", (Pushed,), attributes)()


def pushes(steps: int, num_envs: int) -> Tensor:
    """Controls (steps, N, 1) of which most agree with the next, so that there are many streaks."""
    rng = torch.Generator().manual_seed(0)
    sign = torch.rand(-(-steps // 6), num_envs, 1, generator=rng).sub(0.4).sign().repeat_interleave(6, 0)
    noise = torch.rand(-(-steps // 6) * 6, num_envs, 1, generator=rng) > 0.1
    return torch.where(noise, sign, -sign)[:steps]


def by_hand(actions: list[float], rule: Level) -> list[int]:
    """The level of one simulation after each control step, by a plain loop."""
    level, streak, levels = 0, 0, list[int]()
    for step in range(1, len(actions) + 1):
        if step % PERIODS == 0:
            success = all(action > 0 for action in actions[step - NEEDED : step])
            streak = (max(streak, 0) + 1) if success else (min(streak, 0) - 1)
            if streak in (rule.rise, -rule.fall):
                level, streak = min(max(level + (1 if streak > 0 else -1), 0), rule.highest), 0
        levels.append(level)
    return levels


@pytest.mark.parametrize("rule", [Level(2, 2, 2, "pushed"), Level(4, 1, 3, "pushed")])
def test_levels_follow_successes_and_failures_in_a_row_as_in_a_plain_loop(rule: Level):
    env, actions = Env(but(level=rule), 8, threads=1, training=True), pushes(240, 8)
    found = []
    for action in actions:
        step = env.step(action)
        found.append(env.sim.memory["level"][:, 0].clone())
        assert torch.equal(step.logged[:, env.labels.index("episode/level")].double(), found[-1])
    expected = torch.tensor([by_hand(actions[:, i, 0].tolist(), rule) for i in range(8)]).T
    assert torch.equal(torch.stack(found).long(), expected)
    assert set(expected.flatten().tolist()) == set(range(rule.highest + 1))  # all are met, both ends too


def test_an_episode_begins_at_its_new_level_and_ends_with_its_old_one():
    env = Env(but(level=Level(2, 1, 1, "pushed")), 1, threads=1, training=True)
    seen = [env.step(torch.ones(1, 1)) for _ in range(PERIODS)]
    assert [float(step.final_state[0, 1]) for step in seen] == [0.0, 0.0, 0.0]
    assert [float(step.state[0, 1]) for step in seen] == [0.0, 0.0, 1.0]
    assert float(env.sim.qpos[0, 0]) == 1.0


def test_a_simulations_level_does_not_depend_on_the_others():
    """So a training in several processes has the levels of one with all simulations."""
    actions = pushes(120, 4)
    all_four, half = (Env(Pushed(), n, threads=1, training=True) for n in (4, 2))
    for action in actions:
        all_four.step(action)
        half.step(action[2:])
        assert torch.equal(all_four.sim.memory["level"][2:], half.sim.memory["level"])


def test_a_broken_simulation_has_failed():
    class Breaks(Pushed):
        level = Level(highest=1, rise=1, fall=1, success="pushed")

        def disturb(self, sim: Sim, rng: Generator) -> Terms:
            late = (sim.memory["age"] >= 2) & (sim.memory["level"] > 0)
            return {"qvel": torch.where(late, torch.nan, sim.qvel)}

    env = Env(Breaks(), 1, threads=1, training=True)
    levels = [float(env.sim.memory["level"]) for _ in range(6) if env.step(torch.ones(1, 1)) is not None]
    assert levels == [0, 0, 1, 1, 1, 0]


@pytest.mark.parametrize("actions", [1.0, -1.0])
def test_outside_of_training_the_level_is_the_highest_and_stays(actions: float):
    env = Env(Pushed(), 3, threads=1)
    for _ in range(8 * PERIODS):
        env.step(torch.full((3, 1), actions))
        assert (env.sim.memory["level"] == 2).all()
    env.reset()
    assert (env.sim.qpos == 2).all() and "episode/level" not in env.labels


def test_outside_of_training_the_level_is_the_highest_under_a_delta_and_after_a_bare_reset_too():
    model = mujoco.MjSpec.from_string(MODEL.replace("motor", "position"))
    moving = but(action=Delta(0.1, leash=1.0), model=model, control_dt=0.02, time_limit=1.0)
    env = Env(moving, 3, threads=1)
    assert (env.sim.qpos == 2).all()
    env.sim.reset(None, {})
    env.reset()
    assert (env.sim.qpos == 2).all()


def test_one_goal_that_was_reached_and_redrawn_makes_the_episode_a_success():
    class Aimed(Pushed):
        """In the first period the goal is held, in the last two it is not."""

        commands = {"place": Command((0.0,), (0.0,), every="success")}
        goal = Goal("place", "level", within=100.0, hold=0.25)
        level = Level(highest=2, rise=1, fall=1)

    env = Env(Aimed(), 2, threads=1, training=True)
    env.sim.memory["place"].fill_(0.0)
    for _ in range(PERIODS):
        env.step(torch.zeros(2, 1))
        env.sim.memory["place"].fill_(1e3)
    assert (env.sim.memory["level"] == 1).all()
    env.sim.memory["place"].fill_(1e3)
    for _ in range(PERIODS):
        env.step(torch.zeros(2, 1))
        env.sim.memory["place"].fill_(1e3)
    assert (env.sim.memory["level"] == 0).all()


def test_the_headline_or_success_is_what_moves_it_if_none_is_named():
    class Both(Pushed):
        level = Level(highest=1, rise=1)

        def metrics(self, sim: Sim) -> Terms:
            return {"success": sim.ctrl[:, 0] > 0, "never": sim.ctrl[:, 0] > 9}

    class Headed(Both):
        headline = "never"

    for task, level in ((Both(), 1), (Headed(), 0)):
        env = Env(task, 1, threads=1, training=True)
        for _ in range(PERIODS):
            env.step(torch.ones(1, 1))
        assert float(env.sim.memory["level"]) == level


@pytest.mark.medium
def test_compiled_as_eager():
    envs = [Env(Pushed(), 4, threads=1, training=True, compile=compile) for compile in (False, True)]
    for action in pushes(60, 4):
        one, other = (env.step(action) for env in envs)
        assert torch.equal(one.logged, other.logged) and torch.equal(one.state, other.state)
    assert envs[0].sim.memory["level"].any()


@pytest.mark.slow
def test_warp_moves_levels_as_mujoco_does():
    pytest.importorskip("mujoco_warp")
    envs = [Env(Pushed(), 4, threads=1, training=True, sim=sim) for sim in ("mujoco", "warp")]
    for action in pushes(60, 4):
        one, other = (env.step(action) for env in envs)
        assert torch.equal(one.logged, other.logged)


# -- trained, stopped and resumed --------------------------------------------------------------------

SETUP = Setup(threads=1)
SMALL = ppo.Config(steps=96, num_envs=4, horizon=8, minibatch=16, epochs=1, hidden=(4,), compile=False)
SAC = sac.Config(
    steps=4000, num_envs=4, learning_starts=200, batch=8, utd=0.05, replay=800, hidden=(4,), compile=False
)


@pytest.mark.parametrize(("config", "half"), [(SMALL, 48), pytest.param(SAC, 2000, marks=pytest.mark.medium)])
def test_levels_and_reset_states_are_resumed_bit_for_bit(config: Any, half: int, tmp_path: Path):
    setup = replace(SETUP, algo="ppo" if config is SMALL else "sac")

    def end(folder: Path, *stops: int) -> tuple[dict[str, Tensor], list[float]]:
        """The state and the logged levels of a training that stops, and is resumed, at these steps."""
        run = create(folder / "runs", build_learner(levelled(folder), setup, config), setup)
        learners = [rebuild(Run.open(run.path)) for _ in stops]
        for learner, steps in zip(learners, stops, strict=True):
            train(learner, run, steps)
        lines = (run.path / "metrics.jsonl").read_text().splitlines()
        return learners[-1].state_dict(), [json.loads(line)["episode/level"] for line in lines]

    whole, levels = end(tmp_path / "whole", config.steps)
    halves, others = end(tmp_path / "halves", half, config.steps)
    assert [name for name in whole if not torch.equal(whole[name], halves[name])] == []
    assert levels == others and len(set(levels)) > 1
    level, streak, source, *_ = whole["env.sim.memory"][:, -4:].T
    assert level.any() and streak.any() and source.any() and not source.all()


def test_validation_is_at_the_highest_level_and_from_the_tasks_own_start(tmp_path: Path):
    text = LEVELLED.replace('{"right": action[:, 0]}', '{"right": sim.qpos[:, 0]}')
    learner = build_learner(levelled(tmp_path, text), SETUP, SMALL)
    assert (learner.env.obs[:, 0] > -0.2).all()  # level 0, or from the file
    assert validate(learner, 0).returns < 3 * -2  # from -3 m on


# -- bad input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"highest": 0}, "Level.highest must be a whole number from 1 on, got 0"),
        ({"highest": 2.5}, "Level.highest must be a whole number from 1 on, got 2.5"),
        ({"highest": 2, "rise": 0}, "Level.rise must be a whole number from 1 on, got 0"),
        ({"highest": 2, "fall": True}, "Level.fall must be a whole number from 1 on, got True"),
        ({"highest": 2, "success": 3}, "Level.success must name a boolean metric, got 3"),
    ],
)
def test_options_of_a_level_are_checked(options: dict[str, Any], said: str):
    with pytest.raises(TaskError, match=f"^{said}$"):
        Level(**options)


class Unread(Pushed):
    """Its level makes no difference."""

    def reset(self, sim: Sim, rng: Generator) -> Terms:
        return {}

    def privileged(self, sim: Sim) -> Terms:
        return {}


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (but(level=3), "But.level must be a Level, got 3"),
        (
            but(level=Level(3)),
            r"none is called 'return' or 'success': Level\(success=...\) of \['pushed'\]",
        ),
        (but(level=Level(3, success="pushd")), "none is called 'pushd': "),
        (but(memory={"level": 1}), r"memory and commands may not be called \['level'\]"),
    ],
)
def test_a_level_without_a_measure_of_success_or_with_a_taken_name_is_refused(task: Task, said: str):
    for training in (False, True):
        with pytest.raises(TaskError, match=said):
            Env(task, 2, threads=1, training=training)


def test_a_level_that_nothing_reads_is_refused_before_training():
    said = r"Unread\.level is a level that nothing reads: use sim\.memory\['level'\], as in reset"
    with pytest.raises(TaskError, match=said):
        build_learner(Unread(), SETUP, SMALL)
    [finding] = [f for f in check_task(Unread(), steps=5) if f.name == "training"]
    assert not finding.ok and "nothing reads" in finding.detail
    assert check_training(Pushed()).endswith("Level(highest=2, rise=2, fall=2, success='pushed')")


@pytest.mark.parametrize("function", ["randomize", "disturb", "observe", "rewards", "terminated"])
def test_a_level_may_be_read_by_any_function(function: str):
    def reads(self: Task, sim: Sim, *_: Any) -> Any:
        level = sim.memory["level"]
        found = {
            "observe": {"slide": level},
            "rewards": {"alive": level[:, 0]},
            "terminated": level[:, 0] > 9,
        }
        return found.get(function, {})

    check_training(type("Reads", (Unread,), {function: reads})())


def test_check_tells_of_a_missing_file_of_states(tmp_path: Path):
    file = write(tmp_path, LEVELLED)
    [missing] = [f for f in check_task(load_task(file), steps=5) if not f.ok]
    assert missing.name == "training"
    assert missing.detail.endswith(f"robokit states {file}:Slide -o {tmp_path / 'lift.npz'}")
    task = levelled(tmp_path)
    [found] = [f for f in check_task(task, steps=5) if f.name == "training"]
    assert found.ok and found.detail.startswith("1 files of reset states, Level(highest=3")
