"""Control steps a second of SB3's two ways to step hopper, beside our own Env: random actions, interleaved.

    python benchmarks/sb3.py                       # about a minute
    python benchmarks/sb3.py --rounds 3 --seconds 0.5

TaskVecEnv and Env with 64 simulations, DummyVecEnv with 8 of gymnasium's Hopper-v5. A round gives each of
them one short block. A figure is the median of its blocks, a ratio the median of the rounds' ratios of wall
time. Leave the machine alone while it runs.

Trainings, each to be run by itself (returns of 20 episodes of the deterministic policy):

    python benchmarks/sb3.py --train ours --seed 0        # SB3's PPO, 300k steps on TaskVecEnv
    python benchmarks/sb3.py --train gymnasium --seed 0   # the same on DummyVecEnv of gymnasium's
"""

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = (
    "1"  # before numpy: physics has the cores
)

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

import robokit
from robokit.interop.sb3 import TaskVecEnv

OURS, THEIRS = 64, 8


def steppers(threads: int) -> dict[str, tuple[int, Callable[[], Any]]]:
    """Name -> (simulations, one step of all with random actions)."""
    env = robokit.make("hopper", num_envs=OURS, threads=threads)
    batch = TaskVecEnv("hopper", OURS, threads=threads)
    loop, rng = make_vec_env("Hopper-v5", THEIRS), np.random.default_rng(0)
    batch.reset()
    loop.reset()

    def drawn(n: int) -> np.ndarray:
        return rng.uniform(-1, 1, (n, 3)).astype(np.float32)

    return {
        "Env": (OURS, lambda: env.step(torch.from_numpy(drawn(OURS)))),
        "TaskVecEnv": (OURS, lambda: batch.step(drawn(OURS))),
        "DummyVecEnv": (THEIRS, lambda: loop.step(drawn(THEIRS))),
    }


def rate(n: int, step: Callable[[], Any], seconds: float) -> float:
    count, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < seconds:
        step()
        count += n
    return count / spent


def speed(rounds: int, seconds: float, threads: int) -> None:
    made = steppers(threads)
    rows: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(rounds + 1):
        for name, (n, step) in made.items():
            rows[name].append(rate(n, step, seconds))
    kept = {name: np.array(found[1:]) for name, found in rows.items()}  # the first round warms up
    for name, found in kept.items():
        ratio = np.median(kept["TaskVecEnv"] / found)
        print(f"{name:12s} {np.median(found):9,.0f} steps/s   TaskVecEnv is {ratio:.2f} of it")


def train(where: str, seed: int, steps: int) -> None:
    env = TaskVecEnv("hopper", THEIRS) if where == "ours" else make_vec_env("Hopper-v5", THEIRS)
    model = PPO("MlpPolicy", env, seed=seed)
    model.learn(steps)
    mean, deviation = evaluate_policy(model, make_vec_env("Hopper-v5", 1, seed=1000 + seed), 20)
    print(f"PPO on {where}, seed {seed}, {steps:,} steps: {mean:.0f}, deviation of episodes {deviation:.0f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--train", choices=("ours", "gymnasium"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=300_000)
    given = parser.parse_args()
    if given.train:
        train(given.train, given.seed, given.steps)
    else:
        speed(given.rounds, given.seconds, given.threads)
