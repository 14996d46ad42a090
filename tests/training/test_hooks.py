"""Hooks are told what happens, may end a training, and change nothing else."""

from pathlib import Path
from typing import Any

import pytest
import torch
from toy import Toy

from robokit.training.hooks import Event
from robokit.training.loop import BY_HOOK, train
from robokit.training.run import Run


def new(root: Path) -> Run:
    return Run.create(root, "toy", 80, {"seed": 0}, {})


def test_a_hook_is_told_each_iteration_and_validation_between_begin_and_end(tmp_path: Path):
    events: list[Event] = []

    def validate(done: Any) -> dict[str, float]:
        return {"validation/return": 7.0} if done.steps == 16 else {}

    run = new(tmp_path)
    train(Toy(), run, 24, validate=validate, hooks=[events.append])
    kinds = [(event.kind, event.done.steps) for event in events]
    iterations = [("iteration", 8), ("iteration", 16), ("validation", 16), ("iteration", 24)]
    assert kinds == [("begin", 0), *iterations, ("end", 24)]
    assert events[3].metrics["validation/return"] == 7.0
    assert events[1].metrics["episode/return"] == pytest.approx(events[1].metrics["episode/return"])
    assert all(event.run == run for event in events)


def test_a_hook_that_returns_false_ends_the_training_with_a_checkpoint(tmp_path: Path):
    run = new(tmp_path)
    outcome = train(Toy(), run, 80, hooks=[lambda event: event.done.steps < 40])
    assert (outcome.stop, outcome.done.steps) == (BY_HOOK, 40)
    assert outcome.checkpoint.is_dir()
    again = train(Toy(), run, 80, hooks=[lambda event: event.kind != "begin"])
    assert (again.stop, again.done.steps) == (BY_HOOK, 40)  # ended before the first iteration
    assert train(Toy(), run, 80).done.steps == 80


def test_a_hook_that_raises_is_one_line_and_is_not_called_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    calls: list[str] = []

    def breaks(event: Event) -> None:
        calls.append(event.kind)
        raise KeyError("reward")

    assert train(Toy(), new(tmp_path), 24, hooks=[breaks, lambda event: None]).done.steps == 24
    notes = [line for line in capsys.readouterr().err.splitlines() if "hook" in line]
    [note] = notes
    assert note.endswith("breaks is not called again: KeyError: 'reward'")
    assert calls == ["begin"]


def test_a_training_is_bit_equal_with_and_without_a_hook_that_draws(tmp_path: Path):
    class Global(Toy):
        """Draws from torch's global generator, too."""

        def iterate(self) -> dict[str, float]:
            self.weight.add_(torch.randn(self.weight.shape))
            return super().iterate()

    ends = []
    for hooks in ([], [lambda event: torch.rand(3) is None]):
        torch.manual_seed(0)
        learner = Global()
        hooks = [lambda event, hook=hook: hook(event) or None for hook in hooks]
        train(learner, new(tmp_path), 80, hooks=hooks)
        ends.append(learner.weight.clone())
    assert torch.equal(*ends)
