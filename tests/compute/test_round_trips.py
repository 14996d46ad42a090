"""Synchronisations of a training with its device: each makes the host wait until a GPU has caught up.

They are found on the CPU: every call that reads a tensor's value, or makes a tensor of Python numbers (on a
GPU a blocking copy), is recorded with the calling function of robokit or of the task. The allowed calls
listed here happen once per iteration, or read the CPU of the physics.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from cart import Cart
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from robokit.algos import ppo, sac, td3
from robokit.env.env import make

ROOT = Path(__file__).parents[2]
OURS = ("robokit", "tasks", "tests")  # beside them may lie a virtual environment
aten = torch.ops.aten
VALUES = {  # of which the host must know a value, or how many there are
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten.lift_fresh.default,  # torch.tensor, as_tensor, new_tensor, x[i] = number
}
BY_MASK = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default}
TO_HOST = {torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.cpu, torch.Tensor.__array__}

Question = tuple[str, str]  # file and function that asked


class Operations(TorchDispatchMode):
    """Notes the operations that need a value."""

    def __init__(self, note: Callable[[], None]) -> None:
        super().__init__()
        self._note = note

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in VALUES or (func in BY_MASK and any(_is_mask(x) for x in args[1])):
            self._note()
        return func(*args, **(kwargs or {}))


class Calls(TorchFunctionMode):
    """Notes the calls that bring a tensor to the host, which are no operation where it is there already."""

    def __init__(self, note: Callable[[], None]) -> None:
        super().__init__()
        self._note = note

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in TO_HOST:
            self._note()
        return func(*args, **(kwargs or {}))


def _is_mask(index: torch.Tensor | None) -> bool:
    return index is not None and index.dtype == torch.bool


def _asker() -> Question:
    """The innermost function of ours."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if file != Path(__file__) and any(file.is_relative_to(ROOT / part) for part in OURS):
            return file.relative_to(ROOT).as_posix(), frame.f_code.co_name
        frame = frame.f_back
    return "", ""


@contextmanager
def questions() -> Iterator[Counter[Question]]:
    """How often each function asks, inside."""
    asked: Counter[Question] = Counter()

    def note() -> None:
        asked[_asker()] += 1

    with Operations(note), Calls(note):
        yield asked


PHYSICS = {  # of mujoco.batch, on the CPU: with physics on a GPU there is no such question
    ("robokit/env/env.py", "_read"),
    ("robokit/sim/base.py", "chosen"),
    ("robokit/sim/cpu.py", "reset"),
}
ONCE = {
    ("robokit/learning/episodes.py", "summary"): 1,
    ("robokit/learning/episodes.py", "numbers"): 1,
}  # in an iteration


def asked_by(learner: Any) -> dict[Question, int]:
    """In one iteration, but for what CPU physics asks."""
    with questions() as asked:
        learner.iterate()
    assert asked[("robokit/env/env.py", "_read")] >= 8  # the restarts of CPU physics: it is watched
    return {asker: times for asker, times in asked.items() if asker not in PHYSICS}


@pytest.mark.parametrize(
    ("task", "options"),
    [
        (Cart, {}),  # under a limit
        (Cart, {"objective": "penalty", "lr": (3e-4, 0.0), "scale_reward": False}),
        (Cart, {"belief": "gru", "belief_size": 4, "chunk": 4, "critic_belief": "stack"}),
        ("go2_walk", {"lr_schedule": "adaptive", "mirror": True}),
    ],
)
def test_ppo_asks_only_at_the_end_of_an_iteration(task: Any, options: dict[str, Any]):
    config = ppo.Config(num_envs=4, horizon=8, minibatch=16, epochs=2, hidden=(8,), compile=False)
    learner = ppo.Learner(make(task, 4, threads=1), replace(config, **options))
    learner.iterate()
    assert asked_by(learner) == ONCE


@pytest.mark.parametrize("module", [sac, td3])
@pytest.mark.parametrize(
    ("task", "options"),
    [(Cart, {"normalize_obs": True, "n_step": 2}), ("go2_walk", {"limit_rule": "off"})],
)
def test_off_policy_algorithms_ask_only_at_the_end_of_an_iteration(
    module: Any, task: Any, options: dict[str, Any]
):
    config = module.Config(
        num_envs=4, learning_starts=16, batch=16, replay=256, utd=0.5, hidden=(8,), compile=False, **options
    )
    learner = module.Learner(make(task, 4, threads=1), config)
    learner.horizon = 8
    for _ in range(2):
        learner.iterate()
    assert asked_by(learner) == ONCE and learner.gradients == 40


@pytest.mark.parametrize(
    "ask",
    [
        lambda x: x.sum().item(),
        lambda x: float(x.sum()),
        lambda x: bool(x.any()),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x.numpy(),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: torch.where(x > 0),
        lambda x: x.masked_select(x > 0),
        lambda x: torch.tensor([1.0], device=x.device),
        lambda x: torch.as_tensor((1.0, 2.0), device=x.device),
        lambda x: x.new_tensor(1.0),
        lambda x: x.__setitem__(0, 1.0),
        lambda x: torch.equal(x, x),
        lambda x: x.__setitem__(x > 0, 1.0),
    ],
)
def test_a_question_is_noticed(ask: Callable[[torch.Tensor], Any]):
    with questions() as asked:
        ask(torch.ones(3))
    assert asked.total() >= 1


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: torch.where(x > 0, 0.0, x),
        lambda x: x.masked_fill(x > 0, 0.0),
        lambda x: x[torch.arange(2)],
        lambda x: x.clamp(0.0, 1.0) * 2 + x[0],
        lambda x: torch.full((2,), 3.0, device=x.device),
    ],
)
def test_what_asks_for_nothing_is_let_pass(compute: Callable[[torch.Tensor], Any]):
    with questions() as asked:
        compute(torch.ones(3))
    assert not asked
