"""Evaluation: episodes compared with a plain loop, and reports on a file and its limits."""

import hashlib
import json
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import cart
import mujoco
import numpy as np
import onnx
import pytest
import torch
from arm import Arm, make_policy
from torch import Tensor, nn

from robokit.controller import ContractError, Controller
from robokit.env.env import Env, make
from robokit.errors import OptionError, TaskError
from robokit.evaluation.episodes import run_episodes, sampling_actor, torch_actor
from robokit.evaluation.measure import evaluate
from robokit.evaluation.reports.across import pool
from robokit.evaluation.statistics import Pooled, share
from robokit.export.bounds import resolve
from robokit.export.file import Exported
from robokit.export.write import export
from robokit.limits.limit import Limit
from robokit.networks.belief import make_belief
from robokit.networks.policy import Gaussian
from robokit.seeds import seed
from robokit.show.film import control_steps
from robokit.sim.base import Sim
from robokit.task.lookup.find import load_task
from robokit.task.sense import Sense
from robokit.task.task import Task, Terms


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(0)
    env = make("inverted_pendulum", 8, threads=1)
    policy = Gaussian(env.obs_dim, env.act_dim, make_belief("stack", env.names.obs, 3), hidden=(8,))
    policy.normalizer.var.fill_(0.01)
    path = tmp_path_factory.mktemp("policies") / "inverted_pendulum.onnx"
    export(policy, env, path)
    return path, policy


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
        "held": 0.0,
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


def test_episodes_that_broke_are_counted_with_their_cause(exported):
    path, _ = exported

    def disturb(self, sim: Sim, rng: torch.Generator) -> Terms:
        first = torch.arange(sim.num_envs)[:, None] == 0
        return {"qvel": torch.where(first & (sim.memory["age"] == 1), 1e12, sim.qvel)}

    task = type("InvertedPendulum", (type(load_task("inverted_pendulum")),), {"disturb": disturb})
    report = evaluate(path, task, 4, threads=1)
    assert report.bad == 1 and report.failed
    assert report.notes[0].startswith("1 of 4 broke: qvel not finite or above 1e10")
    assert report.notes[0] in report.text()
    assert not evaluate(path, "inverted_pendulum", 4, threads=1).notes


def test_the_file_does_what_the_policy_does(exported):
    path, policy = exported
    report = evaluate(path, "inverted_pendulum", 20, policy=policy, threads=1)
    assert report.versus_torch is not None
    assert abs(report.versus_torch.mean) < 0.05 * report.returns.mean
    assert report.terminated == 20 and report.bad == 0
    assert json.loads(report.to_json())["returns"]["mean"] == report.returns.mean
    assert "return" in report.text() and "ONNX minus torch" in report.text()


class Reaching(Arm):
    """Around home, 0.875 +- 0.3 of a ctrlrange that ends at 1; judged by what the policy itself does."""

    def rewards(self, sim: Sim, action: torch.Tensor) -> Terms:
        return {"alive": action[:, 1]}


@pytest.fixture(scope="module")
def reaching(tmp_path_factory):
    env = Env(Reaching(), 8, threads=1)
    policy, path = make_policy(env, "memoryless"), tmp_path_factory.mktemp("reaching") / "arm.onnx"
    last = policy.head[-1]
    assert isinstance(last, nn.Linear)
    last.bias.data[1] = 9.0  # 1 at nearly all times, after which ctrl is 1.0 and not 1.175
    export(policy, env, path)
    return path, policy


@pytest.mark.medium
def test_an_action_beyond_ctrlrange_is_judged_as_in_training(reaching):
    path, policy = reaching
    file = Exported.open(path)
    report = evaluate(file, Reaching, 8, policy=policy, threads=1)
    assert report.returns.mean / report.length.mean > 0.9  # ctrl mapped back would give 0.42
    assert report.versus_torch is not None
    assert abs(report.versus_torch.mean) < 1e-4
    idle = evaluate(
        path, Reaching, 8, threads=1, filter=resolve({"slew": 1e6}, file.contract, file.sha256)
    ).filtered
    assert idle is not None
    assert idle.difference.mean == 0.0
    shown = list(islice(control_steps(Controller(path), Env(Reaching(), threads=1)), 20))
    assert sum(float(step.reward) for step in shown) / 20 > 0.9


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
    trained, evaluated = (
        Env(load_task("inverted_pendulum"), 6, seed=seed(purpose), threads=1)
        for purpose in ("training", "evaluation")
    )
    assert not torch.equal(trained.reset(), evaluated.reset())


