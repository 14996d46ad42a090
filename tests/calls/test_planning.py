"""`robokit plan`: without a policy and beside one, from Python and as a command; bad input."""

import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from slide import OWN, PUSHED, write
from test_film import draws

import robokit
from robokit.calls.planning import critic_of, planner_of
from robokit.cli.command import main, parse
from robokit.errors import Error, OptionError, TaskError
from robokit.planning.planner import steps_of
from robokit.task.lookup.find import load_task
from robokit.task.lookup.source import shipped_folder, tasks_below, variants
from robokit.training.setup.restore import rebuild, restore_policy

PLANNED = OWN.replace(
    "    recipes =", '    planner = {"samples": 16, "elites": 4, "horizon": 0.2}\n    recipes ='
)
SHIPPED = tasks_below(shipped_folder())
SMALL: dict[str, Any] = {"samples": 16, "elites": 4, "threads": 1}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write(Path("tasks"), PLANNED)
    return tmp_path


def test_planning_keeps_a_slide_in_the_middle_without_training():
    planned, again = (robokit.plan("slide", seconds=0.2, nominal=True, **SMALL) for _ in range(2))
    assert (planned.task, planned.steps, planned.film) == ("slide", 10, None)
    assert planned.returns == again.returns
    assert -0.01 < planned.returns <= 0


def test_defaults_then_the_task_s_then_the_command_line():
    plan: Any = parse("plan", ["slide", "--horizon", "0.3"])
    assert (plan.planner.samples, plan.planner.horizon, plan.planner.iterations) == (16, 0.3, 1)
    assert planner_of(load_task("slide"), samples=9).samples == 9


def test_costs_stand_beside_their_limits(capsys: pytest.CaptureFixture[str]):
    write(Path("tasks"), PUSHED)
    arguments = ["plan", "slide", "--samples", "32", "--seconds", "0.2", "--threads", "1"]
    assert main([*arguments, "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    [[cost, limit, words]] = planned["costs"].values()
    assert (limit, words) == (0.25, "per control step")
    assert cost <= limit
    assert planned["returns"] > 1  # random pushes come to 0
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "of 0.25, per control step" in out
    assert "plans a second" in out


def test_every_shipped_task_s_options_are_a_planner_s():
    for name in (*SHIPPED, *(name for file in SHIPPED.values() for name in variants(file))):
        task = load_task(name)
        assert steps_of(planner_of(task), task.control_dt) > 1, name


@draws
def test_there_is_a_film_where_one_is_asked_for():
    planned = robokit.plan("slide", "a/plan.gif", seconds=0.1, **SMALL)
    assert planned.film == "a/plan.gif"
    assert Path("a/plan.gif").read_bytes()[:3] == b"GIF"


@pytest.fixture(scope="module", params=["ppo", "sac"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> robokit.Run:
    root = tmp_path_factory.mktemp("guide")
    write(root / "tasks", PLANNED)
    options: dict[str, Any] = {"num_envs": 4, "hidden": (8, 8), "steps": 64, "compile": False}
    sizes: dict[str, Any] = {"horizon": 8, "minibatch": 32}
    sizes = sizes if request.param == "ppo" else {"learning_starts": 16, "batch": 16}
    return robokit.train(root / "tasks/slide.py", request.param, runs=root / "runs", **options, **sizes)


@pytest.mark.medium
def test_a_run_s_policy_is_among_the_samples_and_its_critic_at_the_end(run: robokit.Run):
    task, last = load_task("slide"), run.last()
    policy, learner = restore_policy(run, task=task).policy, cast("Any", rebuild(run, task))
    assert last is not None
    learner.load_state_dict(last.tensors)
    value, env = critic_of(run, task, policy), robokit.make("slide", 3, threads=1)
    none, first = torch.zeros(3, 0), torch.zeros(3, dtype=torch.bool)
    if "return_scale.var" in last.tensors:  # PPO's critic is in units of the return
        raw = learner.critic(env.state, none, first)[0][:, 0]
        raw = raw * last.tensors["return_scale.var"][0].add(1e-8).sqrt()
    else:
        critic = learner.agent.critic
        raw = critic.decode(critic.encode(env.obs, none, first)[0], policy(env.obs, none, first)[0])
        raw = raw[..., 0].mean(0)
    assert value is not None
    assert torch.allclose(value(env.obs, env.state), raw)
    assert robokit.plan("slide", guide=run, seconds=0.1, **SMALL).steps == 5
    assert main(["plan", "slide", "--from", str(run.path), "--seconds", "0.1", "--threads", "1"]) == 0
    refused(TaskError, "is a run of ", "inverted_pendulum", guide=run)


def refused(error: type[Error], words: str, *task: Any, **options: Any) -> None:
    with pytest.raises(error) as told:
        robokit.plan(*task, **options)
    assert words in str(told.value)


def test_bad_input_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch, here: Path):
    monkeypatch.setattr("robokit.calls.planning.Env", lambda *_, **__: pytest.fail("worked"))
    before = sorted(here.iterdir())
    refused(OptionError, "elites must be at most samples (16), got 17", "slide", rule="elites", elites=17)
    refused(
        OptionError, "horizon must be at least a control step (0.02 s), got 0.01 s", "slide", horizon=0.01
    )
    refused(OptionError, "knots must be at most the 10 control steps", "slide", knots=11)
    refused(OptionError, "sigma must be > 0, got 0", "slide", sigma=0)
    refused(OptionError, "no option 'sample'; did you mean 'samples'?", "slide", sample=3)
    refused(OptionError, "seconds must be > 0 and finite, got nan", "slide", seconds=float("nan"))
    refused(OptionError, "a film is one of ['.gif', '.mp4'], got 'x.avi'", "slide", "x.avi")
    refused(OptionError, "seed must be from 0", "slide", seed=-1)
    refused(Error, "nowhere/x is no run", "slide", guide="nowhere/x")
    refused(TaskError, "no task 'slid'; did you mean 'slide'?", "slid")
    assert sorted(here.iterdir()) == before


def test_a_limit_that_no_control_step_tells_is_refused():
    write(Path("tasks"), PUSHED.replace("Limit(0.25)", 'Limit(0.25, "cvar")'))
    refused(OptionError, "limits['hard']: no plan is held to a cvar", "slide", threads=1)


def test_check_reads_the_planner_s_options_too(capsys: pytest.CaptureFixture[str]):
    assert main(["check", "slide"]) == 0
    assert "ok   planner        samples=16, elites=4, horizon=0.2" in capsys.readouterr().out
    for wrong, words in (('"knots": 20', "knots must be at most"), ('"knot": 2', "did you mean 'knots'?")):
        write(Path("tasks"), PLANNED.replace('"elites": 4', wrong))
        assert main(["check", "slide"]) == 1
        out = capsys.readouterr().out
        assert "FAIL planner" in out
        assert words in out
