"""PPO end to end beside the peers' PPO: rollouts and learning, interleaved in one run.

    python benchmarks/ppo.py speed          # HalfCheetah at minibatch 64 and 512; about six minutes
    python benchmarks/ppo.py speed --minibatches 64 --rounds 3 --seconds 1     # a part of it
    python benchmarks/ppo.py returns        # wall clock to HalfCheetah 1000 and Hopper 2000, 5 seeds

`speed`: environment steps a second of whole iterations, all with 64x64 tanh networks, rollouts of 2048
transitions, 10 epochs, normalised observations; one torch thread each (SBX: JAX's own). Ours and rsl_rl
collect with 64 of our simulations on 2 threads, stable-baselines3 and SBX with their DummyVecEnv(8) and
VecNormalize. A round gives each one block; a figure is the median of its blocks, a ratio the median of the
rounds' ratios. What it takes ours to be warm, compiled with an empty cache, is printed on its own.

Beside them stands what our iteration is made of: collect (of it the physics), targets and gradient steps, ms.

`returns`: seconds until the mean return of the last 100 training episodes reaches a bound, construction and
compiling counted, ours and stable-baselines3 in turns, seed by seed. A run that does not reach it within
--limit steps counts with the time it took, and is said.

A peer that is not installed is skipped: pip install stable-baselines3 sbx-rl rsl-rl-lib "gymnasium[mujoco]"
Leave the machine alone while it runs.
"""

import argparse
import contextlib
import math
import os
import platform
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from datetime import date
from importlib.util import find_spec
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy

import torch

import robokit
from robokit.algos.ppo import Config, Learner
from robokit.env.env import Env

THREADS, SIMULATIONS, ROLLOUT, EPOCHS = 2, 64, 2048, 10
BOUNDS = {"half_cheetah": ("HalfCheetah-v5", 1000.0), "hopper": ("Hopper-v5", 2000.0)}
WINDOW = 100  # training episodes in a mean return

Rollouts = Callable[[int], object]  # collects and learns from so many rollouts


class Contestant:
    """A PPO that is warm; its rate is environment steps a second in one block."""

    def __init__(self, name: str, rollouts: Rollouts, seconds: float) -> None:
        self.name, self.rollouts, self.count = name, rollouts, 1
        self.rollouts(2)  # compiles, fills caches
        if isinstance(rollouts, Ours):
            rollouts.iterations = 0
            rollouts.spent.clear()
        self.count = max(1, round(seconds * self.rate() / ROLLOUT))

    def rate(self) -> float:
        start = time.perf_counter()
        self.rollouts(self.count)
        return ROLLOUT * self.count / (time.perf_counter() - start)


class Ours:
    """Our PPO; `spent`: seconds in the parts of its iterations."""

    def __init__(self, minibatch: int, **options: Any) -> None:
        config = settings(SIMULATIONS, minibatch, **options)
        env = robokit.make("half_cheetah", SIMULATIONS, threads=THREADS, compile=bool(config.compile))
        self.learner: Any = Learner(env, config)
        self.iterations, self.spent = 0, dict[str, float]()
        parts = (
            (self.learner, "collect"),
            (env.sim, "step"),
            (self.learner, "targets"),
            (self.learner, "learn"),
        )
        for owner, name in parts:
            setattr(owner, name, self.timed(getattr(owner, name), "physics" if name == "step" else name))

    def timed(self, function: Any, name: str) -> Any:
        def call(*inputs: Any) -> Any:
            began = time.perf_counter()
            outputs = function(*inputs)
            self.spent[name] = self.spent.get(name, 0.0) + time.perf_counter() - began
            return outputs

        return call

    def __call__(self, count: int) -> None:
        for _ in range(count):
            self.learner.iterate()
        self.iterations += count

    def __str__(self) -> str:
        ms = {name: 1e3 * seconds / self.iterations for name, seconds in self.spent.items()}
        return (
            f"collect {ms['collect']:.0f} ms (physics {ms['physics']:.0f}), targets {ms['targets']:.1f}, "
            f"gradient steps {ms['learn'] - ms['targets']:.0f}"
        )