def test_another_task_and_too_few_episodes_are_refused(exported):
    path, _ = exported
    with pytest.raises(TaskError, match="InvertedPendulum"):
        evaluate(path, "hopper", 4)
    with pytest.raises(OptionError, match="at least 2"):
        evaluate(path, "inverted_pendulum", 1)
    with pytest.raises(OptionError, match="seed must be from 0 to 999999, got -1"):
        evaluate(path, "inverted_pendulum", 2, seed=-1)


def test_a_task_derived_from_the_files_own_is_one_to_judge_it_on(exported):
    path, _ = exported
    own = load_task("inverted_pendulum")
    derived = type("Windy", (type(own),), {"__doc__": "Another one."})()
    results = [evaluate(path, task, 4).returns for task in (own, derived)]
    assert results[0] == results[1]


def test_a_file_that_takes_other_observations_than_the_task_now_gives_is_refused(exported):
    hides = {"sensing": {"velocity": Sense(hidden=True)}}
    task = type("InvertedPendulum", (type(load_task("inverted_pendulum")),), hides)
    with pytest.raises(
        TaskError, match=r"does not fit .*; input 'velocity': 2 in the file, none in the task$"
    ):
        evaluate(exported[0], task(), 2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"control_dt": 0.02}, "control_dt: 0.04 in the file, 0.02 in the task"),
        ({"reach": 1e-3}, "lowest ctrl of 'slide': -3 in the file, -0.003 in the task; highest ctrl"),
        ({"actuator": "push"}, r"actuators: \['slide'\] in the file, \['push'\] in the task"),
    ],
)
def test_a_file_for_another_robot_or_rate_than_the_tasks_is_refused(exported, changes, words):
    kind = type(load_task("inverted_pendulum"))
    spec = mujoco.MjSpec.from_file(str(kind.model))
    spec.actuators[0].name = changes.pop("actuator", spec.actuators[0].name)
    spec.actuators[0].ctrlrange = spec.actuators[0].ctrlrange * changes.pop("reach", 1.0)
    task = type("InvertedPendulum", (kind,), changes | {"model": spec})
    with pytest.raises(TaskError, match=words):
        evaluate(exported[0], task(), 2)


# -- what counts -----------------------------------------------------------------------------------


def counted(headline: str, failure: tuple[str, ...] = ("terminated",)) -> type[Task]:
    """The pendulum for .52 s, 13 control steps: `steady` in all of them, `moved` in some, `rare` in none."""

    def metrics(self: object, sim: Sim) -> Terms:
        angle, age = sim.qpos[:, 1].abs(), sim.memory["age"][:, 0]
        none = torch.full_like(angle, torch.nan)
        return {"steady": angle < 9, "moved": age > 3, "rare": none, "angle": angle, "leant": angle > 9}

    own: dict[str, Any] = {"headline": headline, "failure": failure, "metrics": metrics, "time_limit": 0.52}
    return type("InvertedPendulum", (type(load_task("inverted_pendulum")),), own)


def test_the_headline_stands_on_top_of_the_table_and_in_the_json_and_failures_below_it(exported):
    path, _ = exported
    report = evaluate(path, counted("steady", ("leant", "moved")), 20, threads=1)
    lines = report.text().splitlines()
    head = next(i for i, line in enumerate(lines) if line.split()[:1] == ["mean"])
    top, returns, failed = lines[head + 1 : head + 4]
    interval = share(np.ones(20, np.bool_))
    bounds = f"[{interval.low:.4g}, 1]"
    assert top.split()[:5] == ["headline", "steady", "(held)", "1", bounds.split()[0]]
    assert returns.split()[0] == "return"
    assert failed.split() == ["failed", "(leant,", "moved)", "1", *bounds.split(), "20", "of", "20"]
    said = json.loads(report.to_json())
    assert (said["headline"]["name"], said["headline"]["kind"]) == ("steady", "held")
    assert said["headline"]["summary"] == said["metrics"]["steady"]["held"]
    assert said["headline"]["summary"]["low"] == interval.low < 1
    assert said["failure"]["names"] == ["leant", "moved"] and said["failure"]["share"]["count"] == 20
    assert said["per_episode"]["headline"] == said["per_episode"]["failed"] == [1.0] * 20
    assert {"headline", "failure"} <= report.facts().keys()  # on the card of the file


def test_the_return_is_no_headline_row_and_a_number_is_one_by_its_mean(exported):
    path, _ = exported
    plain, number, rare = (evaluate(path, counted(h), 4, threads=1) for h in ("return", "angle", "rare"))
    assert "headline" not in plain.text() and "headline" not in plain.per_episode
    assert plain.headline.summary == plain.returns
    assert plain.failure.share.count == plain.terminated
    assert number.headline.summary == number.metrics["angle"]["mean"]
    assert "headline angle (mean)" in number.text()
    assert rare.headline.summary is None
    assert "headline rare (mean): counted in fewer than 2 of 4 episodes" in rare.text()
    assert "NaN" not in rare.to_json()


