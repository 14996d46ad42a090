"""Record Stable-Baselines3's two answers to partial observation once, for `benchmarks/pomdp.py`.

    pip install stable-baselines3 sb3-contrib "gymnasium[mujoco]"
    python benchmarks/peers/sb3_pomdp.py frames
    python benchmarks/peers/sb3_pomdp.py recurrent --steps 300_000      # hours on one core

writes `benchmarks/peers/sb3_pomdp_<kind>.json`: per task (Hopper-v5 and Walker2d-v5 with positions or
velocities only) the training curve (mean return of the last 100 episodes) and 100 deterministic
episodes of the final policy with its normaliser frozen. The file is written again after every few
rollouts; a run without `returns` is unfinished. Called again, finished runs are skipped and an
unfinished one goes on from its checkpoint, in new episodes, with the step noted under `resumed`.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
import sb3_contrib
import stable_baselines3
import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize

EPISODES = 100
NUM_ENVS = 8
FRAMES = 5
SAVE_EVERY = 10  # rollouts
TASKS = {  # in the order they are run
    f"{name}_{seen}": (env_id, seen)
    for name, env_id in (("hopper", "Hopper-v5"), ("walker2d", "Walker2d-v5"))
    for seen in ("positions", "velocities")
}
SETTINGS = {
    "n_steps": 512,
    "batch_size": 512,
    "n_epochs": 10,
    "learning_rate": 3e-4,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "clip_range": 0.2,
    "ent_coef": 0.0,
    "vf_coef": 0.5,
    "max_grad_norm": 0.5,
}
NET = {"net_arch": [64, 64], "log_std_init": 0.0}  # tanh, SB3's own default
KINDS = {  # the LSTM policy's other defaults stand: the critic has an LSTM of its own
    "frames": (PPO, "MlpPolicy", NET),
    "recurrent": (RecurrentPPO, "MlpLstmPolicy", NET | {"lstm_hidden_size": 64}),
}
Model = Any  # PPO or RecurrentPPO, which also carries the run: curve, seconds, resumed, statistics
Run = dict[str, Any]
NORMALIZE = {
    "frames": f"VecNormalize: observation and reward, then VecFrameStack({FRAMES})",
    "recurrent": "VecNormalize: observation and reward",
}


class Masked(gymnasium.ObservationWrapper):
    """Only qpos without the root's x (nq - 1 numbers), or only qvel, of gymnasium's observation."""

    def __init__(self, env: Any, seen: str) -> None:
        super().__init__(env)
        positions = env.unwrapped.model.nq - 1
        self.kept = slice(positions) if seen == "positions" else slice(positions, None)
        low, high = env.observation_space.low[self.kept], env.observation_space.high[self.kept]
        self.observation_space = gymnasium.spaces.Box(low, high, dtype=low.dtype)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return observation[self.kept]


class Recorder(BaseCallback):
    """Curve and seconds of a run, kept as attributes of the model: they lie in its checkpoint too."""

    model: Model

    def __init__(self, save: Callable[[Model], None]) -> None:
        super().__init__()
        self.save, self.rollouts = save, 0

    def _on_training_start(self) -> None:
        self.clock = time.perf_counter()

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        if episodes := self.model.ep_info_buffer:
            mean = float(np.mean([e["r"] for e in episodes]))
            self.model.curve.append((self.num_timesteps, round(mean, 2)))

    def _on_rollout_start(self) -> None:  # the update before it is done: what is saved is whole
        self._count_seconds()
        if self.rollouts and self.rollouts % SAVE_EVERY == 0:
            self.save(self.model)
        self.rollouts += 1

    def _on_training_end(self) -> None:
        self._count_seconds()

    def _count_seconds(self) -> None:
        now = time.perf_counter()
        self.model.seconds += now - self.clock
        self.clock = now


def environments(
    kind: str, task: str, num_envs: int, seed: int
) -> tuple[VecNormalize, VecNormalize | VecFrameStack]:
    """The normaliser, and what the model sees of it: frames are stacked after it, as rl-zoo does."""
    env_id, seen = TASKS[task]
    envs = make_vec_env(env_id, num_envs, seed=seed, wrapper_class=lambda env: Masked(env, seen))
    normalizer = VecNormalize(envs, gamma=SETTINGS["gamma"])
    return normalizer, VecFrameStack(normalizer, FRAMES) if kind == "frames" else normalizer


def so_far(model: Model, task: str, seed: int) -> Run:
    return {
        "task": task,
        "env": TASKS[task][0],
        "seed": seed,
        "steps": model.num_timesteps,
        "resumed": model.resumed,
        "seconds": round(model.seconds, 1),
        "steps_per_second": round(model.num_timesteps / model.seconds),
        "curve": model.curve[:: max(1, len(model.curve) // 60)],
    }


def train(kind: str, task: str, seed: int, steps: int, checkpoint: Path, write: Callable[[Run], None]) -> Run:
    """The finished run; `write` is given the unfinished one each time the checkpoint is saved."""
    algorithm, policy, keywords = KINDS[kind]
    normalizer, envs = environments(kind, task, NUM_ENVS, seed)
    model: Model
    if checkpoint.exists():
        model = algorithm.load(checkpoint, envs, device="cpu")
        normalizer.obs_rms, normalizer.ret_rms = model.statistics
        if model.num_timesteps < steps:
            model.resumed.append(model.num_timesteps)
            model.set_random_seed(seed + model.num_timesteps)  # else the first draws would come again
    else:
        model = algorithm(policy, envs, seed=seed, device="cpu", policy_kwargs=keywords, **SETTINGS)
        model.curve, model.resumed, model.seconds = [], [], 0.0

    def save(model: Model) -> None:
        model.statistics = (normalizer.obs_rms, normalizer.ret_rms)
        partial = checkpoint.with_suffix(".part.zip")
        model.save(partial)
        partial.replace(checkpoint)
        write(so_far(model, task, seed))

    if model.num_timesteps < steps:
        model.learn(steps - model.num_timesteps, callback=Recorder(save), reset_num_timesteps=False)
        save(model)
    return so_far(model, task, seed) | evaluation(model, kind, task, 10_000 + seed, normalizer)


def evaluation(model: Model, kind: str, task: str, seed: int, trained: VecNormalize) -> Run:
    normalizer, envs = environments(kind, task, NUM_ENVS, seed)
    normalizer.training, normalizer.norm_reward, normalizer.obs_rms = False, False, trained.obs_rms
    returns, _ = evaluate_policy(model, envs, EPISODES, deterministic=True, return_episode_rewards=True)
    return {
        "returns": [round(float(r), 2) for r in np.asarray(returns)],
        "mean": round(float(np.mean(returns)), 2),
        "std": round(float(np.std(returns)), 2),
    }


def document(kind: str) -> Run:
    modules = (stable_baselines3, sb3_contrib, gymnasium, mujoco, torch)
    algorithm, policy, keywords = KINDS[kind]
    about = {
        "algorithm": f"{algorithm.__name__}, {policy}",
        "num_envs": NUM_ENVS,
        "normalize": NORMALIZE[kind],
        "settings": SETTINGS | {"policy_kwargs": keywords},
        "speed": "one thread of a shared machine: steps_per_second compares with no other run",
    }
    versions = {m.__name__: m.__version__ for m in modules}
    return about | {"versions": versions, "date": time.strftime("%Y-%m-%d"), "runs": []}


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("kind", choices=KINDS)
    options.add_argument(
        "tasks", nargs="*", default=list(TASKS), metavar="task", help=f"of {', '.join(TASKS)}"
    )
    options.add_argument("--steps", type=int, default=1_000_000)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the JSON")
    options.add_argument(
        "--checkpoints", type=Path, default=Path("runs/peers"), help="folder of unfinished models"
    )
    options = options.parse_args()
    torch.set_num_threads(1)
    options.checkpoints.mkdir(parents=True, exist_ok=True)
    path = options.out / f"sb3_pomdp_{options.kind}.json"

    def write(run: Run) -> None:
        recorded = json.loads(path.read_text()) if path.exists() else document(options.kind)
        others = [r for r in recorded["runs"] if (r["task"], r["seed"]) != (run["task"], run["seed"])]
        text = json.dumps(recorded | {"runs": [*others, run]}, indent=1) + "\n"
        partial = path.with_suffix(".part")
        partial.write_text(text)
        partial.replace(path)

    for task in options.tasks:
        runs = json.loads(path.read_text())["runs"] if path.exists() else []
        if any((r["task"], r["seed"]) == (task, options.seed) and "returns" in r for r in runs):
            print(options.kind, task, "is recorded", flush=True)
            continue
        checkpoint = options.checkpoints / f"{options.kind}_{task}_{options.seed}.zip"
        run = train(options.kind, task, options.seed, options.steps, checkpoint, write)
        write(run)
        checkpoint.unlink()
        print(
            options.kind,
            task,
            *(f"{k} {run[k]}" for k in ("mean", "std", "seconds", "steps_per_second")),
            flush=True,
        )


if __name__ == "__main__":
    main()
