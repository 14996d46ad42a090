"""What one control period does, in which order; episodes, commands, broken simulations, resume."""

import os
from pathlib import Path

import pytest
import safetensors.torch
import torch
from cart import PERIODS, Cart, actions
from torch import Generator, Tensor

from robokit.env import Env, Step
from robokit.errors import CheckpointError, OptionError
from robokit.sim import Sim
from robokit.task import Around, Command, Task, Terms, load_task

FIELDS = tuple(Step.__dataclass_fields__)


class Still(Cart):
    """Cart without a random draw: an episode depends on its actions alone."""

    commands = {}
    memory = {"x": 1, "sum": 2, "goal": 1, "turn": 2}

    def reset(self, sim: Sim, rng: Generator) -> Terms:
        return {}

    def randomize(self, sim: Sim, rng: Generator) -> Terms:
        return {}

    def disturb(self, sim: Sim, rng: Generator) -> Terms:
        return {}


class Order(Still):
    """Says what each function found in memory."""

    weights = {"before": 1.0, "action": 2.0, "sum": 4.0, "age": 8.0}

    def observe(self, sim: Sim) -> Terms:
        return {name: sim.memory[name][:, :1] for name in ("action", "sum", "age")}

    def rewards(self, sim: Sim, action: Tensor) -> Terms:
        found = {name: sim.memory[name][:, 0] for name in ("sum", "age")}
        return {"before": sim.memory["action"][:, 0], "action": action[:, 0], **found}


def new(task: type[Task], num_envs: int, seed: int = 0, threads: int = 1, nominal: bool = False) -> Env:
    return Env(task(), num_envs, seed=seed, threads=threads, nominal=nominal)


def same(one: Step, other: Step, rows: object = slice(None)) -> bool:
    return all(torch.equal(getattr(one, f)[rows], getattr(other, f)[rows]) for f in FIELDS)


def constant(*values: float) -> Tensor:
    """One action (N, 2) that pushes simulation i by values[i]."""
    return torch.tensor([[value, 0.0] for value in values])


# -- one control period --------------------------------------------------------------------------


def test_everything_leaves_as_float32_or_bool_with_n_rows():
    env = new(Cart, 3)
    step = env.step(actions(1, 3)[0])
    shapes = {f: (tuple(getattr(step, f).shape), getattr(step, f).dtype) for f in FIELDS}
    numbers = {
        "obs": 10,
        "state": 14,
        "final_obs": 10,
        "final_state": 14,
        "cost": 1,
        "terms": 2,
        "metrics": 2,
    }
    expected = {f: ((3, width), torch.float32) for f, width in numbers.items()}
    expected |= dict.fromkeys(("terminated", "truncated", "bad"), ((3,), torch.bool))
    assert shapes == expected | {"reward": ((3,), torch.float32)}
    assert (env.obs_dim, env.state_dim, env.act_dim) == (10, 14, 2)
    assert torch.equal(step.done, step.terminated | step.truncated)


def test_terms_are_the_observation_by_name():
    env = new(Cart, 3)
    terms = env.terms()
    assert {name: value.shape[1] for name, value in terms.items()} == env.names.obs
    assert torch.equal(terms["tip"], env.sim.sensor("tip").float())
    assert torch.equal(torch.cat(list(terms.values()), -1), env.obs)


def test_rewards_see_memory_as_the_policy_did_and_observations_see_what_came_of_it():
    env = new(Order, 1)
    first, second = env.step(constant(0.25)), env.step(constant(-0.5))
    assert first.terms.tolist() == [[0.0, 0.25, 0.0, 0.0]]  # before, action, sum, age
    assert first.final_obs.tolist() == first.obs.tolist() == [[0.25, 0.25, 1.0]]  # action, sum, age
    assert second.terms.tolist() == [[0.25, -0.5, 0.25, 1.0]]
    assert second.obs.tolist() == [[-0.5, -0.25, 2.0]]
    assert second.reward.tolist() == [0.25 - 2 * 0.5 + 4 * 0.25 + 8.0]  # the weighted sum


def test_actions_are_clipped_before_anything_sees_them():
    env = new(Order, 2)
    step = env.step(constant(7.0, -7.0))
    assert step.terms[:, 1].tolist() == [1.0, -1.0]
    assert step.obs[:, 0].tolist() == [1.0, -1.0]
    assert env.sim.ctrl.tolist() == [[6.0, 0.0], [-2.0, 0.0]]  # the ends of ctrlrange


