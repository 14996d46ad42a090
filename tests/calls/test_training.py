"""robokit.train takes what a notebook gives, refuses what does not fit, and loses nothing at an interrupt."""

import json
import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from robokit.tasks.inverted_pendulum import InvertedPendulum  # pyright: ignore[reportMissingImports]
from slide import OWN, write

import robokit
from robokit.calls import training
from robokit.errors import ExportError, OptionError, RunError, TaskError

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
    monkeypatch.setattr(training, "export_policy", lambda run, restored, path: Fake(path))


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


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"hidden": "64"}, r"hidden, set to '64', must be of the type tuple\[int, \.\.\.\]"),
        ({"hidden": [256, 128.5]}, r"hidden, set to \[256, 128\.5\], must be of the type"),
        ({"steps": 1e5}, "steps, set to 100000.0, must be of the type int"),
        ({"leraning_rate": 1}, "no option 'leraning_rate'"),
        ({"epoch": 3}, "no option 'epoch'; did you mean 'epochs'"),
        ({"batch": 64}, "batch is an option of sac and td3, not of --algo ppo"),
        ({"algo": "pppo"}, "no algorithm 'pppo'; did you mean 'ppo'"),
        ({"sim": "mujocoo"}, "sim, set to 'mujocoo', must be one of"),
        ({"limits": {"speed": 1.0}}, "the task has no limit 'speed'"),
        ({"save_every": -1.0}, "save-every must be at least 0 s, got -1"),
        ({"task": None}, "which task"),
        ({"resume": "runs", "algo": "sac"}, "a resumed run keeps its task and options.*got algo, task"),
    ],
)
def test_what_does_not_fit_is_a_typed_error_before_anything_is_made(
    given: dict[str, Any], says: str, here: Path
):
    with pytest.raises(OptionError, match=says):
        robokit.train(**{"task": "inverted_pendulum", **given})
    assert [*here.iterdir()] == []


def test_a_folder_without_a_run_is_refused():
    with pytest.raises(RunError, match="is no run"):
        robokit.train(like="nowhere")


def test_an_interrupt_saves_exports_and_returns_the_run(unrehearsed: None, monkeypatch: pytest.MonkeyPatch):
    exported: list[int] = []

    def export(run: Any, restored: Any, path: Path) -> Fake:
        exported.append(restored.steps)
        return Fake(path)

    monkeypatch.setattr(training, "export_policy", export)

    def interrupt(event: robokit.Event) -> None:
        if event.done.iterations == 2:
            os.kill(os.getpid(), signal.SIGINT)

    run = robokit.train("inverted_pendulum", steps=3200, hidden=(4,), hooks=[interrupt], **SMALL)
    assert run.checkpoint(64).is_dir()
    assert exported == [64]


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
    monkeypatch.setattr(training, "export_policy", refuses)
    run = robokit.train("inverted_pendulum", steps=32, hidden=(4,), runs="there", **SMALL)
    assert f"robokit evaluate {run.path} --torch" in capsys.readouterr().err
    assert json.loads((run.path / "config.json").read_text())["steps"] == 32
