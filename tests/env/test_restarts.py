"""Episodes, commands, broken simulations, and environments restored from a saved state."""

import os
from pathlib import Path
from typing import ClassVar

import pytest
import safetensors.torch
import torch
from cart import FIELDS, PERIODS, Cart, Order, Still, actions, constant, new, same
from torch import Generator, Tensor

from robokit.errors import CheckpointError, TaskError
from robokit.sim.base import Sim
from robokit.task.command import Command
from robokit.task.task import Task, Terms, uniform

# -- episodes ------------------------------------------------------------------------------------


def test_the_time_limit_truncates_and_what_it_led_to_is_kept():
    env = new(Order, 2)
    for _ in range(PERIODS - 1):
        assert not env.step(constant(0.1, 0.2)).done.any()
    step = env.step(constant(0.1, 0.2))
    assert step.truncated.tolist() == [True, True]
    assert not step.terminated.any()
    assert step.final_obs[:, 2].tolist() == [PERIODS, PERIODS]
    assert step.obs.tolist() == [[0.0, 0.0, 0.0]] * 2  # action, sum, age of the new episode
    assert torch.equal(env.obs, step.obs)
    assert env.sim.ctrl.tolist() == [[0.0, 0.0]] * 2
    assert env.step(constant(0.1, 0.2)).terms[:, 3].tolist() == [0.0, 0.0]


def test_termination_comes_before_truncation_and_restarts_one_simulation_only():
    class Ends(Order):
        def terminated(self, sim: Sim) -> Tensor:
            last = sim.memory["age"][:, 0] == PERIODS - 1
            early = sim.memory["age"][:, 0] == 4
            return torch.stack((early[0], last[1], torch.zeros_like(last[0])))

    env = new(Ends, 3)
    history = [env.step(constant(0.1, 0.1, 0.1)) for _ in range(PERIODS)]
    assert [t for t, step in enumerate(history) if step.terminated[0]] == [4, 9, 14, 19]
    assert history[-1].terminated.tolist() == [True, True, False]
    assert history[-1].truncated.tolist() == [False, False, True]
    assert history[5].obs[:, 2].tolist() == [1.0, 6.0, 6.0]  # ages
    assert history[4].final_obs[:, 2].tolist() == [5.0, 5.0, 5.0]


def test_a_running_simulation_goes_on_unmoved_when_another_restarts():
    class First(Still):
        def terminated(self, sim: Sim) -> Tensor:
            return (sim.memory["age"][:, 0] == 4) & (sim.qpos[:, 0] < 0)

    env, alone = new(First, 2), new(First, 1)
    for t in range(PERIODS):
        step, one = env.step(constant(-0.6, 0.3)), alone.step(constant(0.3))
        assert step.terminated.tolist() == [t % 5 == 4, False]
        assert torch.equal(step.obs[1], one.obs[0])


def test_reset_restarts_every_simulation():
    env = new(Still, 2)
    first = env.obs
    for action in actions(5, 2):
        env.step(action)
    assert torch.equal(env.reset(), first)
    assert not env.sim.memory["age"].any()


class Levels(Still):
    """Episodes of five steps; each begins a level higher, and from where the last one ended."""

    memory = {**Still.memory, "level": 1, "levels": 1}

    def reset(self, sim: Sim, rng: Generator) -> Terms:
        return {"level": sim.memory["levels"], "qpos": sim.qpos}

    def randomize(self, sim: Sim, rng: Generator) -> Terms:
        return {"levels": sim.memory["levels"]}

    def remember(self, sim: Sim, action: Tensor) -> Terms:
        return {"levels": sim.memory["level"] + 1}

    def terminated(self, sim: Sim) -> Tensor:
        return sim.memory["age"][:, 0] == 4


def test_what_reset_and_randomize_return_is_taken_before_the_restart_clears_it():
    env = new(Levels, 2)
    for level in range(3):
        assert env.sim.memory["level"].tolist() == [[level]] * 2
        steps = [env.step(constant(0.1, 0.2)) for _ in range(5)]
        assert steps[-1].terminated.all()
    assert env.sim.memory["levels"].tolist() == [[3.0]] * 2
    assert env.sim.qpos[:, 0].tolist() != [0.0, 0.0]


