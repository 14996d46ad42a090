"""A two-joint arm reaches points of a ring: share of 300 episodes in which the tip holds its goal at the end.

    python benchmarks/reach.py --row delta          # joint steps with a leash, the learning rate falls to 0
    python benchmarks/reach.py --row absolute       # joint positions in place of steps
    python benchmarks/reach.py --row constant       # as delta, at a constant learning rate

trains PPO for --steps and prints one line: held for the last .5 s within 2 cm, ever within 2 cm, the mean
time until then, the worst of the four quadrants of the plane, and the distance at the end. Episodes are those
of `robokit evaluate`: deterministic actions, one goal each.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from robokit.env.env import Env
from robokit.evaluation.episodes import TIME, Episodes, run_episodes, torch_actor
from robokit.learning.schedule import first
from robokit.seeds import seed
from robokit.task.lookup.find import load_task
from robokit.training.setup.build import Setup, build_learner, options

EPISODES = 300
TASK = Path(__file__).with_name("two_joints.py")
ROWS = {"delta": "TwoJoints", "absolute": "Absolute", "constant": "TwoJoints"}  # the task of each


def worst_cell(ran: Episodes) -> float:
    """The smallest share of success in a quadrant of the plane."""
    x, y = (ran.goals[f"goal[{i}]"] > 0 for i in (0, 1))
    held = ran.metrics["success"]["held"]
    return min(float(held[(x == a) & (y == b)].mean()) for a in (False, True) for b in (False, True))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--row", choices=ROWS, default="delta")
    parser.add_argument("--steps", type=int, default=1_200_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()
    task = load_task(f"{TASK}:{ROWS[arguments.row]}")
    config = replace(options(task, "ppo"), steps=arguments.steps)
    if arguments.row == "constant":
        config = replace(config, lr=first(config.lr))
    learner = build_learner(task, Setup(seed=arguments.seed, threads=arguments.threads), config)
    began, steps = time.perf_counter(), 0
    while steps < arguments.steps:
        learner.iterate()
        steps += learner.steps_per_iteration
    seconds = time.perf_counter() - began
    ran = run_episodes(Env(task, EPISODES, seed=seed("evaluation")), torch_actor(learner.policy))
    success, left = ran.metrics["success"], 1000 * np.median(ran.metrics["distance"]["last"])
    print(
        f"reach {arguments.row}: held {success['held'].mean():.1%}, ever {success['ever'].mean():.1%}, "
        f"after {np.nanmean(ran.metrics[TIME]['s']):.2f} s, worst quadrant {worst_cell(ran):.1%}, "
        f"{left:.1f} mm left (median); {steps:,} steps, {seconds:.0f} s, torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
