"""Control steps a second of `Env.step` beside the peers', all with random actions, interleaved in one run.

    python benchmarks/env.py                              # every task, size and peer; about five minutes
    python benchmarks/env.py hopper --sizes 64 --rounds 3     # a part of it
    python benchmarks/env.py go2_walk --sizes 1024            # a task that gymnasium has not
    python benchmarks/env.py hopper half_cheetah --sizes 1    # beside gymnasium's own environment
    python benchmarks/env.py go2_walk --profile               # what a step is made of

Ours runs on 2 physics threads, at each size eager and compiled. The peers: MuJoCo's own `Batch.step` with the
same model, substeps, stage, threads, actions and restarts; SyncVectorEnv and AsyncVectorEnv of gymnasium and
DummyVecEnv and SubprocVecEnv of stable-baselines3 with 8 environments; EnvPool with 64 on 2 threads. One that
is not installed is skipped: pip install "gymnasium[mujoco]" stable-baselines3 envpool
With --sizes 1 the only peer is gymnasium's environment, and ours has one physics thread.

`--profile` prints microseconds a step of the parts of Env.step, compiled, and how often each is called.

A round gives each of them one short block. A figure is the median of its blocks, a ratio the median of the
rounds' ratios of ours to theirs. Leave the machine alone while it runs.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable, Iterator
from datetime import date
from importlib.util import find_spec
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = (
    "1"  # before numpy: physics has the cores
)

import mujoco
import numpy as np
import torch
from mujoco.batch import Batch

import robokit
from robokit.env.env import Env
from robokit.sim.cpu import MujocoSim

THREADS, FEW, POOL = 2, 8, 64  # of physics; environments of the peers in Python, and of EnvPool
IDS = {"half_cheetah": "HalfCheetah-v5", "hopper": "Hopper-v5", "walker2d": "Walker2d-v5", "ant": "Ant-v5"}

Steps = Callable[[int], None]  # takes so many vector steps


class Contestant:
    """Something that steps `size` environments at once; its rate is control steps a second in one block."""

    def __init__(self, name: str, size: int, steps: Steps, seconds: float) -> None:
        self.name, self.size, self.steps, self.count = name, size, steps, 8
        self.rate()  # compiles, fills caches
        self.count = max(2, round(seconds * self.rate() / size))

    def rate(self) -> float:
        start = time.perf_counter()
        self.steps(self.count)
        return self.size * self.count / (time.perf_counter() - start)


def ours_and_raw(task: str, size: int, seconds: float) -> Iterator[Contestant]:
    """Ours eager and compiled, and MuJoCo's batch that does what the compiled one did last."""
    for kind in ("", " compiled"):
        trace = Trace(robokit.make(task, size, threads=min(THREADS, size), compile=bool(kind)))
        yield Contestant(f"robokit {size}{kind}", size, trace.ours, seconds)
    yield Contestant(f"Batch.step {size}", size, trace.raw, seconds)


class Trace:
    """What Env does in a block, for a batch alone to repeat: the state it begins with, and who restarts."""

    def __init__(self, env: Env) -> None:
        sim = env.sim
        assert isinstance(sim, MujocoSim)
        self.env, self.theirs = env, sim._batch
        self.batch = Batch(sim.model, env.num_envs, sim.threads, persistent=self.theirs.persistent)
        self.stage = int(sim._stage)
        self.actions = torch.rand(64, env.num_envs, env.act_dim) * 2 - 1
        self.ctrl = (env.map.center + env.map.half * self.actions).numpy()
        env.reset(stagger=True)

    def ours(self, count: int) -> None:
        self.start = np.array(self.theirs.state)
        self.ended = [self.env.step(self.actions[i % 64]).done.numpy().nonzero()[0] for i in range(count)]

    def raw(self, count: int) -> None:
        batch, ended = self.batch, self.ended
        batch.state[:] = self.start
        for i in range(count):
            batch.ctrl = self.ctrl[i % 64]
            batch.step(nstep=self.env.nstep, stage=self.stage)
            if len(ids := ended[i % len(ended)]):
                batch.reset(ids)


def peers(name: str, seconds: float) -> Iterator[Contestant]:
    """The peers that are installed, on gymnasium's environment `name`; says which are not."""
    if find_spec("gymnasium"):
        import gymnasium

        for kind, mode in (("SyncVectorEnv", "sync"), ("AsyncVectorEnv", "async")):
            envs = gymnasium.make_vec(name, FEW, vectorization_mode=mode)
            yield Contestant(f"gymnasium {kind} {FEW}", FEW, repeat(envs, FEW), seconds)
    if find_spec("stable_baselines3"):
        from stable_baselines3.common.env_util import make_vec_env
        from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

        for cls in (DummyVecEnv, SubprocVecEnv):
            envs = make_vec_env(name, FEW, vec_env_cls=cls)
            yield Contestant(f"SB3 {cls.__name__} {FEW}", FEW, repeat(envs, FEW), seconds)
    if find_spec("envpool"):
        import envpool

        envs = envpool.make(name, env_type="gymnasium", num_envs=POOL, num_threads=THREADS)
        yield Contestant(f"EnvPool {POOL}", POOL, repeat(envs, POOL), seconds)
    for package in ("gymnasium", "stable_baselines3", "envpool"):
        if not find_spec(package):
            print(f"{package} is not installed: skipped", flush=True)


