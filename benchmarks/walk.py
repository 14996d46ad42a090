r"""How fast a quadruped learns to walk: wall clock of training against error and falls in nominal episodes.

    python benchmarks/walk.py                        # the recipe; about 8 minutes on two cores
    python benchmarks/walk.py --seed 1 --name seed1 --every 100000 --first 800000 --target 0.14
    python benchmarks/walk.py --name no-mirror --set mirror=false --until 5000000
    python benchmarks/walk.py --task go2_walk:Go2WalkSensed --name sensed-gru
    F=benchmarks/heavier_go2.py; python benchmarks/walk.py --task $F --judge $F --as-trained --every 100000 \
        --until 2000000 --name heavier-from --init-from runs/go2_walk/latest    # and without --init-from

writes `benchmarks/curves/walk_<name>.json`. The clock stops for an evaluation: deterministic actions in
300 episodes without noise, randomisation and pushes, in the model of the task --judge, commands redrawn
every 3 to 8 s; falls, and the error of the planar velocity at every step, as the mjbatch Go1 example measures
its own (it observes the base velocity: falls .8 % and .21 m/s after 6.1 M steps and 394 s, .14 m/s after
8.6 M and 552 s). --target ends the run at this error in m/s, with falls in at most 1 %.

With `--peer PYTHON FILE` (an interpreter with `pip install torch mjbatch mujoco-menagerie`, and that
example's go1_joystick.py) it only alternates the two, five iterations each, and prints both speeds.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import robokit
from robokit.env.env import Env
from robokit.evaluation.episodes import run_episodes, torch_actor
from robokit.seeds import seed
from robokit.task.lookup.find import load_task
from robokit.task.task import Task
from robokit.training.run import Done
from robokit.training.setup.build import Built, Setup, build_learner, options
from robokit.training.setup.init_from import init_learner, open_parent
from robokit.training.setup.provenance import create

EPISODES = 300
REPORTED = ("velocity_error", "mean_velocity_error", "mean_turn_error")


def judge(learner: Built, task: Task, nominal: bool) -> dict[str, float]:
    """Falls (a share of the episodes) and errors (m/s, rad/s) of the deterministic policy."""
    env = Env(task, EPISODES, seed=seed("evaluation"), nominal=nominal)
    ran = run_episodes(env, torch_actor(learner.policy))
    errors = {name: float(np.nanmean(ran.metrics[name]["mean"])) for name in REPORTED}
    return {"falls": ran.terminated / EPISODES, **errors}


def record(arguments: argparse.Namespace, changes: dict[str, Any]) -> dict[str, Any]:
    """The curve of one training, which lies in runs/ for `robokit export`."""
    task, finer, setup = (
        load_task(arguments.task),
        load_task(arguments.judge),
        Setup(seed=arguments.seed, threads=arguments.threads, torch_threads=arguments.threads),
    )
    every = arguments.every
    config = replace(options(task, "ppo"), **changes)
    began = time.perf_counter()
    learner = build_learner(task, setup, config)
    ready = time.perf_counter() - began
    parent = None if arguments.init_from is None else open_parent(arguments.init_from)
    if parent is not None:
        init_learner(learner, parent)
    run = create(Path("runs"), learner, setup, parent)
    seconds, steps, curve, end = 0.0, 0, [], min(config.steps, arguments.until)
    walks = False
    if parent is not None:
        curve.append({"steps": 0, "seconds": 0.0, **judge(learner, finer, not arguments.as_trained)})
        print(json.dumps(curve[-1]), flush=True)
    while steps < end and not walks:
        began = time.perf_counter()
        learner.iterate()
        seconds += time.perf_counter() - began
        steps += learner.steps_per_iteration
        passed = steps // every > (steps - learner.steps_per_iteration) // every
        if (passed and steps >= arguments.first) or steps >= end:
            found = judge(learner, finer, not arguments.as_trained)
            walks = found["velocity_error"] <= arguments.target and found["falls"] <= 0.01
            curve.append({"steps": steps, "seconds": round(seconds, 1), **found})
            print(json.dumps(curve[-1]), flush=True)
    run.save(learner, Done(steps, steps // learner.steps_per_iteration, seconds))
    as_trained = judge(learner, task, nominal=False)
    print("as trained:", json.dumps(as_trained), "built in", round(ready, 1), "s", flush=True)
    return {
        "seed": arguments.seed,
        "judged in": arguments.judge,
        "judged as trained": arguments.as_trained,
        "parent": parent and parent.name,
        "changes": changes,
        "build_seconds": ready,
        "curve": curve,
        "as_trained": as_trained,
    }


DRIVER = """
import sys, time, torch
sys.path.insert(0, sys.argv[1])
import go1_joystick as peer
torch.manual_seed(0)
env, net = peer.Go1(peer.NUM_ENVS), peer.ActorCritic()
optimizer = torch.optim.Adam(net.parameters(), peer.LR, fused=True)
for line in sys.stdin:
    began = time.perf_counter()
    for _ in range(int(line)):
        batch, _ = peer.rollout(net, env)
        peer.update(net, optimizer, batch, *peer.gae(batch))
    print(int(line) * peer.NUM_ENVS * peer.HORIZON / (time.perf_counter() - began), flush=True)
