"""Hooks are told what happens, may end a training, and change nothing else."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy import Toy

from robokit.algos.ppo import Config, Learner
from robokit.env.env import make
from robokit.training.hooks import Event
from robokit.training.loop import BY_HOOK, train
from robokit.training.run import Run


def new(root: Path) -> Run:
    return Run.create(root, "toy", 80, {"seed": 0}, {})


def test_a_hook_is_told_each_iteration_and_validation_between_begin_and_end(tmp_path: Path):
    events: list[Event] = []
    toy = Toy()

    def validate(done: Any) -> dict[str, float]:
        return {"validation/return": 7.0} if done.steps == 16 else {}

    run = new(tmp_path)
    train(toy, run, 24, validate=validate, hooks=[events.append])
    kinds = [(event.kind, event.done.steps) for event in events]
    iterations = [("iteration", 8), ("iteration", 16), ("validation", 16), ("iteration", 24)]
    assert kinds == [("begin", 0), *iterations, ("end", 24)]
    assert events[3].metrics["validation/return"] == 7.0
    assert events[4].metrics["episode/return"] == toy.weight.sum().item()
    assert all(event.run == run for event in events)


def test_a_hook_that_returns_false_ends_the_training_with_a_checkpoint(tmp_path: Path):
    numpy_s: Any = lambda event: np.int64(event.done.steps) < 40  # noqa: E731
    run = new(tmp_path)
    outcome = train(Toy(), run, 80, hooks=[numpy_s])
    assert (outcome.stop, outcome.done.steps) == (BY_HOOK, 40)
    assert outcome.checkpoint.is_dir()
    again = train(Toy(), run, 80, hooks=[lambda event: event.kind != "begin"])
    assert (again.stop, again.done.steps) == (BY_HOOK, 40)  # ended before the first iteration
    last = train(Toy(), run, 80, hooks=[lambda event: event.done.steps < 80])
    assert (last.stop, last.done.steps) == (None, 80)  # it ended anyway


def test_a_hook_that_raises_is_one_line_and_is_not_called_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    calls: list[str] = []

    def breaks(event: Event) -> None:
        calls.append(event.kind)
        raise ValueError("first line\nsecond line")

    assert train(Toy(), new(tmp_path), 24, hooks=[breaks, lambda event: None]).done.steps == 24
    notes = [line for line in capsys.readouterr().err.splitlines() if "hook" in line]
    [note] = notes
    assert note.endswith("breaks is not called again: ValueError: first line second line")
    assert calls == ["begin"]


def test_a_training_is_bit_equal_with_and_without_a_hook_that_draws(tmp_path: Path):
    def draws(event: Event) -> None:
        torch.rand(3)
        event.learner.policy(torch.zeros(1, 4), torch.zeros(1, 0), torch.ones(1, dtype=torch.bool))

    ends = []
    for hooks in ([], [draws]):
        torch.manual_seed(0)
        config = Config(horizon=16, minibatch=16, epochs=1, hidden=(4,), compile=False)
        learner = Learner(make("inverted_pendulum", num_envs=2, threads=1), config)
        train(learner, new(tmp_path), 80, hooks=hooks)
        ends.append((learner.state_dict(), torch.rand(1)))
    assert all(torch.equal(ends[0][0][name], value) for name, value in ends[1][0].items())
    assert torch.equal(ends[0][1], ends[1][1])