def alone(name: str, seconds: float) -> Iterator[Contestant]:
    """gymnasium's environment itself, beside one simulation of ours."""
    if not find_spec("gymnasium"):
        return
    import gymnasium

    env = gymnasium.make(name)
    env.reset(seed=0)
    space: Any = env.action_space
    draws = np.random.default_rng(0).uniform(space.low, space.high, (64, *space.shape)).astype(space.dtype)

    def steps(count: int) -> None:
        for i in range(count):
            _, _, terminated, truncated, _ = env.step(draws[i % 64])
            if terminated or truncated:
                env.reset()

    yield Contestant("gymnasium.Env", 1, steps, seconds)


def profile(task: str, size: int, seconds: float) -> None:
    """Microseconds a step of Env.step's parts; the indented ones are within the part above them."""
    env = robokit.make(task, size, threads=min(THREADS, size), compile=True)
    sim = env.sim
    assert isinstance(sim, MujocoSim)
    parts: dict[str, tuple[Any, str]] = {
        "physics": (sim, "step"),
        "after the physics": (env, "_after"),
        "restarts": (env, "_restart"),
        "  task.reset": (env.task, "reset"),
        "  task.randomize": (env.task, "randomize"),
        "  commands": (env.commands, "draw"),
        "  Sim.reset": (sim, "reset"),
        "look anew": (env, "_look"),
        "redrawn commands": (env, "_redraw_commands"),
        "task.disturb": (env.task, "disturb"),
        "noise": (env.sensors, "advance"),
    }
    spent, calls = dict.fromkeys(parts, 0.0), dict.fromkeys(parts, 0)
    trace = Trace(env)
    trace.ours(64)  # compiles
    for label, (owner, name) in parts.items():
        setattr(owner, name, timed(getattr(owner, name), label, spent, calls))
    count, began = 0, time.perf_counter()
    while (total := time.perf_counter() - began) < seconds:
        trace.ours(64)
        count += 64
    print(
        f"{task}, {size} simulations: {1e6 * total / count:,.0f} us a step, "
        f"{size * count / total:,.0f} steps/s"
    )
    for label in parts:
        print(f"    {label:<20}{1e6 * spent[label] / count:>8,.0f} us   {calls[label] / count:.2f} calls")
    rest = total - sum(value for label, value in spent.items() if not label.startswith(" "))
    print(f"    {'all else':<20}{1e6 * rest / count:>8,.0f} us", flush=True)


def timed(function: Any, label: str, spent: dict[str, float], calls: dict[str, int]) -> Any:
    def call(*inputs: Any) -> Any:
        began = time.perf_counter()
        outputs = function(*inputs)
        spent[label] += time.perf_counter() - began
        calls[label] += 1
        return outputs

    return call


def repeat(envs: Any, num_envs: int) -> Steps:
    """Steps of a vector environment of gymnasium's, SB3's or EnvPool's kind; all restart by themselves."""
    envs.reset()
    space = envs.action_space
    width = space.shape[-1]
    low, high = (np.broadcast_to(bound, (num_envs, width)) for bound in (space.low, space.high))
    draws = np.random.default_rng(0).uniform(low, high, (64, num_envs, width)).astype(space.dtype)

    def steps(count: int) -> None:
        for i in range(count):
            envs.step(draws[i % 64])

    return steps


def lines(contestants: list[Contestant], rounds: int) -> Iterator[str]:
    """One of each: its median, and beside a peer ours; beside the batch only ours of its size."""
    rates = np.array([[c.rate() for c in contestants] for _ in range(rounds)])
    own = [c.name.startswith("robokit") for c in contestants]
    for i, peer in enumerate(contestants):
        ratios = [
            f"{np.median(rates[:, k] / rates[:, i]):.2f} ({c.name.removeprefix('robokit ')})"
            for k, c in enumerate(contestants)
            if own[k] and not own[i] and (c.size == peer.size or "Batch" not in peer.name)
        ]
        beside = f"; ours / it: {', '.join(ratios)}" if ratios else ""
        yield f"{peer.name}: {np.median(rates[:, i]):,.0f} steps/s{beside}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tasks", nargs="*", default=list(IDS), help="names or paths, as for robokit train")
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 256], help="simulations of ours")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.35, help="of one block")
    parser.add_argument("--profile", action="store_true", help="what a step is made of")
    options = parser.parse_args()
    torch.set_num_threads(1)
    versions = f"mujoco {mujoco.__version__}, torch {torch.__version__}"
    print(f"{date.today()} {platform.processor() or platform.machine()}, {os.cpu_count()} cores, {versions}")
    for task in options.tasks:
        if options.profile:
            for size in options.sizes:
                profile(task, size, seconds=10 * options.seconds)
            continue
        contestants = [c for size in options.sizes for c in ours_and_raw(task, size, options.seconds)]
        if task in IDS:
            contestants += (alone if options.sizes == [1] else peers)(IDS[task], options.seconds)
        for line in lines(contestants, options.rounds):
            print(f"{task}, {line}", flush=True)