def test_around_is_clipped_to_ctrlrange():
    class Near(Still):
        action = Around("home", scale=(8.0, 0.2))  # around ctrl (1, 0.4); ranges [-2, 6] and [-0.5, 0.5]

    env = new(Near, 3)
    env.step(torch.tensor([[0.5, -1.0], [1.0, 0.25], [-1.0, 1.0]]))
    expected = torch.tensor([[5.0, 0.2], [6.0, 0.45], [-2.0, 0.5]])
    assert torch.allclose(env.sim.ctrl.float(), expected)


def test_a_control_period_is_control_dt_long():
    env = new(Still, 2)
    for _ in range(5):
        env.step(constant(0.1, 0.2))
    assert env.nstep == 2
    assert env.sim.field("time").tolist() == pytest.approx([0.1, 0.1])


def test_what_a_step_returned_is_not_overwritten_by_the_next():
    env = new(Cart, 3, seed=1)
    step = env.step(actions(1, 3)[0])
    kept = {f: getattr(step, f).clone() for f in FIELDS}
    for action in actions(PERIODS, 3, seed=1):
        env.step(action)
    assert all(torch.equal(kept[f], getattr(step, f)) for f in FIELDS)


def test_n_simulations_are_n_environments_of_one():
    many, singles = new(Still, 4), [new(Still, 1) for _ in range(4)]
    for action in actions(3 * PERIODS, 4):
        step = many.step(action)
        alone = [env.step(action[i : i + 1]) for i, env in enumerate(singles)]
        for f in FIELDS:
            assert torch.equal(getattr(step, f), torch.cat([getattr(one, f) for one in alone]))


def test_the_number_of_threads_and_a_second_run_change_nothing():
    envs = [new(Cart, 5, seed=3, threads=threads) for threads in (1, 2, 1)]
    for action in actions(2 * PERIODS, 5):
        steps = [env.step(action) for env in envs]
        assert same(steps[0], steps[1])
        assert same(steps[0], steps[2])


def test_another_seed_is_another_run():
    assert not torch.equal(new(Cart, 5, seed=3).obs, new(Cart, 5, seed=4).obs)


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


def test_staggered_ages_spread_the_time_outs():
    env = new(Still, 64)
    env.reset(stagger=True)
    ages = env.sim.memory["age"][:, 0].clone()
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
        if t == 5:
            assert step.terminated.tolist() == [False, True, False]
            assert (step.reward[1], step.cost[1].item()) == (0, 0)
            assert not step.terms[1].any()
            assert not step.metrics[1].any()
            assert torch.equal(step.final_obs[1], last[1])
            assert torch.equal(step.obs[1], start)
        assert all(bool(torch.isfinite(getattr(step, f).float()).all()) for f in FIELDS)
    assert os.listdir(tmp_path) == []  # MuJoCo would leave a MUJOCO_LOG.TXT


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


# -- options -------------------------------------------------------------------------------------


def test_nominal_switches_off_randomisation_and_pushes_and_nothing_else():
    class Plain(Cart):
        randomize, disturb = Task.randomize, Task.disturb

    nominal, plain, full = new(Cart, 4, nominal=True), new(Plain, 4), new(Cart, 4)
    for action in actions(2 * PERIODS, 4):
        step = nominal.step(action)
        assert same(step, plain.step(action))
        full.step(action)
    assert "sim.field.body_mass" in full.state_dict()
    assert "sim.field.body_mass" not in nominal.state_dict()


def test_randomised_fields_are_drawn_around_the_nominal_for_each_simulation_and_episode():
    env, mass = new(Cart, 64), []
    for _ in range(2):
        env.reset()
        mass.append(env.state_dict()["sim.field.body_mass"])
    factor = torch.stack(mass)[:, :, 1:] / env.sim.nominal("body_mass")[1:]  # the world has no mass
    assert torch.allclose(factor, factor[..., :1].expand_as(factor))
    assert len(factor[..., 0].unique()) == 2 * 64
    assert 0.5 <= factor.min() < 0.55
    assert 1.45 < factor.max() <= 1.5


def test_no_environment_without_a_simulation():
    with pytest.raises(OptionError, match="num_envs must be at least 1, got 0"):
        new(Cart, 0)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["cart", "hopper", "reacher", "ant"])
def test_compiled_functions_say_what_eager_ones_say(task: str):
    chosen: Task = Cart() if task == "cart" else load_task(task)
    eager, compiled = Env(chosen, 3, seed=1), Env(chosen, 3, seed=1, compile=True)
    rng = torch.Generator().manual_seed(0)
    for _ in range(2 * PERIODS):
        action = torch.rand(3, eager.act_dim, generator=rng) * 2 - 1
        one, other = eager.step(action), compiled.step(action)
        for f in FIELDS:
            torch.testing.assert_close(getattr(one, f), getattr(other, f), rtol=1e-6, atol=1e-6)
