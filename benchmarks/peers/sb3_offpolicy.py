"""Record Stable-Baselines3's SAC and TD3 once, with the settings that ours have by default.

    python benchmarks/peers/sb3_offpolicy.py HalfCheetah-v5 InvertedDoublePendulum-v5 --steps 100_000
    python benchmarks/peers/sb3_offpolicy.py HalfCheetah-v5 --algos SAC --seeds 0

writes `benchmarks/peers/sb3_offpolicy_<env>.json`, what `benchmarks/offpolicy.py learn` writes of ours: the
mean return of the training episodes that ended in each fiftieth of a run, 10 deterministic episodes at every
tenth with the seconds of training until then, 100 at the end. A run that is recorded already is not repeated.

    python benchmarks/peers/sb3_offpolicy.py --turns sbx --algos SAC --threads 1

is what `benchmarks/offpolicy.py speed` measures: a model that waits for its turns. SBX has the interface of
Stable-Baselines3. A line "gradient 20 2.0" on its input is 2 s of gradient steps, 20 in a call, "training 200
2.0" of whole training steps, and it answers with how many it did in a second.
"""

import argparse
import copy
import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
import stable_baselines3
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.noise import NormalActionNoise

EPISODES, FEW = 100, 10  # of the last policy; of one on the way
POINTS, TENTHS = 50, 10  # of a curve; evaluations on the way
SEED, ON_THE_WAY = 10_000, 20_000  # plus a run's seed: seeds of the two kinds of episodes
LEARNING_STARTS, BATCH, EXPLORATION = 5_000, 256, 0.1
SETTINGS = {"learning_rate": 3e-4, "batch_size": BATCH, "policy_kwargs": {"net_arch": [256, 256]}}
SAID = {  # of a record
    **SETTINGS,
    "TD3": {"action_noise": EXPLORATION},
    "note": "The rest is Stable-Baselines3's default. TD3's own defaults are a learning rate of 1e-3, no "
    "action noise and 400x300: these settings are those of ours.",
}
KEYS = ("algo", "seed", "steps", "learning_starts")  # which tell runs apart
SPEED_ENV, FILLED, WARM = "HalfCheetah-v5", 10_000, 200  # transitions of random actions; steps before timing


def make_model(
    module: str,
    algo: str,
    env_id: str,
    seed: int = 0,
    learning_starts: int = LEARNING_STARTS,
    device: str = "cpu",
) -> Any:
    """A model of stable_baselines3 or sbx."""
    envs = make_vec_env(env_id, 1, seed=seed)
    options: dict[str, Any] = copy.deepcopy(SETTINGS)  # a model writes into policy_kwargs
    if algo == "TD3":
        shape = envs.action_space.shape
        assert shape is not None
        options["action_noise"] = NormalActionNoise(np.zeros(shape), np.full(shape, EXPLORATION))
    kind = getattr(importlib.import_module(module), algo)
    return kind("MlpPolicy", envs, seed=seed, device=device, learning_starts=learning_starts, **options)


# -- what it learns ----------------------------------------------------------------------------------


