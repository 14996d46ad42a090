"""Hooks: functions of the user that a training calls.

    def watch(event: Event) -> bool | None:
        if event.kind == "validation" and event.metrics["validation/return"] > 3000:
            return False  # enough: save, export, end

Hooks run in the first process only. A training is bit-equal with and without a hook, unless it changes the
learner.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from robokit.console import say
from robokit.learning.protocols import Learner
from robokit.training.run import Done, Run

Kind = Literal["begin", "iteration", "validation", "end"]


@dataclass(frozen=True)
class Event:
    """What is passed to a hook."""

    # begin: before the first iteration, also of a resumed run; iteration: after each; validation: after an
    # iteration with one; end: the last checkpoint is written, the policy not yet exported
    kind: Kind
    run: Run
    done: Done  # progress
    learner: Learner
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])  # of this iteration, as logged


Hook = Callable[[Event], bool | None]  # False: end the training as a stop does, saved and exported


class Hooks:
    """Calls each hook. One that raises is named in one line and not called again."""

    def __init__(self, hooks: Sequence[Hook] = ()) -> None:
        self._hooks = [*hooks]

    def __call__(self, event: Event) -> bool:
        """Whether the training goes on: no hook returned False, or what is false.

        torch's global generator is afterwards as before.
        """
        going = True
        for hook in [*self._hooks]:
            try:
                with torch.random.fork_rng(devices=[]):
                    answer = hook(event)
                going &= answer is None or bool(answer)
            except Exception as error:  # noqa: BLE001 - a user's function must not end a training
                self._hooks.remove(hook)
                name = getattr(hook, "__qualname__", type(hook).__qualname__)
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                say(f"note: the hook {name} is not called again: {reason}")
        return going
