"""A run that was copied to another place is measured, shown, exported and resumed there."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from slide import OWN, write

import robokit
from robokit.algos.ppo import Config
from robokit.calls import training
from robokit.calls.policies import subject_of
from robokit.cli.command import main
from robokit.errors import TaskError
from robokit.task.lookup.find import load_task
from robokit.task.lookup.source import given, shipped_folder
from robokit.training.loop import train
from robokit.training.run import Run
from robokit.training.setup.build import Built, Setup, build_learner
from robokit.training.setup.provenance import create

SMALL = Config(32, num_envs=2, horizon=16, minibatch=16, epochs=1, hidden=(4,), compile=False)
SETUP = Setup(threads=1)
HELPED = "from scale import SCALE\n" + OWN.replace("abs()", "abs() * SCALE")
VARIANT = "from slide import Slide\nclass Wide(Slide):\n    time_limit = 0.1\n"


def prepare(folder: Path) -> None:
    folder.mkdir()
    write(folder, HELPED)
    (folder / "scale.py").write_text("SCALE = 2.0\n")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run whose task has a helper beside it; the folder that it was trained in is gone."""
    here, there = (tmp_path_factory.mktemp("runs") / name for name in ("old", "new"))
    prepare(here)
    runs = here.parent / "kept"
    learner = build_learner(load_task(here / "slide.py"), SETUP, SMALL)
    train(learner, create(runs, learner, SETUP), 32)
    shutil.rmtree(here)
    prepare(there)
    shutil.move(runs, there / "runs")
    return there


@pytest.fixture(autouse=True)
def copied(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder with a copy of the run and its task file; the run."""
    shutil.copytree(trained, tmp_path / "new", symlinks=True)
    monkeypatch.chdir(tmp_path / "new")
    given.clear()
    return Path("runs/slide/latest")


def test_the_message_says_where_it_was_looked_for_and_what_to_give(
    copied: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["evaluate", str(copied), "--episodes", "2"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "names the task 'slide'; looked up: ./tasks; trained from '/" in said
    assert said.endswith("slide.py' (no task file here); the shipped tasks; give --task slide.py")


def test_a_task_that_is_given_is_the_runs_own_in_another_place(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert type(subject_of(copied, "slide.py", torch=True).task).__name__ == "Slide"
    given.clear()
    with pytest.raises(TaskError, match="looked up"):
        subject_of(copied, torch=True)
    monkeypatch.chdir(tmp_path)
    assert subject_of(Path("new") / copied, torch=True, trust=True).own  # three folders above the run


@pytest.mark.medium
def test_a_copied_run_is_exported(copied: Path):
    assert subject_of(copied, "slide.py").own and (copied / "policy.onnx").is_file()
    assert main(["export", str(copied), "--task", "slide.py", "--episodes", "0"]) == 0
    assert Path("policies/slide.onnx").is_file()


def test_a_copied_run_goes_on_if_its_files_are_the_same(
    copied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    class Resumed(Exception):
        pass

    def resumed(learner: Built, run: Run, *_: Any) -> None:
        assert type(learner.env.task).__name__ == "Slide" and run.steps == 64
        raise Resumed

    monkeypatch.setattr(training, "_train", resumed)
    resume = ["train", "--resume", str(copied), "--task", "slide.py", "--steps", "64"]
    with pytest.raises(Resumed):
        main(resume)
    Path("scale.py").write_text("SCALE = 3.0\n")
    assert main(resume) == 2
    assert "cannot be resumed: changed since it began: scale.py" in capsys.readouterr().err
    assert subject_of(copied, "slide.py", torch=True).own
    assert f"changed since {copied.resolve()} was trained: scale.py" in capsys.readouterr().err
    with pytest.raises(TaskError, match=r"is a run of 'slide', not of 'hopper': give FILE\.py:Class$"):
        robokit.train("hopper", resume=copied)
    given.clear()
    assert main(["train", "--like", str(copied)]) == 2


def test_a_variant_measures_the_file_even_where_the_own_task_is_unknown(copied: Path):
    Path("wide.py").write_text(VARIANT)
    for suffix in (".onnx", ".onnx.sha256"):
        shutil.copy(shipped_folder("policies") / f"hopper{suffix}", copied / f"policy{suffix}")
    subject = subject_of(copied, "wide.py")
    assert subject.file is not None and not subject.own and subject.task.time_limit == 0.1


def test_a_run_in_the_folder_it_was_trained_in_needs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    given.clear()
    run = Run.open("runs/slide/latest")
    run.about["file"] = str(Path("slide.py").resolve())
    run._write_config()  # pyright: ignore[reportPrivateUsage]
    assert subject_of(run.path, torch=True).own
    monkeypatch.chdir(tmp_path)
    given.clear()
    with pytest.raises(TaskError, match="inside or beside the data's own folder"):
        subject_of(run.path, torch=True)