def test_runs_are_pooled_by_their_headline_and_their_failures(exported):
    path, _ = exported
    task = counted("steady", ("leant",))
    one, two = (evaluate(path, task, 6, seed=seed, threads=1) for seed in (0, 1))
    apart, alike = pool({"a": one, "b": two}), pool({"a": one, "again": one})
    for together, episodes in ((apart, 12), (alike, 6)):  # the same episodes twice say no more than once
        expected = share(np.ones(episodes, np.bool_))
        assert together.headline["headline steady (held)"] == Pooled(1.0, expected.low, 1.0)
        assert together.failure["failed (leant)"].high == pytest.approx(1 - expected.low)
    assert "headline steady (held)" in apart.text().splitlines()[1]
    other = evaluate(path, counted("moved"), 6, threads=1)
    with pytest.raises(OptionError, match=r"one headline: a has .*'steady'.* b has .*'moved'"):
        pool({"a": one, "b": other})
    with pytest.raises(OptionError, match=r"one failure: a has \['leant'\], b has \['terminated'\]"):
        pool({"a": one, "b": evaluate(path, counted("steady"), 6, threads=1)})


def test_a_pooled_headline_is_the_mean_of_the_episodes_that_have_it(exported):
    path, _ = exported
    none = pool({name: evaluate(path, counted("rare"), 4, threads=1) for name in "ab"})
    assert none.headline == {"headline rare (mean)": None}
    assert "headline rare (mean)                  counted in fewer than 2 episodes" in none.text()
    one, two = (evaluate(path, counted("angle"), 6, seed=seed, threads=1) for seed in (0, 1))
    own = one.per_episode
    one = replace(one, per_episode={**own, "headline": [None, *own["headline"][1:]]})
    for other in (two, one):  # not paired, and paired
        [found] = pool({"a": one, "b": other}).headline.values()
        each = np.concatenate([one.numbers("headline"), other.numbers("headline")])
        values = each[~np.isnan(each)]
        assert found is not None and found.value == pytest.approx(np.mean(values))
        assert min(values) < found.low < found.value < found.high < max(values)


# -- limits ----------------------------------------------------------------------------------------


def limited(limit: Limit) -> type[Task]:
    """The pendulum with a cost of 1 where it leans by more than .02 rad."""

    def costs(self: object, sim: Sim, action: Any) -> Terms:
        return {"lean": (sim.qpos[:, 1].abs() > 0.02).to(sim.qpos.dtype)}

    base = type(load_task("inverted_pendulum"))
    return type("InvertedPendulum", (base,), {"limits": {"lean": limit}, "costs": costs})


def test_each_limit_gets_a_verdict_and_the_file_the_worst_of_them(exported):
    path, _ = exported
    words = {}
    for value in (0.05, 0.999):
        report = evaluate(path, limited(Limit(value)), 20, threads=1)
        words[value] = report.limits["lean"].verdict
        assert report.failed == (words[value] == "FAIL")
        assert f"verdict on the file: {words[value]}" in report.text()
    assert words == {0.05: "FAIL", 0.999: "PASS"}


def test_what_was_measured_is_what_was_counted(exported):
    path, _ = exported
    report = evaluate(path, limited(Limit(25.0, "episode")), 20, threads=1)
    lean = report.limits["lean"]
    kept = {name: np.array(x) for name, x in report.per_episode.items()}
    assert kept["total/lean"].mean() == pytest.approx(report.costs["lean"].mean) == lean.measured.value
    assert lean.rate.value == pytest.approx(kept["total/lean"].sum() / kept["span/lean"].sum())
    assert kept["span/lean"].tolist() == kept["length"].tolist()
    assert lean.any_cost.count == (kept["total/lean"] > 0).sum() == kept["violated/lean"].sum()
    assert json.loads(report.to_json())["limits"]["lean"]["measured"]["at_most"] == lean.measured.at_most
    assert "per_episode" not in report.facts()


def test_discounted_sums_take_the_gamma_given(exported):
    path, _ = exported
    one, half = (
        evaluate(path, limited(Limit(5.0, "discounted")), 8, gamma=g, threads=1).limits["lean"].measured.value
        for g in (1.0, 0.5)
    )
    assert 0 < half < 2 < one
    with pytest.raises(OptionError, match=r"gamma must be above 0 and at most 1, got 1\.5"):
        evaluate(path, "inverted_pendulum", 4, gamma=1.5)


