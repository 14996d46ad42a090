"""robokit.train takes what a notebook gives, refuses what does not fit, and loses nothing at an interrupt."""

import json
import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
import torch
from robokit.tasks.inverted_pendulum import InvertedPendulum  # pyright: ignore[reportMissingImports]
from safetensors.torch import load_file
from slide import OWN, write

import robokit
from robokit.algos.ppo import Learner
from robokit.calls import training
from robokit.errors import ExportError, ModelError, OptionError, RunError, TaskError
from robokit.task.lookup.find import load_task
from robokit.training.setup.init_from import open_parent
from robokit.training.setup.restore import restore_policy

SMALL: dict[str, Any] = {
    "num_envs": 2,
    "horizon": 16,
    "minibatch": 16,
    "epochs": 1,
    "threads": 1,
    "compile": False,
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@dataclass
class Fake:
    """Stands for an exported file."""

    path: Path


@pytest.fixture
def unrehearsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds saved, where a test is about something else."""
    monkeypatch.setattr(training, "rehearse", lambda policy, env: None)
    monkeypatch.setattr(training.restore, "export_policy", lambda run, restored, path: Fake(path))


class Variant(InvertedPendulum):
    """A task of the notebook's own."""

    time_limit = 5.0


@pytest.mark.medium
def test_a_training_leaves_a_run_with_its_policy_and_goes_on_to_more_steps():
    steps: list[int] = []
    run = robokit.train(
        "inverted_pendulum",
        steps=64,
        hidden=[8],  # a list, as JSON and notebooks have it
        lr=np.float64(1e-3),
        seed=np.int64(3),
        hooks=[lambda event: steps.append(event.done.steps)],
        **SMALL,
    )
    assert (run.path / "policy.onnx").is_file()
    assert (run.config["options"]["hidden"], run.config["options"]["lr"], run.config["seed"]) == (
        [8],
        1e-3,
        3,
    )
    assert steps == [0, 32, 64, 64]
    more = robokit.train(resume=run, steps=96)
    assert more.path == run.path
    assert len((run.path / "metrics.jsonl").read_text().splitlines()) == 3


def test_a_class_of_ones_own_is_trained_and_like_takes_task_options_and_limits(unrehearsed: None, here: Path):
    run = robokit.train(Variant, steps=32, hidden=(4,), seed=5, runs=here / "mine", **SMALL)
    assert run.path.parent == (here / "mine/test_training-Variant").resolve()
    again = robokit.train(like=run, steps=64, seed=6)
    assert again.config["options"] == run.config["options"]
    assert (again.config["task"], again.steps, again.config["seed"]) == (run.config["task"], 64, 6)
    other = robokit.train("inverted_pendulum", like=run.path)
    assert other.config["options"] == run.config["options"]
    assert (other.config["task"], other.steps) == ("inverted_pendulum", 32)


class Fragile(InvertedPendulum):
    """A simulation breaks in the third control step of an episode."""

    def disturb(self, sim: Any, rng: torch.Generator) -> dict[str, torch.Tensor]:
        return {"qvel": torch.where(sim.memory["age"] == 2, 1e12, sim.qvel)}


def test_a_training_says_at_once_that_simulations_broke_and_at_the_end_how_often(
    unrehearsed: None, capsys: pytest.CaptureFixture[str]
):
    robokit.train(Fragile, steps=96, hidden=(4,), **SMALL)
    said = capsys.readouterr().err.splitlines()
    notes = [line for line in said if line.startswith("note: a simulation broke ")]
    assert len(notes) == 2 and all("qvel not finite or above 1e10" in line for line in notes)
    assert all(line.endswith("a smaller timestep may help; see robokit check") for line in notes)
    times = [int(line.split("broke ")[1].split()[0]) for line in notes]
    assert 0 < times[0] < times[1] <= 32
    assert any("of the steps broke" in line for line in said)


class Sleeper(InvertedPendulum):
    """A model with a flag that MuJoCo cannot save."""

    model = mujoco.MjSpec.from_file(str(InvertedPendulum.model))
    model.option.enableflags |= int(mujoco.mjtEnableBit.mjENBL_SLEEP)


def test_a_model_that_cannot_be_saved_is_refused_before_there_is_a_run(unrehearsed: None, here: Path):
    with pytest.raises(ModelError, match='<flag sleep="enable"/>'):
        robokit.train(Sleeper, steps=32, hidden=(4,), **SMALL)
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"hidden": "64"}, r"hidden, set to '64', must be of the type tuple\[int, \.\.\.\]"),
        ({"hidden": [256, 128.5]}, r"hidden, set to \[256, 128\.5\], must be of the type"),
        ({"steps": 1e5}, "steps, set to 100000.0, must be of the type int"),
        ({"leraning_rate": 1}, "no option 'leraning_rate'"),
        ({"epoch": 3}, "no option 'epoch'; did you mean 'epochs'"),
        ({"batch": 64}, "batch is an option of sac, svg and td3, not of ppo"),
        ({"algo": "pppo"}, "no algorithm 'pppo'; did you mean 'ppo'"),
        ({"sim": "mujocoo"}, "sim, set to 'mujocoo', must be one of"),
        ({"limits": {"speed": 1.0}}, "the task has no limit 'speed'"),
        ({"hooks": ["watch"]}, "a hook must be a function of an Event, got 'watch'"),
        ({"save_every": -1.0}, "save_every must be at least 0 s, got -1"),
        ({"task": None}, "which task"),
    ],
)
def test_what_does_not_fit_is_a_typed_error_before_anything_is_made(
    given: dict[str, Any], says: str, here: Path
):
    with pytest.raises(OptionError, match=says):
        robokit.train(**{"task": "inverted_pendulum", **given})
    assert [*here.iterdir()] == []


