"""PPO on Safety-Gymnasium's velocity tasks: what is earned within a limit, beside the published figures.

    python benchmarks/safety.py hopper walker2d half_cheetah --steps 10_000_000      # 9 runs
    python benchmarks/safety.py hopper --rules pid off --steps 1_000_000
    python benchmarks/safety.py hopper --rules dual --seeds 0 --set dual_lr=0.002
    python benchmarks/safety.py hopper --speed             # what limits cost in time; leave the machine alone
    python benchmarks/safety.py                            # only the table

trains each task's SpeedLimit, one run at a time on one thread, and records it in `benchmarks/curves/
safety_<task>.json`; a run that is recorded already is not repeated. The policy that is judged is the best
that held the limit in validation, in 300 fresh episodes, deterministic; the last one and the policy that
explores stand beside it. `steady` is the relative deviation of lambda over the last fifth of the training.

--speed trains without a limit, with one and with four in turns, blocks of about 3 s, and prints the medians
of the rounds' ratios of whole iterations, validation apart.
"""

import argparse
import ast
import copy
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

import robokit
from robokit.algos.ppo import Config, Learner
from robokit.env.env import Env
from robokit.evaluation.episodes import Act, run_episodes, sampling_actor, torch_actor
from robokit.evaluation.reports.verdict import judge
from robokit.networks.policy import Policy
from robokit.task.lookup.find import load_task
from robokit.task.task import Task
from robokit.training.selection import TIMES, validate

HERE = Path(__file__).parent
VARIANT = "SpeedLimit"
SETTINGS = {"compile": True}  # beside the task's own recipe
EPISODES, POINTS, LATE, BLOCK = 300, 60, 0.2, 10
# return / cost of Safety-Gymnasium's and OmniSafe's benchmark at 1e7 steps; at 1e6
PUBLISHED = {
    "hopper": "PPO-Lag 962+-753 / 14, CPPO-PID 1713+-10 / 9; 1e6: PPO-Lag about 1580",
    "walker2d": "PPO-Lag 2982+-682 / 14, CPPO-PID 2183+-1301 / 14; 1e6: TD3-Lag 2996 / 23",
    "half_cheetah": "PPO-Lag 2946+-306 / 3, CPPO-PID 2838+-399 / 8; 1e6: SAC-Lag 2834 / 0",
    "ant": "PPO-Lag 3262+-80 / 12, CPPO-PID 3213+-147 / 14",
    "humanoid": "PPO-Lag 6624+-26 / 6, CPPO-PID 6579+-56 / 4",
    "swimmer": "CPPO-PID 91+-63 / 19",
}


def measured(task: Task, act: Act, seed: int) -> dict[str, object]:
    """Return and cost of fresh episodes, and the verdict on the limit."""
    env = Env(task, EPISODES, seed=10_000 + seed, threads=1)
    ran = run_episodes(env, act)
    found = {name: judge(limit, ran.charged[name], env.max_age, 0.99) for name, limit in task.limits.items()}
    return {
        "return": round(float(ran.returns.mean()), 2),
        "length": round(float(ran.lengths.mean()), 1),
        "costs": {k: [round(v.episode.value, 3), round(v.measured.at_most, 3)] for k, v in found.items()},
        "verdicts": {name: verdict.verdict for name, verdict in found.items()},
    }


