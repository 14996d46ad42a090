"""Env.step: the order of its operations, and the effects of Env's options."""

import cart
import mujoco
import pytest
import torch
from cart import FIELDS, PERIODS, Cart, Order, Still, actions, constant, new, same

from robokit.env.env import Env
from robokit.errors import OptionError
from robokit.sim.base import Sim
from robokit.task.action import Around
from robokit.task.lookup.find import load_task
from robokit.task.task import Task, Terms


@pytest.mark.parametrize("action", [torch.zeros(2), torch.zeros(2, 3), torch.zeros(1, 2), [[0.0, 0.0]] * 2])
def test_an_action_of_another_shape_is_refused_and_not_spread_over_all(action):
    with pytest.raises(OptionError, match=r"action must be a tensor of shape \(2, 2\), got"):
        new(Cart, 2).step(action)


@pytest.mark.parametrize("wrong", [{"num_envs": 2.5}, {"num_envs": 0}, {"seed": -1}])
def test_impossible_sizes_and_seeds_are_refused(wrong):
    with pytest.raises(OptionError, match=f"{next(iter(wrong))} must be"):
        Env(Cart(), **wrong)


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
        "logged": 6,
    }
    expected = {f: ((3, width), torch.float32) for f, width in numbers.items()}
    expected |= dict.fromkeys(("terminated", "truncated", "done", "own", "bad"), ((3,), torch.bool))
    expected |= dict.fromkeys(("reward", "steps_left"), ((3,), torch.float32))
    assert shapes == expected
    assert (env.obs_dim, env.state_dim, env.act_dim) == (10, 14, 2)
    assert torch.equal(step.done, step.terminated | step.truncated)


def test_left_counts_down_to_the_time_limit_and_begins_anew_after_it():
    env = new(Cart, 1)
    left = [env.step(a).steps_left.item() for a in actions(PERIODS + 1, 1) * 0]
    assert left == [*range(PERIODS - 1, -1, -1), PERIODS - 1]


def test_terms_are_the_observation_by_name():
    env = new(Cart, 3)
    terms = env.terms()
    assert {name: value.shape[1] for name, value in terms.items()} == env.names.obs
    assert torch.equal(terms["tip"], env.sim.sensor("tip").float())
    assert torch.equal(torch.cat(list(terms.values()), -1), env.obs)


def test_rewards_see_memory_as_the_policy_did_and_observations_see_what_came_of_it():
    env = new(Order, 1)
    first, second = env.step(constant(0.25)), env.step(constant(-0.5))
    assert first.terms.tolist() == [[0.0, 2 * 0.25, 0.0, 0.0]]  # weighted: before, action, sum, age
    assert first.final_obs.tolist() == first.obs.tolist() == [[0.25, 0.25, 1.0]]  # action, sum, age
    assert second.terms.tolist() == [[0.25, 2 * -0.5, 4 * 0.25, 8 * 1.0]]
    assert second.obs.tolist() == [[-0.5, -0.25, 2.0]]
    assert second.reward.tolist() == [0.25 - 2 * 0.5 + 4 * 0.25 + 8.0]


class Shifts(Still):
    """Hands what memory holds one place on; what is returned is live."""

    memory = {**Still.memory, "now": 2, "before": 2, "first": 2}

    def observe(self, sim: Sim) -> Terms:
        return {name: sim.memory[name][:, :1] for name in ("now", "before", "first")}

    def remember(self, sim: Sim, action: torch.Tensor) -> Terms:
        return {"now": action, "before": sim.memory["now"], "first": sim.memory["before"]}


@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_what_is_remembered_is_what_memory_held_before_any_of_it_was_written(compile: bool):
    env = Env(Shifts(), 1, compile=compile)
    pushes = (0.25, -0.5, 0.75)
    seen = [env.step(constant(push)).obs.tolist()[0] for push in pushes]
    assert seen == [[0.25, 0.0, 0.0], [-0.5, 0.25, 0.0], [0.75, -0.5, 0.25]]


def test_what_disturb_returns_is_what_it_read_before_any_of_it_was_written():
    class Swaps(Shifts):
        def disturb(self, sim: Sim, rng: torch.Generator) -> Terms:
            return {"now": sim.memory["before"], "before": sim.memory["now"]}

        def remember(self, sim: Sim, action: torch.Tensor) -> Terms:
            return {"first": action}

    env = Env(Swaps(), 1)
    env.sim.memory["now"].fill_(1.0)
    env.sim.memory["before"].fill_(2.0)
    assert env.step(constant(0.5)).obs.tolist() == [[2.0, 1.0, 0.5]]


