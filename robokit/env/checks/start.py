"""A task's own start: bodies inside what cannot move, and goals beyond the robot's reach."""

import numpy as np

from robokit.env.env import Env
from robokit.errors import TaskError
from robokit.sim.facts.carried import apart, is_held
from robokit.sim.facts.starts import penetrations
from robokit.task.counts import goal_pair
from robokit.task.task import Task

STARTS = 32  # simulations, which start once


def check_start(task: Task, seed: int = 0) -> None:
    """Raise TaskError for a start, or a goal, that nobody can mean; what is less certain is a note of check.

    In most starts a free body is deep inside what cannot move; or the robot's place of the goal comes near
    none of STARTS goals; or a free body would have to stay in the air there, where no robot reaches it.
    """
    env, kind = Env(task, STARTS, seed=seed, threads=1, nominal=True), type(task).__name__
    deep = [fault for fault in penetrations(env.sim, objects=True) if fault]
    if len(deep) > STARTS / 2:
        text = f"{kind}.reset puts a body inside what cannot move in {len(deep)} of {STARTS} starts"
        raise TaskError(f"{text}, up to {max(deep)[1]}: start it higher or elsewhere")
    if (goal := task.goal) is None or task.commands[goal.command].frame not in (None, "world"):
        return
    points, rng = env.sim.memory[goal.command].cpu().numpy(), np.random.default_rng(seed)
    name, far = apart(env.sim, goal_pair(task, env.sim)[0], points, rng) or ("", 0 * points)
    if far.min() > goal.within and is_held(env.sim, name, points, goal.within, goal.hold):
        place = ", ".join(f"{x:.3g}" for x in points[far.argmin()])
        text = f"{kind}.goal is out of reach: {name!r} stays {far.min():.2g} m and more from all {STARTS}"
        text = f"{text} places of {goal.command!r}, as ({place}), and must come within {goal.within:g} m"
        raise TaskError(f"{text}: nearer ones in {kind}.commands or reset")
