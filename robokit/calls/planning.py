"""Planning in the simulator itself, from Python and from the command line.

planned = robokit.plan("go2_walk", seconds=5.0, command=(0.6, 0.0, 0.0), output="walk.mp4")
print(planned.text())
"""

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robokit.calls.policies import Command, held
from robokit.calls.resolve import What, gamma_of, named_run
from robokit.calls.training import Named
from robokit.compute.compile import torch_threads
from robokit.compute.devices import cores
from robokit.console import say
from robokit.env.env import Env
from robokit.errors import OptionError, RunError
from robokit.evaluation.ledger import Ledger, measured
from robokit.evaluation.tally import Tally
from robokit.learning.options import plain, with_options
from robokit.limits.measures import MEASURES
from robokit.networks.critic import Critic
from robokit.planning.planner import Config, Planner, check, steps_of
from robokit.planning.rollout import Guide, TrueModel
from robokit.seeds import seed as seed_of
from robokit.show.film import check_film, filming
from robokit.state import scatter
from robokit.task.counts import steps_held
from robokit.task.lookup.find import load_task, title
from robokit.task.task import Task
from robokit.training.run import Run
from robokit.training.setup import restore

WIDTH, HEIGHT = 640, 480  # pixels of a film
GUIDED = 8  # of so many samples one follows the policy


@dataclass(frozen=True)
class Planned:
    """What a planner did in one episode of a task, or in its first seconds."""

    task: str
    returns: float  # sum of rewards
    steps: int  # control steps
    terminated: bool
    metrics: dict[str, dict[str, float]]  # name -> kind -> value, as in Tally; what was counted
    costs: dict[str, tuple[float, float, str]]  # name -> measured until now, limit, in words
    plans_per_second: float
    real_time: float  # simulated seconds per second, planning included
    film: str | None = None

    def text(self) -> str:
        """A table for the terminal."""
        end = ", ended by its task" if self.terminated else ""
        lines = [f"{self.task}: return {self.returns:.4g} in {self.steps} control steps{end}"]
        for name, kinds in self.metrics.items():
            lines.append(f"  {name:<30}" + "  ".join(f"{kind} {x:.4g}" for kind, x in kinds.items()))
        for name, (value, limit, words) in self.costs.items():
            lines.append(f"  {name:<30}{value:.4g} of {limit:g}, {words}")
        lines.append(f"{self.plans_per_second:.3g} plans a second, {self.real_time:.3g} of real time")
        return "\n".join(lines)


def planner_of(task: Task, **given: Any) -> Config:
    """Options of a planner: its defaults < the task's `planner` < given. Raises OptionError."""
    config = with_options(Config(), task.planner, f"the planner of {type(task).__name__}")
    config = with_options(config, given)
    check(config)
    return config