def test_a_push_acts_in_the_control_period_that_it_comes_in():
    class Pushed(Still):
        def disturb(self, sim: Sim, rng: torch.Generator) -> Terms:
            return {"qvel": sim.constant(0.5, *[0.0] * 7).expand(1, -1)}

    env = new(Pushed, 1)
    env.step(constant(-0.5))  # ctrl 0, the pole upright: nothing but the push moves the cart
    assert env.sim.qpos[0, 0].item() == pytest.approx(0.5 * 0.02)  # m: 0.5 m/s for 0.02 s


def test_actions_are_clipped_before_anything_sees_them():
    env = new(Order, 2)
    step = env.step(constant(7.0, -7.0))
    assert step.terms[:, 1].tolist() == [2.0, -2.0]
    assert step.obs[:, 0].tolist() == [1.0, -1.0]
    assert env.sim.ctrl.tolist() == [[6.0, 0.0], [-2.0, 0.0]]  # the ends of ctrlrange


def test_around_is_clipped_to_ctrlrange():
    class Near(Still):
        action = Around("home", scale=(8.0, 0.2))  # around ctrl (1, 0.4); ranges [-2, 6] and [-0.5, 0.5]

    env = new(Near, 3)
    env.step(torch.tensor([[0.5, -1.0], [1.0, 0.25], [-1.0, 1.0]]))
    expected = torch.tensor([[5.0, 0.2], [6.0, 0.45], [-2.0, 0.5]])
    assert torch.allclose(env.sim.ctrl.float(), expected)


def test_actions_go_to_controls_and_not_to_actuators():
    mjcf = cart.XML.replace('ctrl="1 .4"', 'ctrl="1 .4 2"').replace(
        '<position name="turn" joint="hinge" kp="2" ctrlrange="-.5 .5"/>',
        '<dcmotor name="brake" joint="hinge" motorconst=".1" resistance="1" input="none"/>'
        '<pid name="turn" joint="hinge" kp="2" posrange="-.5 .5" velrange="-3 3"/>',
    )

    class Geared(Still):
        model = mujoco.MjSpec.from_string(mjcf)
        action = Around("home", scale=(1.0, 2.0, 0.5))
        memory = {**Still.memory, "sum": 3}

    env = new(Geared, 1)
    assert (env.act_dim, env.sim.model.nactuator) == (3, 3)
    assert (env.map.low.tolist(), env.map.high.tolist()) == ([-2, -0.5, -3], [6, 0.5, 3])
    env.step(torch.tensor([[0.5, -0.2, 1.0]]))
    assert env.sim.ctrl.tolist() == [pytest.approx([1.5, 0.0, 2.5], abs=1e-6)]
    assert env.sim.memory["action"].shape == (1, 3)


def test_around_goes_as_far_as_its_scale_for_an_action_beyond_one():
    class Near(Still):
        action = Around("home", scale=(2.0, 0.1))  # around ctrl (1, 0.4), within ctrlrange

    env = new(Near, 1)
    env.step(torch.tensor([[7.0, -7.0]]))
    assert env.sim.ctrl.tolist() == [pytest.approx([3.0, 0.3])]


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


# -- held commands -------------------------------------------------------------------------------


class Follow(Cart):
    """Never ends early, and restarts with goals of its own."""

    def reset(self, sim: Sim, rng: torch.Generator) -> Terms:
        return {**super().reset(sim, rng), "goal": torch.zeros(sim.num_envs, 1)}

    def randomize(self, sim: Sim, rng: torch.Generator) -> Terms:
        return {**super().randomize(sim, rng), "goal": torch.ones(sim.num_envs, 1)}

    def terminated(self, sim: Sim) -> torch.Tensor:
        return torch.zeros(sim.num_envs, dtype=torch.bool)