def train(name: str, rule: str, seed: int, steps: int, more: dict[str, Any]) -> dict[str, object]:
    """One run and what it came to."""
    task = load_task(name)
    settings = {**task.recipes.get("ppo", {}), **SETTINGS, "steps": steps, "limit_rule": rule, **more}
    config = Config(**settings)
    env = Env(task, config.simulations, seed=seed, threads=1, compile=bool(config.compile))
    learner, curve, seconds = Learner(env, config, seed), list[dict[str, float]](), 0.0
    best: tuple[float, int, Policy] | None = None
    iterations = -(-steps // learner.steps_per_iteration)
    for i in range(iterations):
        began = time.perf_counter()
        metrics = learner.iterate()
        seconds += time.perf_counter() - began
        kept = ("episode/return", "episode/length", *(k for k in metrics if k.startswith("limit/")))
        done = (i + 1) * learner.steps_per_iteration
        curve.append({"steps": done, **{k: round(metrics[k], 3) for k in kept if k in metrics}})
        if (i + 1) * TIMES // iterations > i * TIMES // iterations:
            score = validate(learner, done)
            if score.feasible and (best is None or score.returns > best[0]):
                best = score.returns, done, copy.deepcopy(learner.policy)
    late = curve[-round(LATE * iterations) :]
    lambdas = {k: [row[k] for row in late if k in row] for k in late[-1] if k.endswith("/lambda")}
    mean = {k: statistics.mean(v) for k, v in lambdas.items()}
    return {
        "name": name,
        "rule": rule,
        "seed": seed,
        "steps": steps,
        "settings": more,
        "seconds": round(seconds, 1),
        "best": {"steps": best[1], **measured(task, torch_actor(best[2]), seed)} if best else None,
        "last": measured(task, torch_actor(learner.policy), seed),
        "exploring": measured(task, sampling_actor(learner.policy, seed), seed),
        "lambda": {k: round(v, 4) for k, v in mean.items()},
        "steady": {k: round(statistics.pstdev(v) / mean[k], 3) for k, v in lambdas.items() if mean[k] > 0},
        "curve": curve[:: max(1, len(curve) // POINTS)],
    }


def record(task: str, options: argparse.Namespace) -> None:
    path = HERE / f"curves/safety_{task}.json"
    about = {
        "task": task,
        "settings": {**load_task(f"{task}:{options.variant}").recipes["ppo"], **SETTINGS},
        "episodes": EPISODES,
        "published": PUBLISHED.get(task),
    }
    about |= {"robokit": robokit.__version__, "torch": torch.__version__, "date": time.strftime("%Y-%m-%d")}
    kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {**about, "runs": []}
    name, more = f"{task}:{options.variant}", json.loads(json.dumps(options.set))
    done = [[run[k] for k in ("name", "rule", "seed", "steps", "settings")] for run in kept["runs"]]
    for seed in options.seeds:
        for rule in options.rules:
            if [name, rule, seed, options.steps, more] not in done:
                run = train(name, rule, seed, options.steps, options.set)
                kept["runs"].append(run)
                path.write_text(json.dumps(kept) + "\n")
                print(line(run), flush=True)


def speed(task: str, options: argparse.Namespace) -> None:
    """Seconds of an iteration with K limits, over those with none."""
    field: dict[int, Learner] = {}
    for k in (0, 1, 4):
        limited = load_task(f"{task}:{options.variant}")
        [(name, limit)] = limited.limits.items()
        copies, costs = {f"{name}{i}": limit for i in range(k)}, limited.costs
        limited.limits = copies
        limited.costs = lambda sim, action, names=(*copies,), of=costs: dict.fromkeys(
            names, *of(sim, action).values()
        )
        config = Config(**{**limited.recipes["ppo"], **SETTINGS, **options.set})
        field[k] = Learner(Env(limited, config.simulations, threads=2, compile=True), config)
        field[k].iterate()
    seconds = {k: list[float]() for k in field}
    for _ in range(7):
        for k, learner in field.items():
            began = time.perf_counter()
            for _ in range(BLOCK):
                learner.iterate()
            seconds[k].append((time.perf_counter() - began) / BLOCK)
    for k, column in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(column, seconds[0], strict=True))
        print(
            f"{task}, {k} limits: {1e3 * statistics.median(column):.0f} ms an iteration, {ratio:.3f} of none"
        )


def line(run: dict[str, Any]) -> str:
    def said(found: dict[str, Any] | None) -> str:
        if found is None:
            return f"{'none':<38}"
        costs = ", ".join(f"{cost:.3g} (<= {most:.3g})" for cost, most in found["costs"].values())
        return f"{found['return']:>7.0f} / {costs:<18} {' '.join(found['verdicts'].values()):<10}"

    steady = ", ".join(f"{run['lambda'][k]:.2f} steady {v}" for k, v in run["steady"].items())
    what = f"{run['name']:<24}{run['rule']:<6}{run['steps']:>9.0e} seed {run['seed']}"
    return (
        f"{what}  best {said(run['best'])} last {said(run['last'])} lambda {steady} {run['settings'] or ''}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("tasks", nargs="*")
    parser.add_argument("--variant", default=VARIANT)
    parser.add_argument("--rules", nargs="+", default=["pid"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=10_000_000)
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--set", nargs="*", default=[], help="name=value, options of PPO")
    options = parser.parse_args()
    options.set = {k: ast.literal_eval(v) for k, _, v in (pair.partition("=") for pair in options.set)}
    torch.set_num_threads(1)
    for task in options.tasks:
        (speed if options.speed else record)(task, options)
    if options.speed:
        return
    for path in sorted((HERE / "curves").glob("safety_*.json")):
        kept = json.loads(path.read_text())
        print(f"{kept['task']}; published, 1e7: {kept['published']}")
        for run in kept["runs"]:
            print(" ", line(run))


if __name__ == "__main__":
    main()
