"""The report on a run's learned model, and the export of that model, from Python and from the command line.

quality = judge("runs/hopper/latest")
print(quality.text())
written = export_dynamics("hopper", "policies")
"""

from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch

from robokit.calls.resolve import What, named_run
from robokit.console import say
from robokit.disk.folder import file_name
from robokit.dynamics import calibration
from robokit.dynamics.calibration import HORIZONS, Quality, pieces
from robokit.dynamics.distance import fit_distance, goals_by_distance
from robokit.dynamics.imagine import Model
from robokit.dynamics.inverse import LONGEST, delay_of, delay_scores
from robokit.env.env import Env
from robokit.errors import OptionError
from robokit.export.dynamics import write_dynamics
from robokit.learning.rollout import Batch
from robokit.seeds import seed as seed_of
from robokit.task.lookup.find import title
from robokit.task.sense import ends as range_of
from robokit.training.setup.restore import restore_learner, restore_model

PIECES, LATE, MANY = 512, 8192, 2048  # of the open loop, for the inverse model, for distances
HELD, SPAN = 5, 64  # one of so many is not learned from; control steps of a piece for distances
STARTS, GOALS, SHOWN = 32, 64, 3  # between which distances are; goals listed at each end


def judge(
    what: What, *, seed: int = 0, task: str | PathLike[str] | None = None, trust: bool = False
) -> Quality:
    """How good the learned model of a run is, by the control steps in its replay, each out of bag.

    seed: of the steps that are drawn. task: where the run's own task is now. trust: see `evaluate`. Raises
    RunError for a run without a model or with too few control steps, TaskError for numbers not finite.
    """
    learner, done = restore_learner(named_run(what), None if task is None else fspath(task), trust)
    agent, replay, env, model = learner.agent, learner.replay, learner.env, learner.agent.model
    rng = torch.Generator(env.device).manual_seed(seed_of("evaluation", seed))
    horizon = max([h for h in HORIZONS if h < min(len(replay), env.max_age)], default=1)
    costs = [f"cost {name}" for name in [*env.task.limits][: len(model.largest)]]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        scores = _delays(pieces(agent, replay, LATE, LONGEST + 1, rng), model, rng)
        goals = _goals(env, model, pieces(agent, replay, MANY, min(SPAN, len(replay)), rng), rng)
    data = calibration.recorded(agent, replay, rng)
    y, widths = data.pop("y"), {**model.frames.sensed, "reward": 1, **dict.fromkeys(costs, 1)}
    return Quality(
        task=title(env.task),
        steps=done.steps,
        transitions=len(replay) * env.num_envs,
        **calibration.one_step(model.net, data["x"], y, data["own"], widths),
        ends=calibration.ends(model, **data),
        **calibration.open_loop(agent, pieces(agent, replay, PIECES, horizon + 1, rng)),
        stopped=_stopped(learner, rng),
        control_dt=float(env.task.control_dt),
        delays=scores,
        delay=delay_of(scores),
        told=range_of(env.task.action_delay),
        goals=goals,
    )


def _stopped(learner: Any, rng: torch.Generator) -> float:
    """Share of the rows of an imagined rollout that stop it, by the run's own options."""
    steps, rows = learner.config.imagined or learner.config.lookahead, learner.rollouts.ring.rows.shape[1]
    widths = learner.env.act_dim, learner.agent.model.frames.predicted
    noise = (torch.randn(steps, rows, n, generator=rng, device=learner.env.device) for n in widths)
    with torch.no_grad():
        return float(learner.rollouts.go(learner.replay, *noise, rng))


def _delays(w: Batch, model: Model, rng: torch.Generator) -> list[float]:
    """R^2 of the inverse model by assumed delay, on pieces without an end before their last step."""
    whole = w["valid"][-1]
    before, after = (model.frames.of(w[name][-1][whole]) for name in ("frame", "final"))
    held = torch.arange(len(before), device=before.device) % HELD == 0
    return delay_scores(before, after, w["action"].flip(0).transpose(0, 1)[whole], held, rng)


def _goals(env: Env, model: Model, w: Batch, rng: torch.Generator) -> dict[str, Any] | None:
    """`goals` of Quality; None without a Goal, or where what it achieves is not observed."""
    goal, frames = env.task.goal, model.frames
    if goal is None or goal.achieved not in frames.sensed:
        return None
    states, begun = frames.of(w["frame"]), w["frame"][w["is_first"]]
    wanted = frames.split(begun)[goal.command].unique(dim=0)[:GOALS]
    reached = states.flatten(0, 1), frames.split(w["frame"].flatten(0, 1))[goal.achieved]
    distance = fit_distance(states, w["valid"], rng)
    steps = goals_by_distance(distance, frames.of(begun[:STARTS]), *reached, wanted, goal.within)
    pairs = zip(wanted.tolist(), steps, strict=True)
    rows = sorted(({"goal": g, "steps": s} for g, s in pairs if s is not None), key=lambda row: row["steps"])
    parts = {"near": rows[:SHOWN], "far": rows[SHOWN:][-SHOWN:]}
    return parts | {"unseen": len(steps) - len(rows), "number": len(steps)}


def export_dynamics(
    what: What,
    folder: str | PathLike[str] = "policies",
    *,
    task: str | PathLike[str] | None = None,
    trust: bool = False,
) -> tuple[Path, str, float]:
    """Write a run's learned model to `folder`: <task>.dynamics.onnx and <task>.dynamics.onnx.sha256.

    Returns the path, its sha256 (hex), and the largest difference to torch as a share of a column's largest.

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
    return path, *write_dynamics(model, restored.policy, restored.env, path, commit, restored.steps)
