"""A training that starts from another policy: `robokit train TASK --init-from RUN`.

    parent = open_parent("runs/hopper/latest")       # or an exported file, with its weights beside it
    init_learner(learner, parent)                    # before the first iteration; prints what differs

Policy, normaliser and critics move by the names of observations and actuators. What is new has weight zero,
so that the first policy is the parent's. Multipliers of equal limits go on; optimiser and random numbers are
the new run's.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robokit.console import say
from robokit.env.env import Env
from robokit.errors import RunError
from robokit.export.card import steps_of
from robokit.export.file import Exported
from robokit.export.weights import read_weights, weights_bytes
from robokit.learning.constrained import Constrained
from robokit.learning.layouts import critic_layout, layouts_of, policy_layout
from robokit.learning.schedule import first
from robokit.learning.takeover import (
    Layouts,
    Takeover,
    as_arguments,
    check_weights,
    compare,
    network_options,
    same_limits,
    under,
    weights,
)
from robokit.networks.layout import Layout
from robokit.state import State
from robokit.task.task import Task
from robokit.training.run import UNSAVED, Run
from robokit.training.setup.build import Built, algorithm, options

FOLLOWING = ("pid", "dual")  # rules whose multipliers follow the costs
POLICY, TEMPERATURE = "policy", "temperature"  # see `Built.networks`


@dataclass(frozen=True)
class Parent:
    """A policy to start from, with a run's critics too: tensors as in a learner's state, and layouts."""

    path: Path  # of the run or file
    name: str  # <task>/<date> of a run; folder and name of a file
    steps: int | None  # of its training; None: unknown
    tensors: State
    layouts: Layouts
    limits: Mapping[str, float] = field(default_factory=dict[str, float])  # of a run, as its multipliers
    rule: str | None = None  # of these; None: unknown

    @property
    def policy(self) -> State:
        """The policy's state_dict."""
        return under(POLICY, self.tensors)

    @property
    def facts(self) -> dict[str, Any]:
        """For configuration and contract: name, sha256 (of what `export` writes as its weights), steps."""
        digest = hashlib.sha256(weights_bytes(self.policy, self.layouts["policy"])).hexdigest()
        known = {} if self.steps is None else {"steps": self.steps}
        return {"name": self.name, "sha256": digest, **known}