"""


def beside(name: str, python: str, file: Path, blocks: int) -> None:
    """Speeds of both in alternating blocks of five iterations: control steps a second, medians."""
    task = load_task(name)
    learner = build_learner(task, Setup(), options(task, "ppo"))
    learner.iterate()
    speeds: dict[str, list[float]] = {"robokit": [], "mjbatch": []}
    command = [python, "-c", DRIVER, str(file.parent.resolve())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for block in range(-1, blocks):  # the first warms
            began = time.perf_counter()
            for _ in range(5):
                learner.iterate()
            ours = 5 * learner.steps_per_iteration / (time.perf_counter() - began)
            process.stdin.write("5\n")
            process.stdin.flush()
            theirs = float(process.stdout.readline())
            if block >= 0:
                speeds["robokit"].append(ours)
                speeds["mjbatch"].append(theirs)
        process.stdin.close()
    a, b = (statistics.median(values) for values in speeds.values())
    print(f"walk, training steps/s: robokit {a:,.0f}, mjbatch Go1 example {b:,.0f}, ratio {a / b:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--task", default="go2_walk")
    parser.add_argument("--judge", default="go2_walk:Go2WalkFull", help="task of the evaluations")
    parser.add_argument(
        "--as-trained", action="store_true", help="judge with noise, randomisation and pushes"
    )
    parser.add_argument("--init-from", help="run or file whose policy the training starts from")
    parser.add_argument("--target", type=float, default=0.0, help="error in m/s to stop at")
    parser.add_argument("--name", default="recipe")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--threads", type=int, default=0, help="of physics and torch; 0: as a training has")
    parser.add_argument(
        "--until", type=float, default=math.inf, help="steps to stop at, on the recipe's schedule"
    )
    parser.add_argument("--every", type=int, default=500_000, help="steps between two evaluations")
    parser.add_argument("--first", type=int, default=0, help="steps before the first evaluation")
    parser.add_argument("--set", nargs="*", default=[], metavar="OPTION=JSON", help="changes to the recipe")
    parser.add_argument("--peer", nargs=2, metavar=("PYTHON", "FILE"))
    parser.add_argument("--blocks", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.peer:
        beside(arguments.task, arguments.peer[0], Path(arguments.peer[1]), arguments.blocks)
        sys.exit()
    changes = {k: json.loads(v) for k, _, v in (text.partition("=") for text in arguments.set)}
    changes |= {"steps": arguments.steps} if arguments.steps else {}
    about = {
        "task": arguments.task,
        "date": time.strftime("%Y-%m-%d"),
        "versions": {"robokit": robokit.__version__},
    }
    path = Path(__file__).parent / f"curves/walk_{arguments.name}.json"
    run = record(arguments, changes)
    path.write_text(json.dumps(about | run, indent=1) + "\n")