def settings(num_envs: int, minibatch: int, **options: Any) -> Config:
    horizon = ROLLOUT // num_envs
    return Config(num_envs=num_envs, horizon=horizon, minibatch=minibatch, epochs=EPOCHS, **options)


def stable_baselines(module: str, env_id: str, minibatch: int, seed: int = 0) -> Any:
    """A model of stable_baselines3 or of sbx, whose PPO has the same interface."""
    from importlib import import_module

    from peers.sb3_ppo import NUM_ENVS, SETTINGS
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    envs = VecNormalize(make_vec_env(env_id, NUM_ENVS, seed=seed), gamma=SETTINGS["gamma"])
    options = SETTINGS | {"batch_size": minibatch, "n_steps": ROLLOUT // NUM_ENVS, "n_epochs": EPOCHS}
    return import_module(module).PPO("MlpPolicy", envs, seed=seed, device="cpu", **options)


def continued(model: Any) -> Rollouts:
    return lambda count: model.learn(count * ROLLOUT, reset_num_timesteps=model.num_timesteps == 0)


class OnOurs:
    """rsl_rl's VecEnv on our simulations."""

    cfg: dict[str, Any] = {}

    def __init__(self, env: Env) -> None:
        self.env, self.device, self.num_envs = env, "cpu", env.num_envs
        self.num_actions, self.max_episode_length = env.act_dim, env.max_age
        self.episode_length_buf = torch.zeros(env.num_envs, dtype=torch.long)
        env.reset(stagger=True)

    def get_observations(self) -> Any:
        from tensordict import TensorDict

        return TensorDict({"policy": self.env.obs}, batch_size=[self.num_envs])

    def step(self, actions: torch.Tensor) -> tuple[Any, torch.Tensor, torch.Tensor, dict[str, Any]]:
        step = self.env.step(actions)
        return self.get_observations(), step.reward, step.done.long(), {"time_outs": step.truncated.float()}


def rsl_rl(minibatch: int) -> Rollouts:
    from rsl_rl.runners import OnPolicyRunner

    network = {
        "class_name": "MLPModel",
        "hidden_dims": [64, 64],
        "activation": "tanh",
        "obs_normalization": True,
    }
    algorithm = {"class_name": "PPO", "num_learning_epochs": EPOCHS, "num_mini_batches": ROLLOUT // minibatch}
    algorithm |= {"learning_rate": 3e-4, "schedule": "fixed", "entropy_coef": 0.0, "max_grad_norm": 0.5}
    algorithm |= {"use_clipped_value_loss": False, "normalize_advantage_per_mini_batch": True}
    config = {
        "algorithm": algorithm,
        "actor": network | {"distribution_cfg": {"class_name": "GaussianDistribution", "init_std": 1.0}},
        "critic": network,
        "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
        "num_steps_per_env": ROLLOUT // SIMULATIONS,
        "save_interval": 10**9,
    }
    env = OnOurs(robokit.make("half_cheetah", SIMULATIONS, threads=THREADS, compile=True))

    def rollouts(count: int) -> None:
        with silent():
            runner.learn(count)

    with silent():
        runner: Any = OnPolicyRunner(env, config, device="cpu")  # pyright: ignore
    return rollouts


@contextlib.contextmanager
def silent() -> Iterator[None]:
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def contestants(minibatch: int, seconds: float) -> Iterator[Contestant]:
    kinds: dict[str, Callable[[], Rollouts]] = {
        "robokit": lambda: Ours(minibatch, compile=True),
        "robokit, eager": lambda: Ours(minibatch, compile=False),
        "stable_baselines3": lambda: continued(
            stable_baselines("stable_baselines3", "HalfCheetah-v5", minibatch)
        ),
        "sbx": lambda: continued(stable_baselines("sbx", "HalfCheetah-v5", minibatch)),
        "rsl_rl": lambda: rsl_rl(minibatch),
    }
    for name, make in kinds.items():
        if find_spec(name.split(",")[0]) is None:
            print(f"{name}: not installed, skipped")
            continue
        start = time.perf_counter()
        made = Contestant(name, make(), seconds)
        if name == "robokit":
            print(f"minibatch {minibatch}: built, compiled, 2 rollouts: {time.perf_counter() - start:.1f} s")
        yield made


def speed(options: argparse.Namespace) -> None:
    cache = tempfile.TemporaryDirectory()  # a cold compile, and nothing left behind
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache.name
    for minibatch in options.minibatches:
        field = list(contestants(minibatch, options.seconds))
        rates: list[list[float]] = [[c.rate() for c in field] for _ in range(options.rounds)]
        for i, contestant in enumerate(field):
            column = [row[i] for row in rates]
            ratio = statistics.median(row[0] / row[i] for row in rates)
            middle = f"{statistics.median(column):>8,.0f} steps/s ({min(column):,.0f} to {max(column):,.0f})"
            parts = f"   {contestant.rollouts}" if isinstance(contestant.rollouts, Ours) else ""
            print(
                f"minibatch {minibatch:<4} {contestant.name:<18}{middle}   robokit / it {ratio:.2f}{parts}",
                flush=True,
            )


def our_seconds(task: str, seed: int, options: argparse.Namespace) -> tuple[float, float]:
    """Wall clock to the bound, and the mean return then."""
    start, window = time.perf_counter(), deque[float](maxlen=WINDOW)
    config = settings(options.num_envs, options.minibatch, compile=True)
    env = robokit.make(task, options.num_envs, seed=seed, threads=THREADS, compile=True)
    learner = Learner(env, config, seed)
    for _ in range(options.limit // ROLLOUT):
        metrics = learner.iterate()
        finished = round(metrics.get("episode/count", 0.0))
        window.extend([metrics.get("episode/return", 0.0)] * finished)
        if len(window) == WINDOW and statistics.mean(window) >= BOUNDS[task][1]:
            break
    return time.perf_counter() - start, statistics.mean(window) if window else math.nan


def their_seconds(task: str, seed: int, options: argparse.Namespace) -> tuple[float, float]:
    start, rollouts = time.perf_counter(), 0
    model = stable_baselines("stable_baselines3", BOUNDS[task][0], 64, seed)
    learn, mean = continued(model), math.nan
    while rollouts < options.limit // ROLLOUT and not mean >= BOUNDS[task][1]:
        learn(1)
        rollouts += 1
        returns = [episode["r"] for episode in model.ep_info_buffer]
        mean = statistics.mean(returns) if len(returns) == WINDOW else math.nan
    return time.perf_counter() - start, mean


def returns(options: argparse.Namespace) -> None:
    ratios: list[float] = []
    for task in options.tasks:
        bound = BOUNDS[task][1]
        for seed in options.seeds:
            mine, theirs = our_seconds(task, seed, options), their_seconds(task, seed, options)
            ratios.append(theirs[0] / mine[0])
            said = [
                f"{s:.0f} s" + ("" if mean >= bound else f" (only {mean:.0f})") for s, mean in (mine, theirs)
            ]
            name = f"{task} to {bound:.0f}, seed {seed}"
            print(f"{name}: robokit {said[0]}, stable-baselines3 {said[1]}, {ratios[-1]:.2f}x", flush=True)
    print(f"geometric mean of {len(ratios)}: {statistics.geometric_mean(ratios):.2f}x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    modes = parser.add_subparsers(required=True)
    fast = modes.add_parser("speed")
    fast.add_argument("--minibatches", nargs="+", type=int, default=[64, 512])
    fast.add_argument("--rounds", type=int, default=9)
    fast.add_argument("--seconds", type=float, default=2.0, help="of each block")
    fast.set_defaults(run=speed)
    far = modes.add_parser("returns")
    far.add_argument("--tasks", nargs="+", choices=BOUNDS, default=list(BOUNDS))
    far.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    far.add_argument("--limit", type=int, default=2_000_000, help="environment steps")
    far.add_argument("--num-envs", type=int, default=32, help="ours; the default of robokit")
    far.add_argument("--minibatch", type=int, default=64, help="ours; theirs is 64")
    far.set_defaults(run=returns)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}")
    options.run(options)


if __name__ == "__main__":
    main()