@pytest.mark.parametrize(
    "given", [{"like": "nowhere"}, {"resume": "nowhere"}, {"task": Variant, "init_from": "no"}]
)
def test_a_folder_without_a_run_is_refused(given: dict[str, Any]):
    with pytest.raises(RunError, match="is no run"):
        robokit.train(**given)


def test_like_takes_a_run_only():
    with pytest.raises(RunError, match=r"this takes a run, and .*go2_walk\.onnx is an exported file"):
        robokit.train(like="go2_walk")


class Killed(BaseException):
    """In place of a SIGKILL."""


def test_what_starts_from_a_run(unrehearsed: None, monkeypatch: pytest.MonkeyPatch, here: Path):
    """Options and weights by name; a resume that is refused names the way; a child that torchrun restarts."""
    parent = robokit.train("inverted_pendulum", steps=32, hidden=(4,), **SMALL)
    with pytest.raises(OptionError, match=f"got algo; a new .* with --init-from {parent.path}$"):
        robokit.train("inverted_pendulum", "sac", resume=parent)

    def killed(*arguments: Any) -> None:
        raise Killed

    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "this")
    start: dict[str, Any] = {"like": "inverted_pendulum", "init_from": "inverted_pendulum"}
    with monkeypatch.context() as patch:
        patch.setattr(training, "_train", killed)
        with pytest.raises(Killed):
            robokit.train(**start)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    run = robokit.train(**start)  # the name is the child's now
    assert run.config["parent"]["name"] == f"inverted_pendulum/{parent.path.name}"
    assert run.config["options"] == parent.config["options"]
    assert run.checkpoint(32).is_dir()
    first = load_file(run.checkpoint(0) / "state.safetensors")
    assert all(torch.equal(first[f"policy.{key}"], x) for key, x in open_parent(parent.path).policy.items())
    assert len([*(here / "runs/inverted_pendulum").glob("2*")]) == 2


@pytest.mark.medium
def test_an_interrupt_saves_exports_and_returns_the_run():
    def interrupt(event: robokit.Event) -> None:
        if event.done.iterations == 2:
            os.kill(os.getpid(), signal.SIGINT)

    run = robokit.train("inverted_pendulum", steps=3200, hidden=(4,), hooks=interrupt, **SMALL)
    assert run.checkpoint(64).is_dir()
    assert json.loads((run.path / "policy.json").read_text())["steps"] == 64


