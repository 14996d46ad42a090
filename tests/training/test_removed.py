"""What others remove or change in a run folder under way is told at the next save, and nothing is lost."""

import json
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from test_loop import assert_equal, metrics, new
from toy import Remembering, Toy

from robokit.errors import RunError
from robokit.training.loop import Outcome, train
from robokit.training.run import Run

Harm = Callable[[Run], object]


class Harmed(Remembering):
    """A learner in whose fourth iteration somebody harms the run's folder."""

    def __init__(self, run: Run, harm: Harm) -> None:
        super().__init__()
        self.run, self.harm = run, harm

    def iterate(self) -> dict[str, float]:
        if self.iterations == 3:
            self.harm(self.run)
        return super().iterate()


def removed(path: Path) -> None:
    """Delete a folder into which TensorBoard's thread may write meanwhile."""
    path.rename(away := path.with_name("away"))
    shutil.rmtree(away)


def edited(run: Run) -> None:
    path = run.path / "config.json"
    text = json.loads(path.read_text())
    path.write_text(json.dumps(text | {"config": {"seed": 7}}))


def moved(run: Run) -> None:
    run.path.rename(run.path.parent / "moved")


def swapped(run: Run) -> None:
    run.path.rename(run.path.parent / "moved")
    shutil.copytree(run.path.parent / "moved", run.path)


HARMS: dict[str, tuple[Harm, str]] = {
    "config": (lambda run: (run.path / "config.json").unlink(), "note: written again, for others removed or"),
    "config damaged": (
        lambda run: (run.path / "config.json").write_text("{"),
        "note: written again, for others",
    ),
    "config edited": (edited, "config.json was changed while training: a resume needs what it was"),
    "metrics": (
        lambda run: (run.path / "metrics.jsonl").unlink(),
        "metrics.jsonl was removed while training",
    ),
    "checkpoint": (lambda run: shutil.rmtree(run.checkpoint(16)), "000000000016 was removed while training"),
    "checkpoints": (lambda run: shutil.rmtree(run.checkpoints), "000000000016 was removed while training"),
    "segments": (lambda run: shutil.rmtree(run.checkpoints / "segments"), "segments in"),
    "events": (lambda run: removed(run.path / "tensorboard"), "tensorboard was removed while training"),
    "the folder": (lambda run: removed(run.path), "was removed while training: it is made again"),
    "all runs": (lambda run: removed(run.path.parents[1]), "was removed while training: it is made"),
    "moved": (moved, "toy/moved while training: it is made again, and saved into"),
    "swapped": (swapped, "toy/moved while training: it is made again, and saved into"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_what_is_removed_is_told_at_the_next_save_and_the_learner_goes_on(
    tmp_path: Path, harm: str, capsys: pytest.CaptureFixture[str]
):
    whole, straight = Remembering(), new(tmp_path / "whole")
    train(whole, straight, 80, save_steps=16)
    run, (do, words) = new(tmp_path / "runs"), HARMS[harm]
    capsys.readouterr()
    learner = Harmed(run, do)
    outcome: Outcome = train(learner, run, 80, save_steps=16)
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note:")]
    assert any(words in note for note in notes), notes
    assert_equal(learner, whole)
    assert outcome.done.steps == 80
    if harm != "config edited":
        again = Remembering(seed=5)
        assert Run.open(run.path).resume(again).steps == 80
        assert_equal(again, whole)
        assert torch.equal(again.replay.rows[:40], whole.replay.rows[:40])
    assert metrics(run) == metrics(straight)


def test_an_undisturbed_training_has_no_such_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    train(Harmed(run := new(tmp_path), lambda run: None), run, 80, save_steps=16)
    assert "note:" not in capsys.readouterr().err


def test_another_training_in_the_folder_that_took_the_place_ends_this_one(tmp_path: Path):
    def taken(run: Run) -> None:
        swapped(run)
        stack.enter_context(Run.open(run.path).locked())

    run = new(tmp_path)
    with ExitStack() as stack, pytest.raises(RunError, match="another process is training in"):
        train(Harmed(run, taken), run, 80, save_steps=16)


def test_damaged_metrics_are_told_at_a_resume_and_end_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = new(tmp_path)
    train(Toy(), run, 40)
    path = run.path / "metrics.jsonl"
    path.write_text(path.read_text().replace('"iteration": 2', '"iteration": 3'))
    toy, whole = Toy(), Toy()
    train(toy, run, 80)
    train(whole, new(tmp_path), 80)
    assert_equal(toy, whole)
    assert capsys.readouterr().err.count(f"note: {path} is not as it was saved at step 40: some bytes") == 1
    assert [row["steps"] for row in metrics(run)] == [*range(8, 81, 8)]


def test_a_run_of_before_whose_checkpoints_say_nothing_of_the_metrics_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = new(tmp_path)
    train(Toy(), run, 40)
    said = run.logged(40)
    assert said is not None and said["bytes"] == (run.path / "metrics.jsonl").stat().st_size
    run.save(toy := Toy(), run.resume(toy))  # as before: without
    assert run.logged(40) is None
    train(Toy(), run, 80)
    assert [row["steps"] for row in metrics(run)] == [*range(8, 81, 8)]
    assert "note:" not in capsys.readouterr().err