def test_the_stochastic_policy_stands_beside_the_file_and_is_drawn_around_its_mean(exported):
    path, policy = exported
    task = limited(Limit(0.9))
    first, again = (evaluate(path, task, 10, policy=policy, threads=1) for _ in range(2))
    assert first == again and first.stochastic is not None
    assert first.stochastic.returns != first.returns
    assert first.stochastic.headline.summary == first.stochastic.returns
    assert first.stochastic.limits.keys() == first.limits.keys()
    assert "actions drawn around the mean" in first.text()
    assert evaluate(path, task, 10, threads=1).stochastic is None


def test_drawn_actions_have_the_mean_and_deviation_of_the_policy(exported):
    _, policy = exported
    env = make("inverted_pendulum", 2000, threads=1)
    first = torch.ones(2000, dtype=torch.bool)
    mean = policy.sample(env.obs, torch.zeros(2000, policy.belief_size), first, torch.zeros(2000, 1))[0]
    noise = sampling_actor(policy, 0)(env, first) - mean
    assert noise.mean().item() == pytest.approx(0.0, abs=3 / 2000**0.5)
    assert noise.std().item() == pytest.approx(1.0, abs=0.05)
    small = sampling_actor(policy, 0)
    policy.log_std.data.fill_(-3.0)
    assert (small(env, first) - mean).std().item() == pytest.approx(np.exp(-3.0), rel=0.05)
    policy.log_std.data.fill_(0.0)


def test_a_cost_that_never_occurs_has_an_interval_of_some_width(exported):
    never = {"costs": lambda self, sim, action: {"lean": torch.zeros_like(sim.qpos[:, 0])}}
    task = type("InvertedPendulum", (limited(Limit(0.5)),), never)
    cost = evaluate(exported[0], task, 10, threads=1).costs["lean"]
    assert (cost.mean, cost.low) == (0.0, 0.0)
    assert cost.high == pytest.approx(1000 * (1 - 0.025**0.1))  # the time limit is 1000 steps


def test_several_runs_are_pooled_and_others_are_refused_by_name(exported):
    path, _ = exported
    task = limited(Limit(0.9))
    one, two = (evaluate(path, task, 6, seed=seed, threads=1) for seed in (0, 1))
    together = pool({"a": one, "b": two})
    assert together.runs == ["a", "b"] and not together.paired
    assert pool({"a": one, "again": one}).paired
    assert "episodes resampled within each" in together.text()
    assert together.means == pytest.approx([one.returns.mean, two.returns.mean])
    total, span = (sum(r.numbers(f"{part}/lean").sum() for r in (one, two)) for part in ("total", "span"))
    assert together.limits["lean"].value == pytest.approx(total / span)
    other = evaluate(path, limited(Limit(0.8)), 6, threads=1)
    with pytest.raises(OptionError, match=r"one set of limits: a has .*0\.9.* c has .*0\.8"):
        pool({"a": one, "c": other})
    with pytest.raises(OptionError, match="one episodes: a has 6, d has 4"):
        pool({"a": one, "d": evaluate(path, task, 4, threads=1)})


def test_episodes_are_computed_with_one_torch_thread_and_the_callers_number_returns():
    env, seen = Env(load_task("inverted_pendulum"), 2, threads=1), set[int]()

    def act(env: Env, is_first: Tensor) -> Tensor:
        seen.add(torch.get_num_threads())
        return torch.ones(env.num_envs, env.act_dim)  # falls at once

    torch.set_num_threads(2)
    try:
        run_episodes(env, act)
        assert (seen, torch.get_num_threads()) == ({1}, 2)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("op", "numbers", "says"),
    [
        ("Reshape", {"shape": [1]}, "fails on 2 simulations: "),
        ("Slice", {"starts": [0], "ends": [1], "axes": [0]}, r"gives ctrl and carry_next of .*\(1, "),
    ],
)
def test_a_graph_that_runs_one_simulation_but_not_several_is_refused_in_one_line(
    exported: Any, tmp_path: Path, op: str, numbers: dict[str, list[int]], says: str
) -> None:
    path, model = tmp_path / "one.onnx", onnx.load(exported[0])
    graph = model.graph
    size = next(o for o in graph.output if o.name == "carry_next").type.tensor_type.shape.dim[1].dim_value
    numbers = {"shape": [1, size]} if op == "Reshape" else numbers
    for node in graph.node:
        node.output[:] = ["whole" if name == "carry_next" else name for name in node.output]
    graph.initializer.extend(onnx.numpy_helper.from_array(np.array(x), k) for k, x in numbers.items())
    graph.node.append(onnx.helper.make_node(op, ["whole", *numbers], ["carry_next"]))
    path.write_bytes(model.SerializeToString())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name(f"{path.name}.sha256").write_text(f"{digest}  {path.name}\n")
    Controller(path)
    with pytest.raises(ContractError, match=rf"one\.onnx {says}") as raised:
        evaluate(path, "inverted_pendulum", 2, threads=1)
    assert "\n" not in str(raised.value)