def test_an_interrupt_that_breaks_an_iteration_exports_the_checkpoints_policy(
    unrehearsed: None, monkeypatch: pytest.MonkeyPatch
):
    """As where Ctrl-C ends the compiler too: weights may then be those of half an update."""
    exported: list[Any] = []

    def export(run: Any, restored: Any, path: Path) -> Fake:
        exported.append({name: x.clone() for name, x in restored.policy.state_dict().items()})
        return Fake(path)

    def half(self: Learner) -> dict[str, float]:
        self.policy.log_std.data += 1.0
        os.kill(os.getpid(), signal.SIGINT)
        raise RuntimeError("the compiler was interrupted")

    monkeypatch.setattr(training.restore, "export_policy", export)
    ends: list[str] = []
    whole = Learner.iterate
    monkeypatch.setattr(Learner, "iterate", lambda self: half(self) if ends else whole(self))

    def once(event: robokit.Event) -> None:
        if event.kind in ("iteration", "end"):
            ends.append(event.kind)

    run = robokit.train("inverted_pendulum", steps=320, hidden=(4,), save_every=0.0, hooks=[once], **SMALL)
    assert ends == ["iteration", "end"]
    kept = restore_policy(run, last=True).policy.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in exported[0].items())


def test_numbers_of_numpy_are_taken_for_steps_and_limits_and_a_task_of_ones_own_keeps_its_limits(
    unrehearsed: None,
):
    task = load_task("half_cheetah:SpeedLimit")
    before = dict(task.limits)
    [name] = before
    limits: Any = {name: np.float32(0.5)}
    run = robokit.train(task, steps=np.int64(32), hidden=(4,), limits=limits, **SMALL)
    assert run.config["limits"] == {name: 0.5}
    assert task.limits == before
    assert robokit.train(resume=run, steps=np.int64(64)).steps == 64
    with pytest.raises(OptionError, match=r"steps must be a whole number, got 0\.5"):
        robokit.train(resume=run, steps=0.5)


def test_a_training_runs_in_a_thread(unrehearsed: None):
    runs: list[robokit.Run] = []
    thread = threading.Thread(
        target=lambda: runs.append(robokit.train("inverted_pendulum", steps=32, hidden=(4,), **SMALL))
    )
    thread.start()
    thread.join()
    assert runs[0].checkpoint(32).is_dir()


def test_a_task_that_cannot_be_exported_is_refused_before_its_run_is_made(here: Path):
    text = OWN.replace("class Slide", "from robokit.task.action import Around\n\nclass Slide")
    text = text.replace("    time_limit", '    action = Around("home", scale=1e-9)\n    time_limit')
    file = write(here / "tasks", text)
    model = file.with_suffix(".xml")
    model.write_text(
        model.read_text().replace("</mujoco>", '<keyframe><key name="home" ctrl=".5"/></keyframe></mujoco>')
    )
    with pytest.raises(ExportError, match="span 2e-09, which float32 divides into steps"):
        robokit.train(file, **SMALL)
    assert not (here / "runs").exists()


def test_a_class_that_no_run_could_load_again_is_refused_before_anything_is_built(
    here: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(training, "build_learner", lambda *_: pytest.fail("built"))
    cell: dict[str, Any] = {"Variant": Variant}
    exec("class Cell(Variant):\n    pass", cell)
    with pytest.raises(TaskError, match=r"Cell is a class without a file; save it in a file, .* load"):
        robokit.train(cell["Cell"], **SMALL)
    assert not (here / "runs").exists()


def test_a_policy_that_the_gate_refuses_stays_in_its_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def refuses(*arguments: Any) -> None:
        raise ExportError("the ONNX graph differs")

    monkeypatch.setattr(training, "rehearse", lambda policy, env: None)
    monkeypatch.setattr(training.restore, "export_policy", refuses)
    run = robokit.train("inverted_pendulum", steps=32, hidden=(4,), runs="there", **SMALL)
    assert f"robokit evaluate {run.path} --torch" in capsys.readouterr().err
    assert json.loads((run.path / "config.json").read_text())["steps"] == 32