def open_parent(what: str | Path) -> Parent:
    """The parent in a run folder, as exported: the best policy in validation, else the last; or in a file.

    Raises RunError for a run without a policy, CheckpointError if that is damaged, OptionError for a file
    without weights, ContractError for a damaged one.
    """
    if Path(what).suffix == ".onnx":
        file = Exported.open(what)
        state, layout = read_weights(file)
        path = Path(os.path.realpath(file.path))
        tensors = _with(f"{POLICY}.", state)
        return Parent(path, f"{path.parent.name}/{path.name}", steps_of(file), tensors, {"policy": layout})
    run = Run.open(what)
    if (stored := run.config.get("layouts")) is None:
        rule = f"{run.path} was begun by an earlier version of robokit, without the names of its inputs"
        raise RunError(f"{rule}: export it (robokit export {run.path}), and start from the file")
    last, best = run.last(), run.best()
    if last is None or not last.steps:
        raise RunError(f"{run.path} {UNSAVED}")
    tensors = last.tensors | (_with(f"{POLICY}.", best.tensors) if best else {})
    try:
        named = {name: Layout.of(facts) for name, facts in stored.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{run.path} has a config.json whose layouts are damaged: {error!r}") from error
    name = f"{run.path.parent.name}/{run.path.name}"
    limits, rule = run.config.get("limits", {}), run.config["options"].get("limit_rule")
    return Parent(run.path, name, (best or last).steps, tensors, named, limits, rule)


def parent_of(run: Run) -> Parent:
    """The parent of a run without a checkpoint. Raises RunError if it is gone or was trained further."""
    facts, path = run.config["parent"], str(run.about.get("parent"))
    rule = f"{run.path} has no checkpoint yet, and its parent {facts['name']}"
    anew = "begin it again with --init-from"
    try:
        parent = open_parent(path)
    except (ValueError, OSError) as error:
        raise RunError(f"{rule} cannot be opened ({error}): {anew}") from error
    if parent.facts != facts:
        raise RunError(f"{rule} is another policy now: {anew}")
    return parent


def init_learner(learner: Built, parent: Parent) -> Takeover:
    """Give a new learner, before its first iteration, the parent's weights, and print what differs.

    Raises OptionError as `compare`, or if the weights are not those of such a network; the learner is then
    unchanged.
    """
    own, networks = layouts_of(learner), learner.networks
    takeover = compare(parent.name, own, parent.layouts).at(first(learner.config.lr))
    check_weights(parent.name, learner.policy.state_dict(), parent.policy)
    same, takeover = _limits(takeover, own, learner.constrained, learner.config, parent)
    given = _given_temperature(learner) if takeover.critics and TEMPERATURE in networks else None
    if given is not None:
        takeover = takeover.adding(f"the temperature is the given {given:g}, not the parent's")
    kept = {*networks} if takeover.critics else {POLICY}
    kept -= set() if given is None else {TEMPERATURE}
    chosen = {name: net for name, net in networks.items() if name in kept}
    for name, state in weights(chosen, own, parent.tensors, parent.layouts).items():
        networks[name].load_state_dict(state)
    if same:
        state = under("multipliers", parent.tensors)
        learner.constrained.multipliers.take_over(state, [*parent.limits], same)
    learner.keep_weights()
    for line in takeover.report(parent.name, parent.steps):
        say(line)
    return takeover


def _limits(
    takeover: Takeover, own: Layouts, constrained: Constrained, config: Any, parent: Parent
) -> tuple[list[str], Takeover]:
    """Limits whose multipliers go on: those that are the same, under the same rule."""
    values = {name: limit.value for name, limit in constrained.limits.items()}
    going = takeover.critics and config.limit_rule == parent.rule and parent.rule in FOLLOWING
    same = same_limits(own, values, parent.layouts, parent.limits) if going else []
    return same, takeover.adding(
        f"multipliers of the same limits go on: {', '.join(same)}"
    ) if same else takeover


def _given_temperature(learner: Built) -> float | None:
    """SAC's init_temperature, if it is another one than the task's recipe or the algorithm has."""
    config, own = learner.config, type(learner.config)
    recipe = learner.env.task.recipes.get(own.__module__.rpartition(".")[2], {})
    usual = recipe.get("init_temperature", own().init_temperature)
    return None if config.init_temperature == usual else config.init_temperature


def preview(task: Task, algo: str, parent: Parent) -> Takeover:
    """What a training with the task's recipe takes over, in networks of the parent's size; trains nothing.

    The last line names the options that `train` must be given for this size, if any. Errors: `init_learner`.
    """
    config, env, theirs = options(task, algo), Env(task, threads=1, nominal=True), parent.layouts["policy"]
    wanted = network_options(theirs) if theirs.named else {}
    needed = {name: value for name, value in wanted.items() if getattr(config, name) != value}
    config = replace(config, **needed)
    with torch.random.fork_rng(devices=[]):
        policy = algorithm(algo).make_actor(env, config)
    constrained = Constrained(env, config)
    critic = critic_layout(env, config, constrained)
    own = {"policy": policy_layout(policy, env), "critic": critic}
    takeover = compare(parent.name, own, parent.layouts).at(first(config.lr))
    _, takeover = _limits(takeover, own, constrained, config, parent)
    check_weights(parent.name, policy.state_dict(), parent.policy)
    words = f"train needs the parent's network: {as_arguments(needed)}"
    return takeover.adding(words) if needed else takeover


def _with(prefix: str, state: Mapping[str, Tensor]) -> State:
    return {f"{prefix}{key}": x for key, x in state.items()}
