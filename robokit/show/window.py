"""MuJoCo's own window on an exported file in simulation."""

import time
from pathlib import Path

from robokit.controller import Loaded
from robokit.env.env import Env
from robokit.show.film import control_steps, goal_mark, one_controller, say_clipped
from robokit.sim.render import window


def watch(
    policy: str | Path | Loaded, env: Env, seconds: float | None = None, own: bool | None = None
) -> float:
    """Show the file in real time until the window is closed or `seconds` are over; return the sum of rewards.

    seconds None: until it is closed. own: see `card.variant`. Raises ContractError, TaskError and RenderError
    as `write_film`.
    """
    controller, total, began = one_controller(policy, env, own), 0.0, time.monotonic()
    with window(env.sim) as show:
        for n, step in enumerate(control_steps(controller, env), 1):
            total += float(step.reward)
            now = n * env.task.control_dt
            if not show(goal_mark(env)) or (seconds is not None and now >= seconds):
                break
            time.sleep(max(0.0, began + now - time.monotonic()))
    say_clipped(controller, env)
    return total