class Curve(BaseCallback):
    """Episodes of the training, and evaluations on the way; `seconds` of it but for these."""

    def __init__(self, env_id: str, seed: int, steps: int) -> None:
        super().__init__()
        self.env_id, self.seed, self.steps = env_id, seed, steps
        self.episodes, self.evaluations = list[tuple[int, float]](), list[tuple[int, float, float]]()
        self.seconds, self.began = 0.0, time.perf_counter()

    def _on_step(self) -> bool:
        done = self.num_timesteps
        self.episodes += [(done, info["episode"]["r"]) for info in self.locals["infos"] if "episode" in info]
        if done * TENTHS // self.steps > (done - 1) * TENTHS // self.steps:
            self.stop()
            mean = float(np.mean(returns(self.model, self.env_id, FEW, ON_THE_WAY + self.seed)))
            self.evaluations.append((done, round(mean, 2), round(self.seconds, 1)))
            print(
                f"  {self.env_id} seed {self.seed}: {done:,} steps, {mean:.1f}, {self.seconds:.0f} s",
                flush=True,
            )
            self.began = time.perf_counter()
        return True

    def stop(self) -> None:
        self.seconds += time.perf_counter() - self.began

    @property
    def points(self) -> list[tuple[int, float]]:
        parts: dict[int, list[float]] = {}
        for done, value in self.episodes:
            parts.setdefault(-(-done * POINTS // self.steps), []).append(value)
        return [(part * self.steps // POINTS, round(float(np.mean(v)), 2)) for part, v in parts.items()]


def returns(model: Any, env_id: str, episodes: int, seed: int) -> list[float]:
    """Of one deterministic episode of each of so many fresh simulations."""
    test = make_vec_env(env_id, episodes, seed=seed)
    found, _ = evaluate_policy(model, test, episodes, deterministic=True, return_episode_rewards=True)
    assert isinstance(found, list)
    return [float(r) for r in found]


def record(env_id: str, algo: str, seed: int, options: argparse.Namespace) -> dict[str, object]:
    curve, steps = Curve(env_id, seed, options.steps), options.steps
    model = make_model("stable_baselines3", algo, env_id, seed, options.learning_starts)
    model.learn(steps, callback=curve)
    curve.stop()
    final = returns(model, env_id, EPISODES, SEED + seed)
    low, high = bootstrap(np.array(final))
    numbers = {"mean": np.mean(final), "low": low, "high": high, "std": np.std(final, ddof=1)}
    numbers |= {"min": min(final), "max": max(final)}
    return {
        "algo": algo.lower(),
        "seed": seed,
        "steps": steps,
        "learning_starts": options.learning_starts,
        "seconds": round(curve.seconds, 1),
        "curve": curve.points,
        "evaluations": curve.evaluations,
        "final": {name: round(float(number), 2) for name, number in numbers.items()},
    }


def bootstrap(x: Any) -> tuple[float, float]:
    """Percentile interval of the mean, two-sided at 95 %."""
    drawn = x[np.random.default_rng(0).integers(len(x), size=(10_000, len(x)))].mean(1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)


def document(env_id: str) -> dict[str, Any]:
    versions = {m.__name__: m.__version__ for m in (stable_baselines3, gymnasium, mujoco, torch)}
    about = {"env": env_id, "settings": SAID, "episodes": EPISODES, "threads": torch.get_num_threads()}
    return {**about, "versions": versions, "date": time.strftime("%Y-%m-%d"), "runs": []}


# -- how fast it learns ------------------------------------------------------------------------------


def take_turns(module: str, algo: str) -> None:
    """Answer each line of the input; between two of them nothing runs."""
    model = make_model(module, algo, SPEED_ENV, learning_starts=FILLED)
    model.learn(FILLED + WARM)
    print("ready", flush=True)
    warm = set[tuple[str, int]]()
    for asked in sys.stdin:
        figure, size, seconds = asked.split()
        if (figure, int(size)) not in warm:
            warm_up(model, figure, int(size))
        warm.add((figure, int(size)))
        print(rate(model, figure, int(size), float(seconds)), flush=True)


def warm_up(model: Any, figure: str, size: int) -> None:
    """So that all is compiled: SBX compiles a delayed policy anew for each phase of its delay."""
    for _ in range(2):
        rate(model, figure, size, 0.0)
        model.train(gradient_steps=1, batch_size=BATCH)


def rate(model: Any, figure: str, size: int, seconds: float) -> float:
    """Steps a second, over about so many seconds."""
    began, count = time.perf_counter(), 0
    while (passed := time.perf_counter() - began) < seconds or not count:
        if figure == "gradient":
            model.train(gradient_steps=size, batch_size=BATCH)
        else:
            model.learn(size, reset_num_timesteps=False)
        count += size
    return count / passed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("envs", nargs="*")
    parser.add_argument("--algos", nargs="+", choices=["SAC", "TD3"], default=["SAC", "TD3"])
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--learning-starts", type=int, default=LEARNING_STARTS)
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--turns", choices=["stable_baselines3", "sbx"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.turns:
        return take_turns(options.turns, options.algos[0])
    for env_id in options.envs:
        path = Path(__file__).with_name(f"sb3_offpolicy_{env_id.split('-')[0].lower()}.json")
        for seed in options.seeds:
            for algo in options.algos:
                kept = json.loads(path.read_text()) if path.exists() else document(env_id)
                wanted = [algo.lower(), seed, options.steps, options.learning_starts]
                if wanted in [[run[k] for k in KEYS] for run in kept["runs"]]:
                    continue
                run: dict[str, Any] = record(env_id, algo, seed, options)
                kept = json.loads(path.read_text()) if path.exists() else kept  # others may have written
                kept["runs"].append(run)
                path.write_text(json.dumps(kept) + "\n")
                print(env_id, algo, "seed", seed, run["final"]["mean"], "in", run["seconds"], "s", flush=True)


if __name__ == "__main__":
    main()
