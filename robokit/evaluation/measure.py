"""Evaluation of an exported file: episodes of the ONNX graph in batched MuJoCo, a verdict on each limit.

    report = evaluate("hopper.onnx", "hopper", episodes=300)
    print(report.text())

Exactly one episode in each of `episodes` simulations, with seeds that training never uses, on the task as
trained; `nominal` turns randomisation, pushes and noise off. With the torch policy the same episodes run
twice more: with its deterministic actions, for the paired difference, and with sampled ones, as in training.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from robokit import seeds
from robokit.env.env import Env
from robokit.errors import OptionError
from robokit.evaluation.episodes import (
    GAMMA,
    Act,
    Episodes,
    onnx_actor,
    run_episodes,
    sampling_actor,
    torch_actor,
)
from robokit.evaluation.filtered import FilteredActor
from robokit.evaluation.reports.report import Failure, Headline, Report, Sampled, Through, judged
from robokit.evaluation.reports.verdict import Verdict, judge, overall
from robokit.evaluation.statistics import Array, Summary, estimate, share, summarize
from robokit.export.card import clip_command, clip_note, variant
from robokit.export.file import Exported
from robokit.filter import Filter
from robokit.learning.protocols import Actor
from robokit.task.counts import headline_kind
from robokit.task.lookup.find import class_name, load_task
from robokit.task.task import Task


def evaluate(
    file: str | Path | Exported | None,
    task: str | Path | type[Task] | Task,
    episodes: int = 300,
    *,
    seed: int = 0,
    nominal: bool = False,
    commands: Mapping[str, Sequence[float]] | None = None,
    policy: Actor | None = None,
    filter: Filter | None = None,
    gamma: float = GAMMA,
    sim: str = "mujoco",
    device: str = "cpu",
    threads: int = 0,
    own: bool | None = None,
) -> Report:
    """Statistics of an exported file on a task, and a verdict on each limit.

    file: its task may be another than `task`, if inputs, actuators and rate are the same; the report then
    says so. None: `policy` itself is measured, in torch.
    commands: constant values, clipped to the trained range; the report's notes list the clipped ones.
    policy: the torch policy that the file was exported from; None: no comparison. filter: run the same
    episodes once more through it (export/bounds.py resolves a person's numbers). gamma: of discounted limits.
    own: see `card.variant`.

    Raises ContractError for a damaged file, TaskError for a file that does not fit the task, FilterError for
    a filter of another file, and OptionError for episodes < 2 (an interval needs two), a seed below 0, a
    gamma outside (0, 1], an unknown command, or neither a file nor a policy, or a filter without a file.
    """
    drawing = seeds.seed("evaluation", seed)
    _check(episodes, gamma)
    exported, task = None if file is None else Exported.open(file), load_task(task)
    if filter is not None:
        if exported is None:
            raise OptionError("a filter is of one exported file, and the torch policy is none")
        filter.check(exported.sha256, exported.contract)
    contract = exported.contract if exported else _torch_contract(task)
    commands = commands or {}
    held = {name: clip_command(contract, name, numbers) for name, numbers in commands.items()}

    def fresh() -> Env:
        options: dict[str, Any] = {"seed": drawing, "nominal": nominal, "sim": sim}
        env = Env(task, episodes, **options, device=device, threads=threads)
        env.hold(held)
        return env

    guarded = FilteredActor(_actor(exported, policy), filter, episodes) if filter else None
    env = fresh()
    other = variant(contract, env, own) if exported else None
    ran = run_episodes(env, _actor(exported, policy), gamma)
    versus = stochastic = None
    if policy is not None:
        if exported:
            versus = summarize(ran.returns - run_episodes(fresh(), torch_actor(policy), gamma).returns)
        drawn = run_episodes(fresh(), sampling_actor(policy, drawing), gamma)
        of_drawn = _judge(drawn, env, gamma)
        stochastic = Sampled(_headline(drawn, env), summarize(drawn.returns), of_drawn)
    limits = _judge(ran, env, gamma)
    filtered = _through(guarded, ran, fresh(), gamma) if guarded else None
    steps = int(ran.lengths.sum())
    clipped = {name: numbers for name, numbers in commands.items() if held[name] != [*numbers]}
    broke = [f"{ran.bad} of {episodes} broke: {env.broken.why()}"] if ran.bad else []
    return Report(
        task=contract["task"],
        file=str(exported.path) if exported else None,
        sha256=exported.sha256 if exported else None,
        episodes=episodes,
        seed=seed,
        nominal=nominal,
        headline=_headline(ran, env),
        failure=_failure(ran, env),
        returns=summarize(ran.returns),
        length=summarize(ran.lengths),
        terms={k: summarize(v) for k, v in ran.terms.items()},
        costs={k: _summarize_cost(v, env, k) for k, v in ran.costs.items()},
        metrics={k: _summarize_kinds(kinds) for k, kinds in ran.metrics.items()},
        terminated=ran.terminated,
        bad=ran.bad,
        gamma=gamma,
        limits=limits,
        verdict=overall(judged(limits, filtered)) if limits else None,
        stochastic=stochastic,
        versus_torch=versus,
        commands=held,
        notes=[*(clip_note(contract, name, numbers, steps) for name, numbers in clipped.items()), *broke],
        per_episode=ran.lists(),
        filtered=filtered,
        variant=other,
        goal=asdict(goal) | {"unit": task.commands[goal.command].unit} if (goal := task.goal) else None,
    )


def _check(episodes: int, gamma: float) -> None:
    if episodes < 2:
        raise OptionError(f"episodes must be at least 2, got {episodes}")
    if not 0 < gamma <= 1:
        raise OptionError(f"gamma must be above 0 and at most 1, got {gamma}")


def _actor(file: Exported | None, policy: Actor | None) -> Act:
    """A new actor of the file, else of the policy. Raises OptionError for neither."""
    if file is not None:
        return onnx_actor(file)
    if policy is None:
        raise OptionError("evaluate takes an exported file or a torch policy, got neither")
    return torch_actor(policy)


def _torch_contract(task: Task) -> dict[str, Any]:
    """What `evaluate` reads of a contract, of a torch policy: the ranges of the commands are the task's."""
    commands = {name: {"low": c.low, "high": c.high} for name, c in task.commands.items()}
    return {"task": class_name(task), "commands": commands}


def _through(actor: FilteredActor, plain: Episodes, env: Env, gamma: float) -> Through:
    ran = run_episodes(env, actor, gamma)
    return Through(
        table=asdict(actor.guard.filter),
        headline=_headline(ran, env),
        failure=_failure(ran, env),
        returns=summarize(ran.returns),
        difference=summarize(ran.returns - plain.returns),
        terminated=ran.terminated,
        bad=ran.bad,
        latched=actor.latched,
        shares=actor.shares(),
        limits=_judge(ran, env, gamma),
    )


def _judge(ran: Episodes, env: Env, gamma: float) -> dict[str, Verdict]:
    return {k: judge(limit, ran.charged[k], env.max_age, gamma) for k, limit in env.task.limits.items()}


def _summarize_cost(x: Array, env: Env, name: str) -> Summary:
    """Like `summarize`, with the interval of statistics.estimate: not of width 0 for a cost never seen."""
    bounds = estimate(x, None, max(env.max_age * env.task.limits[name].largest, float(x.max())))
    return replace(summarize(x), low=bounds.low, high=bounds.high)


def _headline(ran: Episodes, env: Env) -> Headline:
    kind = headline_kind(env.task, env.task.headline in env.names.booleans)
    return Headline(env.task.headline, kind, _summarize_kinds({kind: ran.headline}).get(kind))


def _failure(ran: Episodes, env: Env) -> Failure:
    return Failure([*env.task.failure], share(ran.failed))


def _summarize_kinds(kinds: Mapping[str, Array]) -> dict[str, Summary]:
    """Kind ("mean", "last", ...) -> Summary of the episodes in which it is not NaN; {} for fewer than two.

    What is true or false of an episode has the interval of a share: not of width 0.
    """
    shares = ("last", "held", "ever") if "held" in kinds else ()
    counted = {kind: x[~np.isnan(x)] for kind, x in kinds.items()}
    found = {kind: summarize(x) for kind, x in counted.items() if len(x) > 1}
    for kind in found.keys() & shares:
        bounds = share(counted[kind] == 1)
        found[kind] = replace(found[kind], low=bounds.low, high=bounds.high)
    return found