def plan(
    task: Named,
    output: str | PathLike[str] | None = None,
    *,
    seconds: float = 5.0,
    seed: int = 0,
    command: Command = (),
    nominal: bool = False,
    guide: What | None = None,
    threads: int = 0,
    trust: bool = False,
    **options: Any,
) -> Planned:
    """Play a task by planning over copies of the simulation itself; no training, and no controller.

    task: as `train` takes it. output: a film, .mp4 or .gif; None: none. seconds: of simulated time, at most
    one episode. seed: of the episode, as in `play`. command, nominal: see `evaluate`. guide: a run of this
    task, whose policy's actions are among the samples, and whose critic values the end of each. threads: of
    the physics; 0: one for each core. trust: see `evaluate`. options: of the planner, over the task's own.

    Raises OptionError, TaskError, RunError or RenderError before any work for what is not there or not fit.
    """
    chosen = load_task(fspath(task) if isinstance(task, PathLike) else task)
    config = planner_of(chosen, **options)
    steps_of(config, chosen.control_dt)
    seconds, seed, threads = plain(seconds), plain(seed), plain(threads)
    film = None if output is None else Path(output)
    if not 0 < seconds < math.inf:
        raise OptionError(f"seconds must be > 0 and finite, got {seconds}")
    if film:
        check_film(film, seconds, WIDTH, HEIGHT)
    run = None if guide is None else named_run(guide)
    restored = restore.restore_policy(run, task=chosen, trust=trust) if run else None
    env = Env(chosen, seed=seed_of("evaluation", seed), threads=1, nominal=nominal)
    env.hold(held(chosen, command))
    env.reset()
    where: dict[str, Any] = {"seed": seed_of("planning", seed), "threads": threads or cores()}
    look = run is not None or config.feedback > 0
    model, teacher = TrueModel(env, config.samples, **where, look=look), None
    if run and restored:
        value = critic_of(run, chosen, restored.policy)
        config = config if value is None else replace(config, gamma=gamma_of(run))
        teacher = Guide(restored.policy, max(1, config.samples // GUIDED), 1, value)
    planner = Planner(model, config, env, seed, teacher, gamma_of(run))
    count = min(env.max_age, max(1, round(seconds / chosen.control_dt)))
    with contextlib.nullcontext() if not film else filming(env, film, WIDTH, HEIGHT) as shoot:
        planned = replace(_play(env, planner, count, shoot), film=film and str(film))
    if film:
        say(f"film: {film}")
    return planned


@torch_threads(1)  # a control step has too little work to share, and the physics uses the cores
def _play(env: Env, planner: Planner, count: int, shoot: Callable[[int], None] | None) -> Planned:
    """Play until the episode ends, at most `count` control steps."""
    task, names, running = env.task, env.names, torch.ones(1, dtype=torch.bool)
    gamma, kinds = planner.budget.gamma, steps_held(task, names.booleans)
    ledger, tally = Ledger(task.limits, 1, gamma), Tally(names.metrics, kinds, 1)
    planning = playing = returns = 0.0
    n, done, terminated = 0, False, False
    while n < count and not done:
        if shoot is not None:
            shoot(n)
        began, obs = time.perf_counter(), env.obs
        action = planner.plan()
        planning += time.perf_counter() - began
        step = env.step(action)
        planner.follow(obs, step)
        playing += time.perf_counter() - began
        returns += float(step.reward)
        tally.add(step.metrics, running)
        ledger.add(step.cost, running, step.terminated, step.steps_left)
        n, done, terminated = n + 1, bool(step.done), bool(step.terminated)
    if note := env.broken.note():
        say(f"note: {note}")
    costs = ledger.costs()
    words = {k: MEASURES[x.measure].words for k, x in task.limits.items()}
    limits = {k: (measured(x.measure, costs[k]), x.value, words[k]) for k, x in task.limits.items()}
    counted = {k: {kind: float(x[0]) for kind, x in of.items()} for k, of in tally.kinds().items()}
    found = {
        k: known for k, of in counted.items() if (known := {n: x for n, x in of.items() if math.isfinite(x)})
    }
    rates = n / planning, n * task.control_dt / playing
    return Planned(title(task), returns, n, terminated, found, limits, *rates)


def critic_of(run: Run, task: Task, policy: Any) -> Callable[[Tensor, Tensor], Tensor] | None:
    """V(obs, state) of a run's last critic, if `policy` acts; None, and a note: it cannot be had."""
    try:
        learner: Any = restore.rebuild(run, task)
        if policy.belief_size or learner.critic.belief_size or learner.constrained.extra:
            raise OptionError("it has a memory")
    except (OptionError, RunError) as error:
        say(f"note: plans end without the critic of {run.path}: {error}")
        return None
    checkpoint, nets, critic = run.last(), learner.networks, learner.critic
    assert checkpoint is not None  # which the policy is from
    scatter(nets, checkpoint.tensors)

    def value(obs: Tensor, state: Tensor) -> Tensor:
        seen, none = state if learner.constrained.sees == "state" else obs, obs.new_zeros(len(obs), 0)
        is_first = torch.zeros(len(obs), dtype=torch.bool)
        if isinstance(critic, Critic):
            unit = (nets["return_scale"].var[0] + 1e-8).sqrt() if learner.config.scale_reward else 1.0
            return unit * critic(seen, none, is_first)[0][:, 0]
        action = policy(obs, none, is_first)[0]
        return critic.decode(critic.encode(seen, none, is_first)[0], action)[..., 0].mean(0)

    return value
