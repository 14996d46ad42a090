"""A two-joint arm reaches points of a ring: share of 300 episodes in which the tip holds its goal at the end.

    python benchmarks/reach.py --row delta          # joint steps with a leash, the learning rate falls to 0
    python benchmarks/reach.py --row absolute       # joint positions in place of steps
    python benchmarks/reach.py --row constant       # as delta, at a constant learning rate

trains PPO for --steps and prints one line: held for the last .5 s within 2 cm, ever within 2 cm, the mean
time until then, and the worst of the four quadrants of the plane. Episodes are those of `robokit evaluate`:
deterministic actions, one goal each.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from robokit.env.env import Env
from robokit.evaluation.episodes import TIME, Episodes, run_episodes, torch_actor
from robokit.seeds import seed
from robokit.task import action
from robokit.task.lookup.find import load_task
from robokit.task.task import Task
from robokit.training.setup.build import Setup, build_learner, options

EPISODES = 300
FALLING, CONSTANT = (1e-3, 0.0), 1e-3  # learning rates
STEP, LEASH = 0.15, 0.4  # rad in a control step of 0.04 s; rad from the sensed joint


def task_of(row: str) -> Task:
    """The task of a row: of `delta` and `constant` with joint steps."""
    task = load_task(Path(__file__).with_name("two_joints.py"))
    if row != "absolute":
        vars(task)["action"] = vars(action)["Delta"](STEP, leash=LEASH)
    return task


def worst_cell(ran: Episodes) -> float:
    """The smallest share of success in a quadrant of the plane."""
    x, y = (ran.goals[f"target[{i}]"] > 0 for i in (0, 1))
    held = ran.metrics["success"]["held"]
    return min(float(held[(x == a) & (y == b)].mean()) for a in (False, True) for b in (False, True))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--row", choices=("delta", "absolute", "constant"), default="delta")
    parser.add_argument("--steps", type=int, default=2_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()
    task = task_of(arguments.row)
    rate = CONSTANT if arguments.row == "constant" else FALLING
    config = replace(options(task, "ppo"), steps=arguments.steps, lr=rate)
    learner = build_learner(task, Setup(seed=arguments.seed, threads=arguments.threads), config)
    began, steps, goals = time.perf_counter(), 0, 0.0
    while steps < arguments.steps:
        goals = learner.iterate().get("episode/goals", goals)
        steps += learner.steps_per_iteration
    seconds = time.perf_counter() - began
    ran = run_episodes(Env(task, EPISODES, seed=seed("evaluation")), torch_actor(learner.policy))
    success = ran.metrics["success"]
    print(
        f"reach {arguments.row}: held {success['held'].mean():.1%}, ever {success['ever'].mean():.1%}, "
        f"after {np.nanmean(ran.metrics[TIME]['s']):.2f} s, worst quadrant {worst_cell(ran):.1%}; "
        f"{goals:.2f} goals an episode in training; {steps:,} steps, {seconds:.0f} s, "
        f"torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
