"""Whether the rule of robokit.compute.compile chooses well: eager or compiled, one torch thread or two.

    python benchmarks/compile.py                                  # hopper, half_cheetah and go2_walk by PPO
    python benchmarks/compile.py --algo sac --tasks hopper --rounds 9

The four choices train in turns, one iteration each a round, on a machine that does nothing else. Printed are
medians in seconds an iteration, what the whole training takes with the recipe's steps, compiling included
(run it twice: the first time with an empty cache, TORCHINDUCTOR_CACHE_DIR=<new folder>), and the
rule's choice with its loss against the best of the four.
"""

import argparse
import statistics
import time
from dataclasses import replace
from typing import Any

from robokit.algos.ppo import Config
from robokit.task.lookup.find import load_task
from robokit.training.setup.build import Setup, build_learner, options

CHOICES = [(compiles, threads) for compiles in (False, True) for threads in (1, 2)]
HORIZON = 50  # control steps in an iteration of an off-policy learner here


def start(task: str, algo: str, compiles: bool | None, threads: int) -> Any:
    """A learner that has compiled all it will, or not (`compiles` None, threads 0: by the rule)."""
    found = load_task(task)
    config = replace(options(found, algo), compile=compiles)
    return build_learner(found, Setup(algo=algo, torch_threads=threads), config)


def first(learner: Any) -> float:
    """Seconds of the first iteration with gradient steps, which compiles."""
    if isinstance(learner.config, Config):
        return seconds(learner)
    learner.horizon = HORIZON
    learner.steps_per_iteration = HORIZON * learner.env.num_envs
    while not learner.gradients:  # random actions, until learning starts
        taken = seconds(learner)
    return taken


def seconds(learner: Any) -> float:
    began = time.perf_counter()
    learner.iterate()
    return time.perf_counter() - began


def measure(task: str, algo: str, rounds: int) -> None:
    learners = {choice: start(task, algo, *choice) for choice in CHOICES}
    rule = start(task, algo, None, 0)
    chosen = (bool(rule.config.compile), rule.threads)
    compiling = {choice: first(learner) for choice, learner in learners.items()}
    taken: dict[tuple[bool, int], list[float]] = {choice: [] for choice in CHOICES}
    for _ in range(rounds):
        for choice, learner in learners.items():
            taken[choice].append(seconds(learner))
    medians = {choice: statistics.median(column) for choice, column in taken.items()}
    totals = {}
    for choice, learner in learners.items():
        iterations = learner.config.steps / learner.steps_per_iteration
        totals[choice] = compiling[choice] + iterations * medians[choice]
    best = min(totals, key=lambda choice: totals[choice])
    for (compiles, threads), total in totals.items():
        choice = compiles, threads
        marks = " best" * (choice == best) + " rule" * (choice == chosen)
        name = f"{'compiled' if compiles else 'eager':<9}{threads} thread{'s' * (threads > 1)}"
        times = f"{medians[choice]:.4f} s an iteration, first {compiling[choice]:.1f} s"
        times += f", training {total:.0f} s"
        print(f"{task} {algo} {name:<20} {times}{marks}", flush=True)
    loss = totals[chosen] / totals[best] - 1 if chosen in totals else float("nan")
    print(f"{task} {algo} the rule chooses {chosen}: {loss:+.1%} against the best", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["hopper", "half_cheetah", "go2_walk"])
    parser.add_argument("--algo", default="ppo")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    for task in arguments.tasks:
        measure(task, arguments.algo, arguments.rounds)


if __name__ == "__main__":
    main()
