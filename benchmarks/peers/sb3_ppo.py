"""Record Stable-Baselines3's PPO once, with the settings `benchmarks/returns.py` gives ours.

    python benchmarks/peers/sb3_ppo.py Hopper-v5 HalfCheetah-v5      # about 15 minutes on one core

writes `benchmarks/peers/sb3_ppo_<env>.json`: per seed the training curve (mean return of the last
100 episodes) and 100 deterministic episodes of the final policy.
"""

import argparse
import json
import time
from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import stable_baselines3
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

STEPS = 500_000
EPISODES = 100
NUM_ENVS = 8
SETTINGS = {
    "n_steps": 256,
    "batch_size": 64,
    "n_epochs": 10,
    "learning_rate": 3e-4,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "clip_range": 0.2,
    "ent_coef": 0.0,
    "vf_coef": 0.5,
    "max_grad_norm": 0.5,
    "policy_kwargs": {"net_arch": [64, 64]},
}


class Curve(BaseCallback):
    """[environment steps, mean return of the last 100 training episodes], once a rollout."""

    def __init__(self) -> None:
        super().__init__()
        self.points: list[tuple[int, float]] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        episodes = self.model.ep_info_buffer
        if episodes:
            self.points.append((self.num_timesteps, round(float(np.mean([e["r"] for e in episodes])), 2)))


def record(env_id: str, seed: int) -> dict[str, object]:
    envs = VecNormalize(make_vec_env(env_id, NUM_ENVS, seed=seed), gamma=SETTINGS["gamma"])
    model = PPO("MlpPolicy", envs, seed=seed, device="cpu", **SETTINGS)
    curve = Curve()
    start = time.perf_counter()
    model.learn(STEPS, callback=curve)
    seconds = time.perf_counter() - start
    test = VecNormalize(make_vec_env(env_id, 1, seed=10_000 + seed), training=False, norm_reward=False)
    test.obs_rms = envs.obs_rms
    returns, _ = evaluate_policy(model, test, EPISODES, deterministic=True, return_episode_rewards=True)
    return {
        "seed": seed,
        "seconds": round(seconds, 1),
        "curve": curve.points[:: max(1, len(curve.points) // 60)],
        "returns": [round(float(r), 2) for r in returns],
        "mean": round(float(np.mean(returns)), 2),
    }


def document(env_id: str) -> dict[str, object]:
    versions = {m.__name__: m.__version__ for m in (stable_baselines3, gymnasium, mujoco, torch)}
    normalize = "VecNormalize: observation and reward"
    about = {
        "env": env_id,
        "steps": STEPS,
        "num_envs": NUM_ENVS,
        "normalize": normalize,
        "settings": SETTINGS,
    }
    return about | {"versions": versions, "date": time.strftime("%Y-%m-%d"), "runs": []}


if __name__ == "__main__":
    options = argparse.ArgumentParser()
    options.add_argument("envs", nargs="+")
    options.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options = options.parse_args()
    torch.set_num_threads(1)
    for env_id in options.envs:
        path = Path(__file__).with_name(f"sb3_ppo_{env_id.split('-')[0].lower()}.json")
        recorded = json.loads(path.read_text()) if path.exists() else document(env_id)
        for seed in sorted(set(options.seeds) - {run["seed"] for run in recorded["runs"]}):
            run = record(env_id, seed)
            print(env_id, "seed", seed, "mean", run["mean"], "in", run["seconds"], "s", flush=True)
            recorded["runs"].append(run)
            path.write_text(json.dumps(recorded, indent=1) + "\n")
