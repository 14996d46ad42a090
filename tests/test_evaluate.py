"""Evaluation: the statistics by hand, and the episodes beside a plain loop."""

import json

import cart
import numpy as np
import pytest
import torch
from arm import Arm, make_policy

from robokit.belief import make_belief
from robokit.env import Env, make
from robokit.errors import OptionError, TaskError
from robokit.evaluate import (
    SEED_OFFSET,
    bootstrap,
    evaluate,
    interquartile_mean,
    run_episodes,
    summarize,
    torch_actor,
)
from robokit.export import export
from robokit.policy import Policy
from robokit.sim import Sim
from robokit.task import Sense, Terms, load_task


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(0)
    env = make("inverted_pendulum", 8, threads=1)
    policy = Policy(env.obs_dim, env.act_dim, make_belief("stack", env.names.obs, 3), hidden=(8,))
    policy.normalizer.var.fill_(0.01)
    path = tmp_path_factory.mktemp("policies") / "inverted_pendulum.onnx"
    export(policy, env, path)
    return path, policy


def test_interquartile_mean_by_hand():
    assert interquartile_mean(np.array([1.0, 2.0, 3.0, 100.0])) == 2.5
    assert interquartile_mean(np.array([0.0, 1.0, 2.0])) == pytest.approx((0.25 * 0 + 1 + 0.25 * 2) / 1.5)
    x = np.random.default_rng(0).normal(size=40)
    assert interquartile_mean(x) == pytest.approx(np.sort(x)[10:30].mean())


def test_bootstrap_interval_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = [low < 0 < high for low, high in (bootstrap(rng.normal(size=50)) for _ in range(60))]
    assert 0.85 < np.mean(hits) < 1.0


def test_bootstrap_interval_is_that_of_the_normal_approximation_for_many_episodes():
    x = np.random.default_rng(1).normal(size=1000)
    low, high = bootstrap(x)
    half = 1.96 * x.std() / np.sqrt(1000)
    assert (low, high) == pytest.approx((x.mean() - half, x.mean() + half), abs=0.15 * half)
    assert summarize(x).mean == x.mean()


def test_each_simulation_gives_exactly_its_first_episode(exported):
    _, policy = exported
    ran = run_episodes(make("inverted_pendulum", 5, seed=3, threads=1), torch_actor(policy))
    env = make("inverted_pendulum", 5, seed=3, threads=1)
    env.reset()
    act, totals, lengths, over = torch_actor(policy), [0.0] * 5, [0] * 5, [False] * 5
    first = torch.ones(5, dtype=torch.bool)
    while not all(over):
        step = env.step(act(env, first))
        first = step.done
        for i in range(5):
            if not over[i]:
                totals[i] += step.reward[i].item()
                lengths[i] += 1
                over[i] = bool(step.done[i])
    assert ran.lengths.tolist() == lengths
    assert ran.returns.tolist() == pytest.approx(totals)
    assert len(set(lengths)) > 1  # somebody went on while others restarted
    assert ran.returns.tolist() == pytest.approx(np.sum(list(ran.terms.values()), axis=0).tolist())


class Counted(cart.Still):
    """Metrics that are NaN at some steps; the age, 0 ... 19, is that of the state the action was taken in."""

    def metrics(self, sim: Sim) -> Terms:
        age, x = sim.memory["age"][:, 0], sim.memory["x"][:, 0]
        early = torch.where((age >= 1) & (age <= 3), -age, torch.nan)
        return {"early": early, "never": torch.full_like(x, torch.nan), "third": age == 2}


