"""Selection of the best policy within the limits, also after a kill."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from slide import PUSHED, write

from robokit.algos.ppo import Config
from robokit.calls.training import _train
from robokit.errors import CheckpointError, OptionError
from robokit.task.lookup.find import load_task
from robokit.training.loop import train
from robokit.training.run import BEST, Done, Run
from robokit.training.selection import Score, Selection, load_best, validate, validations
from robokit.training.setup.build import Built, Setup, build_learner
from robokit.training.setup.provenance import create
from robokit.training.setup.restore import restore_policy, take_best

SMALL = Config(steps=64, num_envs=2, horizon=16, minibatch=16, epochs=1, hidden=(4,), compile=False)
SETUP = Setup(seed=3, threads=1, validations=2)


def new(folder: Path, **changes: Any) -> tuple[Run, Built]:
    setup = replace(SETUP, **changes)
    learner = build_learner(load_task(write(folder, PUSHED)), setup, SMALL)
    return create(folder / "runs", learner, setup), learner


@torch.no_grad()
def always(learner: Built, action: float) -> None:
    """The deterministic action everywhere."""
    for name, parameter in learner.policy.named_parameters():
        if name.startswith("head"):
            parameter.zero_()
    learner.policy.get_parameter("head.2.bias").fill_(action)


def test_a_validation_counts_whole_episodes_of_the_deterministic_policy(tmp_path: Path):
    _, learner = new(tmp_path)
    for action, hard in ((0.4, 0.0), (0.6, 1.0)):
        always(learner, action)
        score = validate(learner, 32)
        assert score.returns == pytest.approx(10 * action)
        assert score.limits == {"hard": hard} and score.feasible == (hard <= 0.25)


@pytest.mark.parametrize(("cost", "feasible"), [(0.24, True), (0.26, False)])
def test_validation_judges_by_the_limit_not_by_the_nine_tenths_that_training_aims_at(
    tmp_path: Path, cost: float, feasible: bool
):
    same = f"{cost} * torch.ones_like(action[:, 0])"  # the limit is .25
    task = load_task(write(tmp_path, PUSHED.replace("(action[:, 0] > 0.5)", f"({same})")))
    score = validate(build_learner(task, SETUP, SMALL), 32)
    assert score.limits == {"hard": pytest.approx(cost)} and score.feasible == feasible


def test_the_best_feasible_policy_stays_whatever_comes_after_it(tmp_path: Path):
    run, learner = new(tmp_path, validations=4)
    select = Selection(run, learner, times=4)
    for steps, action in ((16, 0.3), (32, 0.45), (48, 0.9), (64, 0.2)):
        always(learner, action)
        metrics = select(Done(steps=steps))
        assert metrics["validation/feasible"] == float(action <= 0.5)
    found = run.best()
    assert found is not None and found.facts["steps"] == 32
    assert [path.name for path in (run.path / BEST).iterdir()] == [f"{32:012d}"]
    assert take_best(run, learner.policy, "pid", 64) == 32
    assert learner.policy.get_parameter("head.2.bias").item() == pytest.approx(0.45)


def test_a_best_policy_that_others_remove_is_told_at_the_next_validation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run, learner = new(tmp_path, validations=4)
    select, told = Selection(run, learner, times=4), []
    capsys.readouterr()
    for steps, action in ((16, 0.4), (32, 0.3), (48, 0.2), (64, 0.1)):
        always(learner, action)
        select(Done(steps=steps))
        told.append(capsys.readouterr().err)
        if steps == 32:
            shutil.rmtree(run.path / BEST)
    note = f"note: {run.path / BEST} was removed; what is best from now on is kept\n"
    assert told == ["", "", note, ""]
    assert [path.name for path in (run.path / BEST).iterdir()] == [f"{48:012d}"]


def test_without_a_feasible_policy_there_is_none_to_keep(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run, learner = new(tmp_path)
    always(learner, 0.9)
    Selection(run, learner, times=1)(Done(steps=64))
    assert run.best() is None and take_best(run, learner.policy, "pid", 64) == 64
    assert "no policy of" in capsys.readouterr().err


def test_validations_are_spread_evenly_and_the_last_iteration_has_one(tmp_path: Path):
    run, learner = new(tmp_path)
    select = Selection(replace(run, steps=320), learner, times=3)
    due = [steps for steps in range(32, 353, 32) if select(Done(steps=steps))]
    assert due == [128, 224, 320]


def test_a_run_logs_its_validations_exports_the_best_and_restores_it(tmp_path: Path):
    run, learner = new(tmp_path)
    always(learner, 0.4)
    assert _train(learner, run, 1e9, ()).policy is not None
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert [("validation/return" in line) for line in lines] == [True, True]
    found = run.best()
    assert found is not None
    score = Score(**{k: v for k, v in found.facts.items() if k != "config"})
    assert json.loads((run.path / "policy.json").read_text())["steps"] == score.steps
    for name, value in restore_policy(run).policy.state_dict().items():
        assert torch.equal(value, found.tensors[name])
    assert restore_policy(run, last=True).steps == 64


def test_a_best_policy_that_goes_after_the_last_validation_is_told_at_the_save(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run, learner = new(tmp_path)
    select = Selection(run, learner, times=2)

    def validate(done: Done) -> dict[str, float]:
        metrics = select(done)
        if done.steps == 32:
            shutil.rmtree(run.path / BEST)
        return metrics

    train(learner, run, 32, validate=validate)
    note = f"note: {run.path / BEST} was removed; what is best from now on is kept\n"
    assert capsys.readouterr().err.count(note) == 1
    assert run.best() is None


@pytest.mark.parametrize("remove", [shutil.rmtree, lambda best: [shutil.rmtree(p) for p in best.iterdir()]])
def test_a_best_policy_that_has_gone_is_told_at_a_resume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], remove: Callable[[Path], object]
):
    run, learner = new(tmp_path)
    train(learner, run, 32, validate=Selection(run, learner, times=2))
    learner = build_learner(learner.env.task, SETUP, SMALL)
    capsys.readouterr()
    assert run.resume(learner).steps == 32 and capsys.readouterr().err == ""
    remove(run.path / BEST)
    run.resume(learner)
    assert (
        capsys.readouterr().err == f"note: {run.path / BEST} was removed; what is best from now on is kept\n"
    )


def test_a_resumed_run_ends_bit_equal_with_the_same_best(tmp_path: Path):
    ends = []
    for name, stops in (("whole", (64,)), ("broken", (32, 64))):
        run, learner = new(tmp_path / name)
        for steps in stops:
            learner = build_learner(learner.env.task, SETUP, SMALL)
            train(learner, run, steps, validate=Selection(run, learner, times=2))
        found = run.best()
        ends.append((learner.state_dict(), found.facts if found else None))
    assert ends[0][1] == ends[1][1]
    for name, value in ends[0][0].items():
        assert torch.equal(value, ends[1][0][name]), name


def test_only_tasks_with_limits_are_validated_unless_asked(tmp_path: Path):
    run, _ = new(tmp_path / "limits", validations=None)
    assert validations(run, "pid") == 20
    assert validations(run, "off") == 0  # as if there were no limits
    free = load_task(write(tmp_path / "free"))
    for given, expected in ((None, 0), (3, 3)):
        setup = replace(SETUP, validations=given)
        run = create(tmp_path / "runs", build_learner(free, setup, SMALL), setup)
        assert validations(run, "pid") == expected


def test_a_number_of_validations_below_zero_is_refused(tmp_path: Path):
    with pytest.raises(OptionError, match="validations must be at least 0, got -1"):
        new(tmp_path, validations=-1)


def test_a_damaged_best_policy_is_an_error_and_training_goes_on_without_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run, learner = new(tmp_path)
    always(learner, 0.3)
    select = Selection(run, learner, times=2)
    select(Done(steps=32))
    [file] = (run.path / BEST).glob("*/state.safetensors")
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match=r"robokit export .* --last"):
        take_best(run, learner.policy, "pid", 64)
    always(learner, 0.2)
    select(Done(steps=64))
    assert "the best policy so far is lost" in capsys.readouterr().err
    assert take_best(run, learner.policy, "pid", 64) == 64


def test_a_policy_that_breaks_the_simulation_is_not_feasible(tmp_path: Path):
    breaks = """
    def disturb(self, sim, rng):
        return {"qvel": sim.qvel + 1e11 * (sim.memory["age"] > 2)}