def test_staggered_ages_spread_the_time_outs():
    env = new(Order, 64)
    env.reset(stagger=True)
    ages = env.sim.memory["age"][:, 0].clone()
    assert torch.equal(env.terms()["age[0]"][:, 0], ages.float())
    assert torch.equal(ages, ages.floor())
    assert (ages.min(), ages.max()) == (0, PERIODS - 1)
    ends = torch.stack([env.step(torch.zeros(64, 2)).truncated for _ in range(PERIODS)])
    assert ends.sum(0).tolist() == [1] * 64
    assert torch.equal(ends.float().argmax(0), PERIODS - 1 - ages.long())


# -- commands ------------------------------------------------------------------------------------


def test_commands_keep_their_bounds_and_times():
    env = new(Cart, 32, seed=2)
    goals, turns, drawn = [env.terms()["goal"]], [env.terms()["turn"]], []
    for action in actions(PERIODS - 1, 32):
        step = env.step(0.1 * action)
        assert not step.done.any()
        goals.append(env.terms()["goal"])
        turns.append(env.terms()["turn"])
        drawn.append((turns[-1] != turns[-2]).any(-1))
        late = list(env.names.obs).index("turn")
        assert torch.equal(step.final_obs.split(list(env.names.obs.values()), -1)[late], turns[-2])
    assert all(torch.equal(goal, goals[0]) for goal in goals)  # one an episode
    assert -0.5 <= goals[0].min() < -0.4
    assert 0.4 < goals[0].max() <= 0.5
    bounds = torch.stack(turns).flatten(0, 1)
    assert (bounds.amin(0) >= torch.tensor([-1.0, 2.0])).all()
    assert (bounds.amax(0) <= torch.tensor([1.0, 3.0])).all()
    times = [column.nonzero().flatten() for column in torch.stack(drawn).T]
    waits = {int(wait) for t in times for wait in t.diff(prepend=torch.tensor([-1]))}
    assert waits == {2, 3, 4}  # 0.04 to 0.08 s are 2 to 4 periods of 0.02 s


def test_commands_are_drawn_anew_at_a_restart_for_those_who_restart():
    class Once(Cart):
        commands = {"goal": Command((-0.5,), (0.5,)), "turn": Command((0.0, 0.0), (1.0, 1.0))}

        def terminated(self, sim: Sim) -> Tensor:
            return (sim.memory["age"][:, 0] == 3) & (torch.arange(2, device=sim.device) == 0)

    env = new(Once, 2)
    before = env.terms()["goal"]
    steps = [env.step(action) for action in actions(4, 2)]
    assert steps[-1].done.tolist() == [True, False]
    after = env.terms()["goal"]
    assert (after == before).flatten().tolist() == [False, True]


def test_a_command_that_is_drawn_at_a_restart_lasts_its_whole_time():
    class Brief(Cart):
        """Episodes of two control periods, and a command that lasts three."""

        commands = {**Cart.commands, "turn": Command((-1.0, 2.0), (1.0, 3.0), every=(0.06, 0.06))}

        def terminated(self, sim: Sim) -> Tensor:
            return sim.memory["age"][:, 0] == 1

    env, left = new(Brief, 1), []
    for action in actions(4, 1):
        env.step(action)
        left.append(env.sim.memory["turn.left"].item())
    assert left == [2.0, 3.0, 2.0, 3.0]


