"""The report on a run's learned model, and the export of that model, from Python and from the command line.

quality = judge("runs/hopper/latest")
print(quality.text())
written = export_model("hopper", "policies")
"""

from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch

from robokit.calls.resolve import What, named_run
from robokit.console import say
from robokit.disk.folder import file_name
from robokit.dynamics.calibration import (
    HORIZONS,
    WINDOWS,
    Quality,
    Windows,
    ends,
    one_step,
    open_loop,
    recorded,
    windows_of,
)
from robokit.dynamics.distance import fit_distance, goals_by_distance
from robokit.dynamics.imagine import Model
from robokit.dynamics.inverse import LONGEST, delay_of, delay_scores
from robokit.env.env import Env
from robokit.errors import OptionError
from robokit.export.dynamics import WrittenModel, export_dynamics
from robokit.seeds import seed as seed_of
from robokit.task.lookup.find import title
from robokit.task.sense import ends as range_of
from robokit.training.setup.restore import restore_learner, restore_model

PIECES, HELD = 8192, 5  # pieces for the inverse model, of which one of so many is not learned from
SPAN, MANY = 64, 2048  # control steps of a piece for distances, and pieces
STARTS, GOALS, SHOWN = 32, 64, 3  # starts and goals between which distances are; goals listed at each end


def judge(
    what: What, *, seed: int = 0, task: str | PathLike[str] | None = None, trust: bool = False
) -> Quality:
    """How good the learned model of a run is, by the control steps in its replay, each out of bag.

    seed: of the steps that are drawn. task: where the run's own task is now. trust: see `evaluate`. Raises
    RunError for a run without a model or with too few control steps, TaskError for numbers not finite.
    """
    run = named_run(what)
    learner, done = restore_learner(run, None if task is None else fspath(task), trust)
    agent, replay, env = learner.agent, learner.replay, learner.env
    rng = torch.Generator(env.device).manual_seed(seed_of("evaluation", seed))
    model: Model = agent.model
    data = recorded(agent, replay, rng)
    costs = [*env.task.limits][: len(model.largest)]
    widths = {**model.frames.sensed, "reward": 1, **{f"cost {name}": 1 for name in costs}}
    horizon = max([h for h in HORIZONS if h < min(len(replay), env.max_age)], default=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        scores = _delays(windows_of(agent, replay, PIECES, LONGEST + 1, rng), model, rng)
        goals = _goals(env, model, windows_of(agent, replay, MANY, min(SPAN, len(replay)), rng), rng)
    return Quality(
        task=title(env.task),
        steps=done.steps,
        transitions=len(replay) * env.num_envs,
        **one_step(model.net, data.x, data.y, data.own, widths),
        ends=ends(model, data),
        **open_loop(agent, windows_of(agent, replay, WINDOWS, horizon + 1, rng)),
        stopped=_stopped(learner, rng),
        control_dt=float(env.task.control_dt),
        delays=scores,
        delay=delay_of(scores),
        told=range_of(env.task.action_delay),
        goals=goals,
    )


def _stopped(learner: Any, rng: torch.Generator) -> float:
    """Share of the rows of an imagined rollout that stop it, by the run's own options."""
    rollouts, steps = learner.rollouts, learner.config.imagined or learner.config.lookahead
    rows, device = rollouts.ring.rows.shape[1], learner.env.device
    sizes = (steps, rows, learner.env.act_dim), (steps, rows, learner.agent.model.frames.predicted)
    noise = (torch.randn(size, generator=rng, device=device) for size in sizes)
    with torch.no_grad():
        return float(rollouts.go(learner.replay, *noise, rng))


def _delays(w: Windows, model: Model, rng: torch.Generator) -> list[float]:
    """R^2 of the inverse model by assumed delay, on pieces without an end before their last step."""
    whole = w.valid[-1]
    before, after = (model.frames.of(x[-1])[whole] for x in (w.frame, w.final))
    actions = w.action.flip(0).transpose(0, 1)[whole]
    held = torch.arange(len(actions), device=actions.device) % HELD == 0
    return delay_scores(before, after, actions, held, rng)


def _goals(env: Env, model: Model, w: Windows, rng: torch.Generator) -> dict[str, Any] | None:
    """`goals` of Quality; None without a Goal, or where what it achieves is not observed."""
    goal, frames = env.task.goal, model.frames
    if goal is None or goal.achieved not in frames.sensed:
        return None
    states, begun = frames.of(w.frame), w.frame[w.is_first]
    distance = fit_distance(states, w.valid, rng)
    wanted = frames.split(begun)[goal.command].unique(dim=0)[:GOALS]
    achieved = frames.split(w.frame.flatten(0, 1))[goal.achieved]
    reached = states.flatten(0, 1), achieved, wanted, goal.within
    steps, unseen = goals_by_distance(distance, frames.of(begun[:STARTS]), *reached)
    rows = [{"goal": g, "steps": s} for g, s in zip(wanted.tolist(), steps, strict=True) if s == s]
    rows.sort(key=lambda row: row["steps"])
    return {"near": rows[:SHOWN], "far": rows[SHOWN:][-SHOWN:], "unseen": unseen, "number": len(steps)}


def export_model(
    what: What,
    folder: str | PathLike[str] = "policies",
    *,
    task: str | PathLike[str] | None = None,
    trust: bool = False,
) -> WrittenModel:
    """Write a run's learned model to `folder`: <task>.dynamics.onnx and <task>.dynamics.onnx.sha256.

    Raises ExportError if the gate refuses it, RunError for a run without a model, OptionError for a folder
    called .onnx.
    """
    folder = Path(folder)
    if folder.suffix == ".onnx":
        raise OptionError(f"the output must be a folder, for <task>.dynamics.onnx, got {folder}")
    run = named_run(what)
    model, restored = restore_model(run, None if task is None else fspath(task), trust)
    path = folder / f"{file_name(run.config['task'])}.dynamics.onnx"
    say(f"exporting the model of step {restored.steps} to {path}")
    commit = run.about["commit"].get("robokit")
    return export_dynamics(model, restored.policy, restored.env, path, commit=commit, steps=restored.steps)
