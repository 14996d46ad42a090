"""How fast a policy with a memory trains, beside sb3-contrib's RecurrentPPO and beside one without a memory.

    pip install stable-baselines3 sb3-contrib "gymnasium[mujoco]"
    python benchmarks/recurrent.py                  # about ten minutes; leave the machine alone

Environment steps a second of whole iterations on Hopper, positions only: rollouts of 4096 transitions,
minibatches of 512, 10 epochs, 64x64 tanh networks, normalised observations, one torch thread. Ours collects
with 64 simulations on 2 threads and trains through chunks of 16 steps, theirs with 8 environments (its
DummyVecEnv, 512 steps each) through whole sequences. `as theirs` has a critic that sees what the policy sees,
through a belief of its own, which is what RecurrentPPO has. A round gives each one block of about --seconds;
a figure is the median of its blocks, a ratio the median of the rounds' ratios. Episodes are short, as at the
start of every training, for all of them.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from importlib.util import find_spec

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy

import torch

import robokit
from robokit.algos.ppo import Config, Learner

TASK, ROLLOUT, MINIBATCH = "hopper:Positions", 4096, 512
Rollouts = Callable[[int], object]  # collects and learns from so many rollouts


class Contestant:
    """A PPO that is warm, and how many rollouts it needs for a block."""

    def __init__(self, name: str, rollouts: Rollouts, seconds: float) -> None:
        start = time.perf_counter()
        self.name, self.rollouts = name, rollouts
        rollouts(1)  # compiles, fills caches
        first = time.perf_counter() - start
        self.count = 1
        self.count = max(1, round(seconds * self.rate() / ROLLOUT))
        print(f"{name}: first rollout {first:.1f} s, {self.count} in a block", flush=True)

    def rate(self) -> float:
        start = time.perf_counter()
        self.rollouts(self.count)
        return ROLLOUT * self.count / (time.perf_counter() - start)


def ours(belief: str, size: int, as_theirs: bool) -> Rollouts:
    alike = {"critic": "obs", "critic_belief": belief} if as_theirs else {}
    config = Config(
        num_envs=64, horizon=64, minibatch=MINIBATCH, belief=belief, belief_size=size, compile=True, **alike
    )
    learner = Learner(robokit.make(TASK, 64, threads=2, compile=True), config)
    return lambda count: [learner.iterate() for _ in range(count)]


def theirs(size: int) -> Rollouts:
    from peers.sb3_pomdp import NET, NUM_ENVS, SETTINGS, Masked
    from sb3_contrib import RecurrentPPO
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    envs = make_vec_env(
        "Hopper-v5", NUM_ENVS, wrapper_class=Masked, wrapper_kwargs={"seen": "positions"}, seed=0
    )
    policy = NET | {"lstm_hidden_size": size}
    model = RecurrentPPO(
        "MlpLstmPolicy", VecNormalize(envs), policy_kwargs=policy, seed=0, device="cpu", **SETTINGS
    )
    return lambda count: model.learn(count * ROLLOUT, reset_num_timesteps=model.num_timesteps == 0)


KINDS: dict[str, tuple[str, int, bool]] = {
    "memoryless": ("memoryless", 64, False),
    "stack": ("stack", 64, False),
    "gru 64": ("gru", 64, False),
    "mingru 64": ("mingru", 64, False),
    "lstm 64": ("lstm", 64, False),
    "lstm 64, as theirs": ("lstm", 64, True),
    "lstm 256, as theirs": ("lstm", 256, True),
}
PEERS = {"RecurrentPPO 64": 64, "RecurrentPPO 256": 256}
RATIOS = (  # (ours, of what)
    ("lstm 64, as theirs", "RecurrentPPO 64"),
    ("lstm 256, as theirs", "RecurrentPPO 256"),
    *((kind, "memoryless") for kind in ("gru 64", "mingru 64", "lstm 64", "stack")),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each block")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}")
    field = [Contestant(name, ours(*kind), options.seconds) for name, kind in KINDS.items()]
    if find_spec("sb3_contrib") is None:
        print("sb3-contrib: not installed, skipped")
    else:
        field += [Contestant(name, theirs(size), options.seconds) for name, size in PEERS.items()]
    rates = {c.name: list[float]() for c in field}
    for _ in range(options.rounds):
        for contestant in field:
            rates[contestant.name].append(contestant.rate())
    for name, column in rates.items():
        middle = statistics.median(column)
        print(f"{name:<22}{middle:>8,.0f} steps/s ({min(column):,.0f} to {max(column):,.0f})")
    for mine, other in RATIOS:
        if other in rates:
            ratio = statistics.median(a / b for a, b in zip(rates[mine], rates[other], strict=True))
            print(f"{mine} / {other}: {ratio:.2f}")


if __name__ == "__main__":
    main()
