"""Returns of our PPO beside Stable-Baselines3's recorded ones: same settings, same steps, same seeds.

    python benchmarks/returns.py hopper half_cheetah      # about 15 minutes on one core

writes `benchmarks/curves/ppo_<task>.json` and prints one line a task: mean over seeds of 100
deterministic episodes of the final policy, and its spread.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

import robokit
from robokit.algos.ppo import Config, Learner
from robokit.env.env import make
from robokit.networks.policy import Policy
from robokit.task.task import Task

EPISODES = 100
SETTINGS = Config(steps=500_000, num_envs=8, horizon=256, minibatch=64)  # the rest of Config is theirs too
PEERS = {"hopper": "sb3_ppo_hopper.json", "half_cheetah": "sb3_ppo_halfcheetah.json"}


@torch.no_grad()
def deterministic_returns(policy: Policy, task: str | Task, seed: int) -> list[float]:
    """Undiscounted return of the first episode of each of EPISODES simulations."""
    env = make(task, EPISODES, seed=seed, threads=1)
    obs, belief = env.reset(), torch.zeros(EPISODES, policy.belief_size)
    running, total = torch.ones(EPISODES, dtype=torch.bool), torch.zeros(EPISODES)
    first = running.clone()
    while running.any():
        action, belief = policy(obs, belief, first)
        step = env.step(action)
        total += step.reward * running
        running &= ~step.done
        obs, first = step.obs, step.done
    return [round(r, 2) for r in total.tolist()]


def record(task: str, seed: int) -> dict[str, object]:
    learner = Learner(make(task, SETTINGS.num_envs, seed=seed, threads=1), SETTINGS, seed)
    curve: list[tuple[int, float]] = []
    start = time.perf_counter()
    for i in range(-(-SETTINGS.steps // learner.steps_per_iteration)):
        metrics = learner.iterate()
        if "episode/return" in metrics:
            curve.append(((i + 1) * learner.steps_per_iteration, round(metrics["episode/return"], 2)))
    seconds = time.perf_counter() - start
    returns = deterministic_returns(learner.policy, task, 10_000 + seed)
    mean = round(sum(returns) / EPISODES, 2)
    thinned = curve[:: max(1, len(curve) // 60)]
    return {"seed": seed, "seconds": round(seconds, 1), "curve": thinned, "returns": returns, "mean": mean}


def line(name: str, means: list[float]) -> str:
    middle = f"mean {statistics.mean(means):.0f}, median {statistics.median(means):.0f}"
    return f"{name}: {middle}, {len(means)} seeds from {min(means):.0f} to {max(means):.0f}"


def document(task: str) -> dict[str, object]:
    versions = {"robokit": robokit.__version__, "torch": torch.__version__}
    about = {"task": task, "settings": vars(SETTINGS), "versions": versions}
    return about | {"date": time.strftime("%Y-%m-%d"), "runs": []}


if __name__ == "__main__":
    options = argparse.ArgumentParser()
    options.add_argument("tasks", nargs="+", choices=PEERS)
    options.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options = options.parse_args()
    torch.set_num_threads(1)
    here = Path(__file__).parent
    (here / "curves").mkdir(exist_ok=True)
    for task in options.tasks:
        path = here / f"curves/ppo_{task}.json"
        recorded = json.loads(path.read_text()) if path.exists() else document(task)
        for seed in sorted(set(options.seeds) - {run["seed"] for run in recorded["runs"]}):
            run = record(task, seed)
            print(task, "seed", seed, "mean", run["mean"], "in", run["seconds"], "s", flush=True)
            recorded["runs"].append(run)
            path.write_text(json.dumps(recorded, indent=1) + "\n")
        peer = json.loads((here / "peers" / PEERS[task]).read_text())
        for name, runs in (("robokit", recorded["runs"]), ("stable-baselines3", peer["runs"])):
            print(line(f"{task}, {name}", [r["mean"] for r in runs]), flush=True)
