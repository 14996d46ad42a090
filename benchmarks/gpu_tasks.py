"""The lift and rough ground on a GPU: trained on Warp, their files evaluated on the CPU.

    python benchmarks/gpu_tasks.py --out files/                  # 8 minutes at most, on cuda
    python benchmarks/gpu_tasks.py --device cpu --num-envs 4 --seconds 20 --episodes 4    # without a GPU

One line for each task: control steps a second of whole training iterations (the first one, which compiles,
apart), and the headline and failures of the exported file in 300 episodes of the task's own start.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch

from robokit.evaluation.measure import evaluate
from robokit.export.write import export
from robokit.task.lookup.find import load_task
from robokit.training.setup.build import Setup, build_learner, options as recipe

TASKS = ("arm_lift:Clean", "go2_walk:Rough")
BATCHES = 16  # gradient steps of an epoch


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--num-envs", type=int, default=4096)
    parser.add_argument("--seconds", type=float, default=150.0, help="of training, for each task")
    parser.add_argument("--episodes", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path())
    given = parser.parse_args()
    if given.device != "cpu" and not torch.cuda.is_available():
        raise SystemExit(f"torch {torch.__version__} sees no CUDA device; --device cpu tries it all")
    for name in given.tasks:
        train(name, given)


def train(name: str, given: argparse.Namespace) -> None:
    """Train a task, write its file, and print its line."""
    task, own = load_task(name), recipe(load_task(name), "ppo")
    size = max(1, given.num_envs * own.horizon // BATCHES)
    config = replace(own, steps=1_000_000_000, num_envs=given.num_envs, minibatch=size)
    began = time.perf_counter()
    learner = build_learner(task, Setup(sim="warp", device=given.device), config)
    learner.iterate()
    first, steps = time.perf_counter() - began, 0
    while (seconds := time.perf_counter() - began - first) < given.seconds or not steps:
        learner.iterate()
        steps += learner.steps_per_iteration
    place = given.out / f"{name.replace(':', '-')}.onnx"
    export(learner.policy, learner.env, place)
    report = evaluate(place, name, given.episodes)
    said = "unknown" if report.headline.summary is None else f"{report.headline.summary.mean:.3f}"
    print(
        f"{name}, N = {given.num_envs}, {given.device}: {steps:,} steps in {seconds:.0f} s, "
        f"{steps / seconds:,.0f} steps/s, {first:.0f} s until the first iteration was done; on the CPU: "
        f"{report.headline.name} {said}, failures {report.failure.share.value:.3f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