def test_a_metric_counts_only_at_the_steps_where_it_is_not_nan():
    ran = run_episodes(cart.new(Counted, 2), lambda env, first: torch.zeros(2, env.act_dim))
    assert ran.lengths.tolist() == [cart.PERIODS] * 2
    expected = {"mean": -2.0, "last": -3.0, "max": -1.0}  # of -1, -2, -3
    assert {kind: x.tolist() for kind, x in ran.metrics["early"].items()} == {
        kind: [value] * 2 for kind, value in expected.items()
    }
    assert all(np.isnan(x).all() for x in ran.metrics["never"].values())
    assert {kind: x[0] for kind, x in ran.metrics["third"].items()} == {
        "mean": 0.05,
        "last": 0.0,
        "ever": 1.0,
    }


def test_statistics_are_over_the_episodes_in_which_a_metric_was_counted(exported):
    def metrics(self: object, sim: Sim) -> Terms:
        x = sim.qpos[:, 0]
        return {"right": torch.where(x > 0.005, x, torch.nan), "never": torch.full_like(x, torch.nan)}

    path, _ = exported
    task = type("InvertedPendulum", (type(load_task("inverted_pendulum")),), {"metrics": metrics})
    report = evaluate(path, task, 20, threads=1)
    largest = report.metrics["right"]["max"]
    assert 2 <= largest.count < 20
    assert largest.min > 0.005
    assert report.metrics["never"] == {}
    assert f"right: counted in {largest.count} of 20 episodes" in report.text()
    assert "never: counted in fewer than 2 of 20 episodes" in report.text()
    assert "NaN" not in report.to_json()


def test_the_file_does_what_the_policy_does(exported):
    path, policy = exported
    report = evaluate(path, "inverted_pendulum", 20, policy=policy, threads=1)
    assert report.versus_torch is not None
    assert abs(report.versus_torch.mean) < 0.05 * report.returns.mean
    assert report.terminated == 20 and report.bad == 0
    assert json.loads(report.to_json())["returns"]["mean"] == report.returns.mean
    assert "return" in report.text() and "ONNX minus torch" in report.text()


@pytest.mark.medium
def test_a_held_command_is_followed_as_far_as_it_was_trained(tmp_path):
    env, path = Env(Arm(), 8, threads=1), tmp_path / "arm.onnx"
    export(make_policy(env), env, path)
    drawn, near, far = (
        evaluate(path, Arm(), 4, commands=commands, threads=1)
        for commands in ({}, {"speed": (0.3,)}, {"speed": (3.0,)})
    )
    assert drawn.returns != near.returns
    assert (drawn.commands, drawn.notes) == ({}, [])
    assert (near.commands, near.notes) == ({"speed": [0.3]}, [])
    steps = round(4 * far.length.mean)
    said = f"speed 3 clipped to 0.3 (trained range -0.1 to 0.3), {steps} steps"
    assert (far.commands, far.notes, far.returns) == (near.commands, [said], near.returns)
    assert f"  speed held at 0.3\n  {said}\n" in far.text()


def test_equal_seeds_give_equal_reports_and_training_never_sees_them(exported):
    path, _ = exported
    first, again, other = (evaluate(path, "inverted_pendulum", 6, seed=s, threads=1) for s in (0, 0, 1))
    assert first == again
    assert first.returns != other.returns
    trained = Env(load_task("inverted_pendulum"), 6, seed=0, threads=1)
    assert not torch.equal(trained.reset(), Env(load_task("inverted_pendulum"), 6, seed=SEED_OFFSET).reset())


def test_another_task_and_too_few_episodes_are_refused(exported):
    path, _ = exported
    with pytest.raises(TaskError, match="InvertedPendulum"):
        evaluate(path, "hopper", 4)
    with pytest.raises(OptionError, match="at least 2"):
        evaluate(path, "inverted_pendulum", 1)


def test_a_file_that_takes_other_observations_than_the_task_now_gives_is_refused(exported):
    hides = {"sensing": {"velocity": Sense(hidden=True)}}
    task = type("InvertedPendulum", (type(load_task("inverted_pendulum")),), hides)
    with pytest.raises(
        TaskError, match=r"takes {'position': 2, 'velocity': 2}, but .* gives {'position': 2}"
    ):
        evaluate(exported[0], task(), 2)