# -- broken simulations --------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["qpos", "qvel", "action"])
def test_a_broken_simulation_ends_with_nothing_and_leaves_the_others_alone(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    env, well = new(Still, 3), new(Still, 3)
    start = env.obs[1]
    for t, action in enumerate(actions(PERIODS, 3)):
        last, broken = env.obs, action.clone()
        if t == 5:
            (broken if where == "action" else env.sim.written(where))[1, 0] = torch.nan
        step, expected = env.step(broken), well.step(action)
        assert same(step, expected, rows=[0, 2])
        assert step.bad.tolist() == [False, t == 5, False]
        assert not step.steps_left[step.bad].any()  # what broke is not charged for what it did not live
        if t == 5:
            assert step.terminated.tolist() == [False, True, False]
            assert (step.reward[1], step.cost[1].item()) == (0, 0)
            assert not step.terms[1].any()
            assert step.metrics[1, 0] == 0 and step.metrics[1, 1].isnan()  # success, age
            step.metrics[1] = step.logged[1] = 0
            assert torch.equal(step.final_obs[1], last[1])
            assert torch.equal(step.obs[1], start)
        assert all(bool(torch.isfinite(getattr(step, f).float()).all()) for f in FIELDS)
    assert os.listdir(tmp_path) == []  # MuJoCo would leave a MUJOCO_LOG.TXT


def test_what_breaks_in_its_last_control_period_is_terminated_and_not_truncated():
    env = new(Still, 2)
    for action in actions(PERIODS - 1, 2):
        env.step(action)
    env.sim.written("qpos")[0, 0] = torch.nan
    step = env.step(actions(1, 2)[0])
    assert step.terminated.tolist() == [True, False]
    assert step.truncated.tolist() == [False, True]


# -- save and continue ---------------------------------------------------------------------------


class Feels(Cart):
    """Pushes by what an acceleration sensor read: no forward of the saved state gives that again."""

    def disturb(self, sim: Sim, rng: Generator) -> Terms:
        push = 0.01 * sim.sensor("acceleration")[:, :1] * sim.body("ball").xpos[:, 2:]
        return {"qvel": sim.qvel + push.clamp(-0.1, 0.1)}


class Lags(Feels):
    lag = True


@pytest.mark.parametrize("task", [Cart, Feels, Lags])
@pytest.mark.parametrize("cut", [0, 7, PERIODS, 33])
def test_a_saved_environment_continues_bit_for_bit(task: type[Task], cut: int):
    """With randomised masses, commands under way, pushes, and episodes that end at other times."""
    env, other = new(task, 4, seed=1), new(task, 4, seed=9)
    env.reset(stagger=True)
    for action in actions(cut, 4, seed=1):
        env.step(action)
    state = safetensors.torch.load(safetensors.torch.save(env.state_dict()))
    other.load_state_dict(state)
    assert torch.equal(env.obs, other.obs)
    for action in actions(2 * PERIODS, 4, seed=2):
        assert same(env.step(action), other.step(action))


def test_a_saved_environment_of_another_size_is_refused():
    with pytest.raises(CheckpointError, match=r"observations \(4, 10\), this environment has \(3, 10\)"):
        new(Cart, 3).load_state_dict(new(Cart, 4).state_dict())


class Level(Still):
    """Restarts read a memory of the simulation itself, and draw for those that restart."""

    memory = {**Still.memory, "before": 1}
    asked: ClassVar[list[int]] = []

    def reset(self, sim: Sim, rng: Generator) -> Terms:
        self.asked.append(sim.num_envs)
        return {
            "before": sim.memory["sum"][:, :1] + 0 * uniform(sim, rng, 1),
            "qpos": sim.qpos * 0 + sim.nominal("qpos0"),
        }

    def remember(self, sim: Sim, action: Tensor) -> Terms:
        return {"sum": sim.memory["sum"] + action, "x": sim.memory["x"]}


def test_a_restart_is_asked_of_those_that_restart_and_reads_their_own_memory():
    env = new(Level, 4)
    env.sim.memory["age"].copy_(torch.tensor([[0.0], [PERIODS - 1], [3.0], [PERIODS - 1]]))
    env.sim.memory["sum"].copy_(torch.arange(8.0).view(4, 2))
    Level.asked.clear()
    step = env.step(torch.zeros(4, 2))
    assert step.done.tolist() == [False, True, False, True] and Level.asked == [2]
    assert env.sim.memory["before"].T.tolist() == [[0.0, 2.0, 0.0, 6.0]]
    assert env.sim.memory["sum"].T.tolist() == [[0.0, 0.0, 4.0, 0.0], [1.0, 0.0, 5.0, 0.0]]


@pytest.mark.parametrize("restarting", [1, 2])
def test_a_restart_may_keep_what_the_simulation_has(restarting: int):
    """A live tensor, which the engine's own reset would overwrite before it is written."""

    class Keeps(Still):
        def reset(self, sim: Sim, rng: Generator) -> Terms:
            return {"qvel": sim.qvel}

    env = new(Keeps, 2)
    env.sim.qvel.copy_(torch.full_like(env.sim.qvel, 0.25))
    env.sim.memory["age"][:restarting] = PERIODS - 1
    seen = {}
    reset = env.sim.reset
    env.sim.reset = lambda which, values: (seen.update(before=env.sim.qvel.clone()), reset(which, values))[1]
    env.step(torch.zeros(2, 2))
    assert seen["before"].any() and torch.equal(env.sim.qvel, seen["before"])


def test_a_restart_with_rows_for_all_where_one_restarts_is_refused_by_name():
    class Kept(Still):
        def reset(self, sim: Sim, rng: Generator) -> Terms:
            return {"qvel": torch.zeros(3, sim.model.nv, dtype=sim.dtype)}

    env = new(Kept, 3)
    env.sim.memory["age"][1] = PERIODS - 1
    with pytest.raises(TaskError, match=r"Kept's new 'qvel' must have a row for each of the 1 .* it has 3"):
        env.step(torch.zeros(3, 2))
