"""Returns of our PPO beside Stable-Baselines3's recorded ones: same settings, same steps, 3 seeds each.

    python benchmarks/returns.py hopper half_cheetah      # about 25 minutes on one core

writes `benchmarks/curves/ppo_<task>.json` and prints one line a task: mean over seeds of 100
deterministic episodes of the final policy, and its spread.
"""

import json
import sys
import time
from pathlib import Path

import torch

from robokit.algos.ppo import Config, Learner
from robokit.env import make
from robokit.policy import Policy

SEEDS = (0, 1, 2)
EPISODES = 100
SETTINGS = Config(steps=500_000, num_envs=8, horizon=256, minibatch=64)  # the rest of Config is theirs too
PEERS = {"hopper": "sb3_ppo_hopper.json", "half_cheetah": "sb3_ppo_halfcheetah.json"}


@torch.no_grad()
def deterministic_returns(policy: Policy, task: str, seed: int) -> list[float]:
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
    spread = f"{min(means):.0f} to {max(means):.0f}"
    return f"{name}: mean {sum(means) / len(means):.0f}, seeds {spread}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    for task in sys.argv[1:]:
        runs = []
        for seed in SEEDS:
            runs.append(record(task, seed))
            print(task, "seed", seed, "mean", runs[-1]["mean"], "in", runs[-1]["seconds"], "s", flush=True)
        folder = Path(__file__).parent
        (folder / "curves").mkdir(exist_ok=True)
        document = {"task": task, "settings": vars(SETTINGS), "date": time.strftime("%Y-%m-%d"), "runs": runs}
        (folder / f"curves/ppo_{task}.json").write_text(json.dumps(document, indent=1) + "\n")
        peer = json.loads((folder / "peers" / PEERS[task]).read_text())
        print(line(f"{task}, robokit", [r["mean"] for r in runs]), flush=True)
        print(line(f"{task}, stable-baselines3", [r["mean"] for r in peer["runs"]]), flush=True)
