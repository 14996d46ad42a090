"""What planning over the simulator itself comes to, untrained, with each shipped task's own options.

    python benchmarks/plan.py                        # every row that is not yet recorded, one after the other
    python benchmarks/plan.py --row walk-0 reach-0   # these
    python benchmarks/plan.py --missing              # what is not run, with its command
    python benchmarks/plan.py --table                # what is recorded

A row NAME-SEED is five episodes side by side (of `limit` and `pendulum` one), nominal, planned over the true
simulator; `integrator-SEED` is the excess over Riccati's cost from eight starts of a double integrator,
`speed-SEED` plans a second and what a plan costs beside `Batch.step` alone, eager and compiled. Finished rows
are appended to `benchmarks/curves/plan.jsonl` at once.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import torch

import robokit
from robokit.calls.planning import planner_of
from robokit.evaluation.tally import Tally
from robokit.planning.planner import Planner
from robokit.planning.rollout import TrueModel
from robokit.seeds import seed as seed_of
from robokit.task.counts import steps_held

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "benchmarks/curves/plan.jsonl"
ROUNDS = 12  # of `speed`
THREADS = len(os.sched_getaffinity(0))


class Case(NamedTuple):
    task: str
    steps: int  # control steps, at most
    command: dict[str, tuple[float, ...]] = {}
    seeds: int = 2  # rows
    episodes: int = 5  # side by side in a row


CASES = {
    "walk": Case("go2_walk", 250, {"velocity": (0.6, 0.0, 0.0)}),
    "back": Case("go2_walk", 250, {"velocity": (-0.4, 0.0, 0.0)}, seeds=1),
    "turn": Case("go2_walk", 250, {"velocity": (0.0, 0.0, 0.8)}, seeds=1),
    "reach": Case("arm_reach", 60),
    "push": Case("arm_push", 80),
    "cheetah": Case("half_cheetah", 200),
    "pendulum": Case("inverted_double_pendulum", 200, seeds=10, episodes=1),
    "limit": Case("half_cheetah:SpeedLimit", 1000, seeds=10, episodes=1),
    "reach_so101": Case("arm_reach:So101", 60, seeds=1),
}


def play(case: Case, seed: int) -> dict[str, Any]:
    """Episodes side by side, each until its end."""
    count = case.episodes
    env = robokit.make(case.task, count, seed=seed_of("evaluation", seed), threads=1, nominal=True)
    env.hold(case.command)
    env.reset()
    config, task = planner_of(env.task), env.task
    where: dict[str, Any] = {"seed": seed_of("planning", seed), "threads": THREADS}
    model = TrueModel(env, config.samples, **where, look=config.feedback > 0)
    planner = Planner(model, config, env, seed)
    tally = Tally(env.names.metrics, steps_held(task, env.names.booleans), count)
    running, terminated = torch.ones(count, dtype=torch.bool), torch.zeros(count, dtype=torch.bool)
    returns, length, cost = (
        torch.zeros(count),
        torch.zeros(count),
        torch.zeros(count, len(task.limits)),
    )
    began, n = time.process_time(), 0
    while n < case.steps and bool(running.any()):
        obs = env.obs
        step = env.step(planner.plan())
        planner.follow(obs, step)
        tally.add(step.metrics, running)
        returns += step.reward * running
        cost += step.cost * running[:, None]
        length += running
        terminated |= running & step.terminated
        running, n = running & ~step.done, n + 1
    kinds = {name: {k: x.tolist() for k, x in of.items()} for name, of in tally.kinds().items()}
    return {
        "options": dict(vars(config)),
        "returns": returns.tolist(),
        "steps": length.tolist(),
        "terminated": terminated.tolist(),
        "costs": dict(zip(task.limits, cost.T.tolist(), strict=True)),
        "metrics": kinds,
        "cpu_seconds": round(time.process_time() - began, 1),
    }


def integrator(seed: int) -> dict[str, Any]:
    sys.path.insert(0, str(ROOT / "tests/planning"))
    from test_planner import INTEGRATOR, excess_cost

    return {"excess": excess_cost(INTEGRATOR, seed).tolist()}


def speed(seed: int) -> dict[str, Any]:
    """Processor time of a plan beside the same physics alone, in turns; plans a second of wall time."""
    each = [(task, compiled) for compiled in (False, True) for task in ("half_cheetah", "go2_walk")]
    return {"threads": THREADS} | {
        task + " compiled" * compiled: speed_of(task, seed, compiled) for task, compiled in each
    }


def speed_of(task: str, seed: int, compiled: bool) -> dict[str, Any]:
    env = robokit.make(task, 1, seed=seed, threads=1, nominal=True)
    config = planner_of(env.task, samples=64, iterations=1)
    model = TrueModel(env, 64, threads=THREADS, compile=compiled)
    planner, sim, nstep = Planner(model, config, env, seed), model.env.sim, model.env.nstep
    stepped = robokit.make(task, 64, seed=seed, threads=THREADS, nominal=True)
    action, step, sent = torch.zeros(64, env.act_dim), sim.step, list[torch.Tensor]()

    def sends(ctrl: torch.Tensor, nstep: int) -> None:
        sent.append(ctrl)
        step(ctrl, nstep)

    sim.step = sends  # the physics alone is that of the plan: with other targets it would take another time

    def steps() -> None:
        for ctrl in sent:
            stepped.send(ctrl)
            stepped.step(action)

    def times(work: Callable[[], Any]) -> tuple[float, float]:
        cpu, wall = time.process_time(), time.perf_counter()
        work()
        return time.process_time() - cpu, time.perf_counter() - wall

    def round_of() -> list[tuple[float, float]]:
        """Of a plan, of its physics alone and of `Env.step`, from the same state with the same targets."""
        sent.clear()
        plan = times(planner.plan)
        model.start(planner.rows)
        physics = times(lambda: [step(ctrl, nstep) for ctrl in sent])
        stepped.copy(env, planner.rows)
        return [plan, physics, times(steps)]

    cpu, wall = torch.tensor([round_of() for _ in range(ROUNDS)]).median(0).values.unbind(-1)
    names = ("plan", "physics", "env_step")
    return {
        "cpu_ms": {name: round(1e3 * x, 2) for name, x in zip(names, cpu.tolist(), strict=True)},
        "overhead": round(float(cpu[0] / cpu[1]) - 1, 3),
        "env_overhead": round(float(cpu[2] / cpu[1]) - 1, 3),
        "plans_per_second": round(1 / float(wall[0]), 1),
        "control_steps_ahead": planner.steps,
    }


def rows() -> list[str]:
    walks = [f"{name}-{seed}" for seed in range(10) for name, case in CASES.items() if seed < case.seeds]
    return [*(f"integrator-{seed}" for seed in range(10)), "speed-0", *walks]


def recorded() -> dict[str, dict[str, Any]]:
    lines = RECORD.read_text().splitlines() if RECORD.is_file() else []
    return {row["row"]: row for row in map(json.loads, lines)}


def run(row: str) -> None:
    name, _, seed = row.rpartition("-")
    began = time.perf_counter()
    work = {"integrator": integrator, "speed": speed}
    found = work[name](int(seed)) if name in work else play(CASES[name], int(seed))
    about = {"date": date.today().isoformat(), "seconds": round(time.perf_counter() - began, 1)}
    RECORD.parent.mkdir(exist_ok=True)
    with RECORD.open("a") as file:
        file.write(json.dumps({"row": row, **found, **about}) + "\n")
    print(row, json.dumps(summary({row: found}).get(name, found)), flush=True)


def summary(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Name -> figures over all of its rows."""
    told: dict[str, Any] = {}
    for name in dict.fromkeys(row.rpartition("-")[0] for row in found):
        of = [x for row, x in found.items() if row.rpartition("-")[0] == name]
        if name == "integrator":
            told[name] = {"excess": sum(sum(x["excess"]) for x in of) / sum(len(x["excess"]) for x in of)}
        elif name in CASES:
            joined = {key: [v for x in of for v in x[key]] for key in ("returns", "steps", "terminated")}
            metrics = {
                f"{m} {kind}": [round(v, 3) for x in of for v in x["metrics"][m][kind]]
                for m, kind in (
                    *(
                        ("velocity_error", "mean"),
                        ("mean_velocity_error", "mean"),
                        ("mean_turn_error", "mean"),
                    ),
                    *(("success", "held"), ("distance", "last"), ("height", "last")),
                )
                if m in of[0]["metrics"] and kind in of[0]["metrics"][m]
            }
            costs = {k: [v for x in of for v in x["costs"][k]] for k in of[0]["costs"]}
            told[name] = {**joined, **metrics, **({"costs": costs} if costs else {})}
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--row", nargs="+", default=[], choices=rows())
    parser.add_argument("--missing", action="store_true")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    done = recorded()
    if options.table:
        for name, figures in summary(done).items():
            print(name, json.dumps(figures))
        print(*(json.dumps(done[row]) for row in done if row.startswith("speed")), sep="\n")
    if options.missing or options.table:
        missing = [row for row in rows() if row not in done]
        print(*(f"not run  python benchmarks/plan.py --row {row}" for row in missing), sep="\n")
        return
    for row in options.row or rows():
        if row not in done:
            run(row)


if __name__ == "__main__":
    main()