"""
    learner = build_learner(load_task(write(tmp_path, PUSHED + breaks)), SETUP, SMALL)
    always(learner, 0.3)
    score = validate(learner, 32)
    assert score.limits == {"hard": 0.0} and not score.feasible


def test_a_cost_that_breaks_its_contract_stops_no_training_and_is_not_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    dear = PUSHED.replace("(action[:, 0] > 0.5)", "(2.0 * (action[:, 0] > 0.5))")
    learner = build_learner(
        load_task(write(tmp_path, dear.replace("Limit(0.25)", "Limit(0.25, largest=2.0)"))), SETUP, SMALL
    )
    run = create(tmp_path / "runs", learner, SETUP)
    limit = learner.env.task.limits["hard"]
    learner.env.task.limits = {
        "hard": replace(limit, largest=1.0)
    }  # wrong, as a cost seldom shows at the start
    always(learner, 0.9)
    assert train(learner, run, 64, validate=Selection(run, learner, times=2)).done.steps == 64
    assert "cost 'hard' must lie from 0 to 1, its Limit.largest" in capsys.readouterr().err
    assert run.best() is None
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert [line["validation/feasible"] for line in lines] == [0.0, 0.0]


def test_with_the_limit_rule_off_limits_are_measured_and_decide_nothing(tmp_path: Path):
    learner = build_learner(load_task(write(tmp_path, PUSHED)), SETUP, replace(SMALL, limit_rule="off"))
    always(learner, 0.6)
    score = validate(learner, 32)
    assert score.limits == {"hard": 1.0} and score.feasible


# -- headline --------------------------------------------------------------------------------------

GENTLE = """
    headline = "gentle"

    def metrics(self, sim):
        return {"gentle": 1 - sim.ctrl[:, 0].abs(), "never": torch.full_like(sim.qpos[:, 0], torch.nan)}