def test_a_held_command_stays_and_changes_nothing_else_that_is_drawn():
    held, drawn = new(Follow, 3, seed=1), new(Follow, 3, seed=1)
    held.hold({"turn": (0.25, 9.0), "goal": (-0.25,)})
    held.reset()
    drawn.reset()
    for action in actions(2 * PERIODS, 3):  # "turn" is due every few of them, and all restart
        one, other = held.step(action), drawn.step(action)
        assert held.terms()["turn"].tolist() == [[0.25, 9.0]] * 3
        assert held.terms()["goal"].tolist() == [[-0.25]] * 3
        assert torch.equal(held.sim.qpos, drawn.sim.qpos)
        assert torch.equal(one.terms[:, 1], other.terms[:, 1])
    assert len(drawn.terms()["turn"].unique()) == 6


@pytest.mark.parametrize("wrong", [{"turns": (0.0, 0.0)}, {"turn": (0.0,)}])
def test_a_command_that_is_not_the_tasks_cannot_be_held(wrong: dict[str, tuple[float, ...]]):
    name, numbers = next(iter(wrong.items()))
    with pytest.raises(
        OptionError, match=f"no command '{name}' of {len(numbers)} numbers; there are .*'turn': 2"
    ):
        new(Cart, 2).hold(wrong)


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


@pytest.mark.slow
def test_one_process_may_have_many_compiled_environments():
    for n in range(1, 6):  # each is traced with and without gradients: torch keeps eight graphs of one code
        env = Env(Still(), n, compile=True)
        with torch.no_grad():
            env.step(torch.zeros(n, 2))
        assert torch.isfinite(env.step(torch.zeros(n, 2)).obs).all()


@pytest.mark.slow
@pytest.mark.parametrize("task", ["cart", "hopper", "reacher", "ant", "go2_walk", "go2_walk:Go2WalkSensed"])
def test_compiled_functions_say_what_eager_ones_say(task: str, capsys: pytest.CaptureFixture[str]):
    chosen: Task = Cart() if task == "cart" else load_task(task)
    eager, compiled = Env(chosen, 3, seed=1), Env(chosen, 3, seed=1, compile=True)
    rng = torch.Generator().manual_seed(0)
    for _ in range(2 * PERIODS):
        action = torch.rand(3, eager.act_dim, generator=rng) * 2 - 1
        one, other = eager.step(action), compiled.step(action)
        for f in FIELDS:
            torch.testing.assert_close(
                getattr(one, f), getattr(other, f), rtol=1e-6, atol=1e-6, equal_nan=True
            )
    action = torch.zeros(3, eager.act_dim)
    for look in (False, True, False):
        one, other = eager.advance(action, look), compiled.advance(action, look)
        for name, value in vars(one).items():
            torch.testing.assert_close(value, getattr(other, name), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(eager.obs, compiled.obs, rtol=1e-6, atol=1e-6)
    assert "runs eager" not in capsys.readouterr().err


@pytest.mark.slow
def test_a_compiled_step_takes_an_action_of_any_layout_precision_and_range():
    """Its graph is not told: it was made for float32, one row after the other."""
    eager, compiled = (Env(Still(), 3, compile=compile) for compile in (False, True))
    for action in (
        torch.zeros(3, 2),
        torch.linspace(-2, 2, 6, dtype=torch.float64).view(3, 2),
        torch.linspace(-1, 1, 6).view(2, 3).T,
        torch.tensor([[0.3, -0.4]]).expand(3, 2).requires_grad_(),
    ):
        one, other = eager.step(action), compiled.step(action)
        for f in FIELDS:
            torch.testing.assert_close(
                getattr(one, f), getattr(other, f), rtol=1e-6, atol=1e-6, equal_nan=True
            )


class Asking(Still):
    def rewards(self, sim: Sim, action: torch.Tensor) -> Terms:
        if float(action.sum()) > 5:
            action = action / 2
        return super().rewards(sim, action)


def test_a_task_that_cannot_be_compiled_runs_eager_and_one_line_says_where(
    capsys: pytest.CaptureFixture[str],
):
    env, eager = Env(Asking(), 3, compile=True), Env(Asking(), 3)
    capsys.readouterr()
    for action in actions(3, 3):
        assert same(env.step(action), eager.step(action), rows=[0, 1, 2])
    said = capsys.readouterr().err
    assert said.startswith("note: Asking cannot be compiled and runs eager, slower: test_env.py, line ")
    assert said.endswith(", in rewards\n")
    assert said.count("\n") == 1
