"""How fast a quadruped learns to walk: wall clock of training against error and falls in nominal episodes.

    python benchmarks/walk.py                        # the recipe; about 15 minutes on two cores
    python benchmarks/walk.py --name no-mirror --set mirror=false --steps 4000000

writes `benchmarks/curves/walk_<name>.json`. The clock stops while a policy is evaluated: deterministic actions in
300 episodes without noise, randomisation and pushes, commands redrawn every 3 to 8 s; falls, and the error of
the planar velocity at every step, as the mjbatch Go1 example measures its own (there with the base velocity
observed: falls .8 % and .21 m/s after 6.1 M steps and 394 s, .14 m/s after 8.6 M and 552 s).

With `--peer FILE` (that example's go1_joystick.py; `pip install mjbatch mujoco-menagerie`) it only alternates
training of the two in blocks of three iterations and prints both speeds and their ratio.
"""

import argparse
import importlib.util
import json
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

import robokit
from robokit.env import Env
from robokit.evaluate import SEED_OFFSET, run_episodes, torch_actor
from robokit.restore import Built, Setup, build, options
from robokit.task import load_task

TASK, EPISODES = "go2_walk", 300
REPORTED = ("velocity_error", "mean_velocity_error", "mean_turn_error")


def judge(learner: Built, nominal: bool) -> dict[str, float]:
    """Falls (a share of the episodes) and errors (m/s, rad/s) of the deterministic policy."""
    env = Env(learner.env.task, EPISODES, seed=SEED_OFFSET, nominal=nominal)
    ran = run_episodes(env, torch_actor(learner.policy))
    errors = {name: float(np.nanmean(ran.metrics[name]["mean"])) for name in REPORTED}
    return {"falls": ran.terminated / EPISODES, **errors}


def record(seed: int, changes: dict[str, Any], every: int) -> dict[str, Any]:
    """The curve of one training."""
    task = load_task(TASK)
    config = replace(options(task, "ppo"), **changes)
    learner = build(task, Setup(seed=seed), config)
    seconds, steps, curve = 0.0, 0, []
    while steps < config.steps:
        began = time.perf_counter()
        learner.iterate()
        seconds += time.perf_counter() - began
        steps += learner.steps_per_iteration
        if steps // every > (steps - learner.steps_per_iteration) // every or steps >= config.steps:
            curve.append({"steps": steps, "seconds": round(seconds, 1), **judge(learner, nominal=True)})
            print(json.dumps(curve[-1]), flush=True)
    as_trained = judge(learner, nominal=False)
    print("as trained:", json.dumps(as_trained), flush=True)
    return {"seed": seed, "changes": changes, "curve": curve, "as_trained": as_trained}


def beside(peer: ModuleType, blocks: int) -> None:
    """Speeds of both in alternating blocks: control steps a second, medians."""
    task = load_task(TASK)
    learner = build(task, Setup(), options(task, "ppo"))
    env, net = peer.Go1(peer.NUM_ENVS), peer.ActorCritic()
    optimizer = torch.optim.Adam(net.parameters(), peer.LR, fused=True)

    def theirs() -> int:
        batch, _ = peer.rollout(net, env)
        peer.update(net, optimizer, batch, *peer.gae(batch))
        return peer.NUM_ENVS * peer.HORIZON

    def ours() -> int:
        learner.iterate()
        return learner.steps_per_iteration

    ours(), theirs()  # warm
    speeds: dict[str, list[float]] = {"ours": [], "theirs": []}
    threads = torch.get_num_threads()
    for _ in range(blocks):
        for name, iterate in (("ours", ours), ("theirs", theirs)):
            torch.set_num_threads(threads if name == "ours" else 2)  # what each chooses
            began = time.perf_counter()
            steps = sum(iterate() for _ in range(3))
            speeds[name].append(steps / (time.perf_counter() - began))
    a, b = (statistics.median(speeds[name]) for name in ("ours", "theirs"))
    print(f"walk, training steps/s: robokit {a:,.0f}, mjbatch Go1 example {b:,.0f}, ratio {a / b:.2f}")


def load(file: Path) -> ModuleType:
    sys.path.insert(0, str(file.parent))
    spec = importlib.util.spec_from_file_location("peer", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", default="recipe")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--every", type=int, default=500_000, help="steps between two evaluations")
    parser.add_argument("--set", nargs="*", default=[], metavar="OPTION=JSON", help="changes to the recipe")
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--blocks", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.peer:
        beside(load(arguments.peer), arguments.blocks)
        sys.exit()
    changes = {k: json.loads(v) for k, _, v in (text.partition("=") for text in arguments.set)}
    changes |= {"steps": arguments.steps} if arguments.steps else {}
    about = {"task": TASK, "date": time.strftime("%Y-%m-%d"), "versions": {"robokit": robokit.__version__}}
    path = Path(__file__).parent / f"curves/walk_{arguments.name}.json"
    path.write_text(json.dumps(about | record(arguments.seed, changes, arguments.every), indent=1) + "\n")