"""


def judged(folder: Path, text: str = GENTLE, **changes: Any) -> tuple[Run, Built]:
    """As `new`, with a task that says what counts."""
    learner = build_learner(load_task(write(folder, PUSHED + text)), SETUP, SMALL)
    return create(folder / "runs", learner, replace(SETUP, **changes)), learner


def test_the_headline_comes_before_the_return_and_limits_before_the_headline(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run, learner = judged(tmp_path)
    select = Selection(run, learner, times=4)
    kept = []
    for steps, action in ((16, 0.45), (32, 0.3), (48, 0.4), (64, 0.9)):
        always(learner, action)
        metrics = select(Done(steps=steps))
        assert metrics["validation/headline"] == pytest.approx(1 - action)
        kept.append(run.best())
    assert [found and found.facts["steps"] for found in kept] == [16, 32, 32, 32]
    assert take_best(run, learner.policy, "pid", 64) == 32
    assert "that of step 32: gentle 0.7, return 3" in capsys.readouterr().err


def test_a_better_headline_beyond_the_limits_is_not_kept(tmp_path: Path):
    run, learner = judged(tmp_path, GENTLE.replace("1 - sim", "sim"))  # now the harder, the better
    select = Selection(run, learner, times=2)
    for steps, action in ((32, 0.4), (64, 0.9)):
        always(learner, action)
        assert select(Done(steps=steps))["validation/headline"] == pytest.approx(action)
    found = run.best()
    assert found is not None and found.facts["steps"] == 32


def test_of_equal_headlines_the_better_return_is_kept(tmp_path: Path):
    run, learner = judged(tmp_path, GENTLE.replace("1 - sim.ctrl[:, 0].abs()", "sim.ctrl[:, 0] < 2"))
    select, kept = Selection(run, learner, times=4), list[Any]()
    for steps, action in ((16, 0.2), (32, 0.4), (48, 0.3)):
        always(learner, action)
        assert select(Done(steps=steps))["validation/headline"] == 0  # too short an episode to have held
        found = run.best()
        kept.append(found and found.facts["steps"])
    assert kept == [16, 32, 32]


def test_a_headline_without_a_value_is_below_any_other(tmp_path: Path):
    run, learner = judged(tmp_path, GENTLE.replace('"gentle"\n', '"never"\n'))
    always(learner, 0.3)
    assert "validation/headline" not in Selection(run, learner, times=4)(Done(steps=16))
    found = run.best()
    assert found is not None and found.facts["headline"] is None  # JSON has no NaN
    no, least = (Score(0, headline, 1.0, {}, True).rank for headline in (None, -1e9))
    assert no < least


def test_the_return_is_the_headline_of_a_task_that_names_none(tmp_path: Path):
    run, learner = new(tmp_path)
    always(learner, 0.3)
    metrics = Selection(run, learner, times=1)(Done(steps=64))
    assert metrics["validation/headline"] == metrics["validation/return"] == pytest.approx(3.0)


def test_the_best_of_a_run_from_before_headlines_is_loaded_and_compared_by_its_return(tmp_path: Path):
    run, learner = new(tmp_path)
    always(learner, 0.4)
    Selection(run, learner, times=2)(Done(steps=32))
    found = run.best()
    assert found is not None
    older = {name: x for name, x in found.facts.items() if name not in ("headline", "config")}
    del run.config["headline"], run.config["failure"]
    run.keep_best(30, found.tensors, older | {"steps": 30, "returns": 4.1})
    always(learner, 0.405)
    Selection(run, learner, times=2)(Done(steps=64))
    score = load_best(run, learner.policy)
    assert score is not None and score.steps == 30 and score.headline == score.returns == 4.1
    assert take_best(run, learner.policy, "pid", 64) == 30


def test_a_task_with_a_headline_is_validated_with_its_limits_off_too(tmp_path: Path):
    run, _ = judged(tmp_path, validations=None)
    assert run.config["headline"] == "gentle"
    assert validations(run, "off") == validations(run, "pid") == 20
