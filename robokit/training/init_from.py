"""A training that starts from another policy: `robokit train TASK --init-from RUN`.

    parent = open_parent("runs/hopper/latest")       # or an exported file, with its weights beside it
    start_from(learner, parent)                      # before the first iteration; prints what differs

Policy, normaliser and critics move by the names of observations and actuators. What is new has weight zero,
so that the first policy is the parent's. Optimiser, multipliers and random numbers are the new run's.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robokit.console import say
from robokit.env.env import Env
from robokit.errors import RunError
from robokit.export.file import Exported
from robokit.export.weights import read_weights, weights_bytes
from robokit.learning.constrained import Constrained
from robokit.learning.layouts import critic_layout, policy_layout
from robokit.learning.offpolicy.loop import OffPolicy
from robokit.learning.warm_start import Layouts, Start, compare
from robokit.networks.layout import Axes, Layout, axes, moved, scales
from robokit.state import State
from robokit.task.task import Task
from robokit.training.build import Built, algorithm, options
from robokit.training.run import Run

POLICY, RETURNS, TEMPERATURE = "policy", "return_scale", "temperature"  # see `Built.networks`
ANEW = "anew: optimiser, multipliers of limits, random numbers"


@dataclass(frozen=True)
class Parent:
    """A policy to start from, with a run's critics too: tensors as in a learner's state, and layouts."""

    name: str  # <task>/<date> of a run; folder and name of a file
    steps: int | None  # of its training; None: unknown
    tensors: State
    layouts: Layouts

    @property
    def policy(self) -> State:
        """The policy's state_dict."""
        return _under(f"{POLICY}.", self.tensors)

    @property
    def facts(self) -> dict[str, Any]:
        """For configuration and contract: name, sha256 (of what `export` writes as its weights), steps."""
        digest = hashlib.sha256(weights_bytes(self.policy, self.layouts["policy"])).hexdigest()
        known = {} if self.steps is None else {"steps": self.steps}
        return {"name": self.name, "sha256": digest, **known}


def layouts(learner: Built) -> dict[str, Layout]:
    """The layouts of a learner's policy and critics."""
    env = learner.env
    critics = critic_layout(env, learner.config, learner.constrained)
    return {"policy": policy_layout(learner.policy, env), "critic": critics}


def open_parent(what: str | Path) -> Parent:
    """The parent in a run folder, as exported: the best policy in validation, else the last; or in a file.

    Raises RunError for a run without a policy, CheckpointError if that is damaged, OptionError for a file
    without weights, ContractError for a damaged one.
    """
    if Path(what).suffix == ".onnx":
        file = Exported.open(what)
        state, layout = read_weights(file)
        path = file.path.resolve()
        tensors = _with(f"{POLICY}.", state)
        return Parent(f"{path.parent.name}/{path.name}", _steps(file), tensors, {"policy": layout})
    run = Run.open(what)
    if (stored := run.config.get("layouts")) is None:
        rule = f"{run.path} was begun by an earlier version of robokit, without the names of its inputs"
        raise RunError(f"{rule}: export it (robokit export {run.path}), and start from the file")
    last, best = run.last(), run.best()
    if last is None or not last.steps:
        raise RunError(f"{run.path} has no checkpoint after its start: it has learned nothing yet")
    tensors = last.tensors | (_with(f"{POLICY}.", best.tensors) if best else {})
    try:
        named = {name: Layout.of(facts) for name, facts in stored.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{run.path} has a config.json whose layouts are damaged: {error!r}") from error
    return Parent(f"{run.path.parent.name}/{run.path.name}", (best or last).steps, tensors, named)


def _steps(file: Exported) -> int | None:
    """The step of the training on a file's card; None without a card of this very file."""
    try:
        card = json.loads(file.path.with_suffix(".json").read_bytes())
        return int(card["steps"]) if card["sha256"] == file.sha256 else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def start_from(learner: Built, parent: Parent) -> Start:
    """Give a new learner, before its first iteration, the parent's weights, and print what differs.

    Raises OptionError as `compare`; the learner is then unchanged.
    """
    own = layouts(learner)
    start = compare(parent.name, own, parent.layouts)
    names, their_names = _names(own), _names(parent.layouts)
    for name, net in learner.networks.items():
        theirs = _under(f"{name}.", parent.tensors)
        beside = start.critics and (name != TEMPERATURE or _open_temperature(learner.config))
        if theirs and (name == POLICY or beside):
            net.load_state_dict(moved(net.state_dict(), names[name], theirs, their_names[name]))
        if name == RETURNS:  # of old rewards: new ones soon outweigh what counts as one rollout
            net.get_buffer("count").clamp_(max=learner.steps_per_iteration)
    begin(learner)
    for line in report(parent, start):
        say(line)
    return start


def _names(layouts: Layouts) -> dict[str, Axes]:
    """Names in the tensors of each of a learner's networks."""
    outputs = (
        [(name,) for names in layouts["critic"].outputs for name in names] if "critic" in layouts else []
    )
    named = {name: axes(layout) for name, layout in layouts.items()}
    return {**named, RETURNS: scales(outputs, ""), TEMPERATURE: {}}


def _open_temperature(config: Any) -> bool:
    """Whether SAC's options leave the temperature, the critics' weight of entropy, to the parent."""
    return config.init_temperature == type(config)().init_temperature


def begin(learner: Built) -> None:
    """Tell a learner that its policy did not begin at random; a resumed one before its state is loaded."""
    if isinstance(learner, OffPolicy):
        learner.begin()


def preview(task: Task, algo: str, parent: Parent) -> Start:
    """As `compare`, for a training with the task's recipe; nothing is trained."""
    config, env = options(task, algo), Env(task, threads=1, nominal=True)
    with torch.random.fork_rng(devices=[]):
        policy = algorithm(algo).make_actor(env, config)
    critic = critic_layout(env, config, Constrained(env, config))
    return compare(parent.name, {"policy": policy_layout(policy, env), "critic": critic}, parent.layouts)


def report(parent: Parent, start: Start) -> list[str]:
    """`start` in lines of text."""
    known = "" if parent.steps is None else f", step {parent.steps}"
    first = "the first policy is the parent's" if start.same else "the first policy is NOT the parent's"
    return [f"from {parent.name}{known}: {first}", *(f"  {line}" for line in (*start.lines, ANEW))]


def _under(prefix: str, state: Mapping[str, Tensor]) -> State:
    return {key.removeprefix(prefix): x for key, x in state.items() if key.startswith(prefix)}


def _with(prefix: str, state: Mapping[str, Tensor]) -> State:
    return {f"{prefix}{key}": x for key, x in state.items()}
