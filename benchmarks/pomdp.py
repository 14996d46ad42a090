"""What a memory is worth: PPO without, with a stack of five frames and with a recurrent belief, and all seen.

    python benchmarks/pomdp.py hopper walker2d --steps 1_000_000          # 42 runs, several hours
    python benchmarks/pomdp.py reacher inverted_double_pendulum --steps 500_000 --masks Positions
    python benchmarks/pomdp.py recall --masks Recall Recall100 --kinds memoryless gru lstm --steps 300_000
    python benchmarks/pomdp.py                                            # only the table of what is recorded

trains each of MASKS of a task under each of KINDS, one run at a time on one thread, and records it in
`benchmarks/curves/pomdp_<task>.json`; a run that is recorded already is not repeated. A score is the mean
return of 100 deterministic episodes of the final policy, `training` the mean return of the last tenth of its
training, `gap` the share of what hiding costs a memoryless policy that a belief recovers. The critic sees
the state, whatever the policy sees.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from returns import EPISODES, deterministic_returns

import robokit
from robokit.algos.ppo import Config, Learner
from robokit.env.env import Env
from robokit.task.lookup.find import load_task

HERE = Path(__file__).parent
MASKS = ("Positions", "Velocities")
KINDS = {  # of the policy's memory; "full" sees all that the task observes
    "full": {},
    "memoryless": {},
    "stack": {"belief": "stack"},
    "gru": {"belief": "gru", "lr_schedule": "adaptive"},
    "lstm": {"belief": "lstm"},
    "mingru": {"belief": "mingru"},
    "gru-constant": {"belief": "gru"},
}
HISTORY = 5  # frames of the stack
LATE = 6  # of the 60 points of a curve: its last tenth
# of a task without a recipe; the rest is our default
SETTINGS = {"num_envs": 64, "horizon": 64, "minibatch": 256, "compile": True}
# where the full state is solved, and a constant rate then forgets it: for every kind
FADING = {"lr": (3e-4, 0.0)}
OWN = {"inverted_double_pendulum": FADING, "reacher": FADING}


def train(name: str, kind: str, seed: int, steps: int) -> dict[str, object]:
    """One run and what it came to."""
    start, task = time.perf_counter(), load_task(name)
    task.history = HISTORY
    settings = dict(task.recipes.get("ppo", SETTINGS)) | {"belief": "memoryless", "steps": steps}
    config = Config(**settings | KINDS[kind] | OWN.get(name.partition(":")[0], {}))
    env = Env(task, config.simulations, seed=seed, threads=1, compile=bool(config.compile))
    learner, curve = Learner(env, config, seed), list[tuple[int, float]]()
    for i in range(-(-steps // learner.steps_per_iteration)):
        metrics = learner.iterate()
        if "episode/return" in metrics:
            curve.append(((i + 1) * learner.steps_per_iteration, round(metrics["episode/return"], 2)))
    seconds = time.perf_counter() - start
    returns = deterministic_returns(learner.policy, task, 10_000 + seed)
    return {
        "name": name,
        "kind": kind,
        "seed": seed,
        "steps": steps,
        "seconds": round(seconds, 1),
        "curve": curve[:: max(1, len(curve) // 60)],
        "returns": returns,
        "mean": round(statistics.mean(returns), 2),
    }


def document(task: str) -> dict[str, Any]:
    versions = {"robokit": robokit.__version__, "torch": torch.__version__}
    about = {"task": task, "settings": SETTINGS | OWN.get(task, {}), "kinds": KINDS, "history": HISTORY}
    about |= {"versions": versions}
    return about | {"episodes": EPISODES, "date": time.strftime("%Y-%m-%d"), "runs": []}


def record(task: str, options: argparse.Namespace) -> None:
    path = HERE / f"curves/pomdp_{task}.json"
    kept = json.loads(path.read_text()) if path.exists() else document(task)
    wanted = [
        (task if kind == "full" else f"{task}:{mask}", kind, seed)
        for seed in options.seeds
        for kind in options.kinds
        for mask in options.masks
    ]
    done = {(run["name"], run["kind"], run["seed"]) for run in kept["runs"]}
    for name, kind, seed in dict.fromkeys(wanted):
        if (name, kind, seed) not in done:
            run = train(name, kind, seed, options.steps)
            print(f"{name} {kind} seed {seed}: {run['mean']:.0f} in {run['seconds']:.0f} s", flush=True)
            kept["runs"].append(run)
            path.write_text(json.dumps(kept, indent=None) + "\n")


def table(path: Path) -> None:
    """One line for each mask and kind: the mean over seeds, each seed's, the end of the curves, the gap."""
    scores: dict[tuple[str, str], list[float]] = {}
    late: dict[tuple[str, str], list[float]] = {}
    for run in json.loads(path.read_text())["runs"]:
        key = run["name"], run["kind"]
        scores.setdefault(key, []).append(run["mean"])
        late.setdefault(key, []).extend(mean for _, mean in run["curve"][-LATE:])
    means = {key: statistics.mean(values) for key, values in scores.items()}
    for (name, kind), values in sorted(scores.items()):
        each, end = " ".join(f"{v:.4g}" for v in values), statistics.mean(late[name, kind])
        said = f"{name:<36}{kind:<12}{means[name, kind]:>9.1f}   ({each})   training {end:.1f}"
        full, least = means.get((name.partition(":")[0], "full")), means.get((name, "memoryless"))
        if full is not None and least is not None and kind not in ("full", "memoryless"):
            said += f"   gap {(means[name, kind] - least) / (full - least):.2f}"
        print(said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("tasks", nargs="*")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS)[:4])
    parser.add_argument("--masks", nargs="+", default=list(MASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1_000_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for task in options.tasks:
        record(task, options)
    for path in sorted((HERE / "curves").glob("pomdp_*.json")):
        table(path)


if __name__ == "__main__":
    main()
