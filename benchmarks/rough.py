"""How often a policy falls on rough ground, by the height of its steps.

    python benchmarks/rough.py                                # the curve of policies/go2_walk.onnx, by height
    python benchmarks/rough.py --policy FILE.onnx --name mine # of another file of go2_walk
    python benchmarks/rough.py --rows --policy FILE.onnx      # the rows below, of a file of go2_walk:Rough
    python benchmarks/rough.py --rows --missing --policy FILE.onnx  # which rows are not run

The curve goes to `benchmarks/curves/rough_<name>.json`: go2_walk's commands from random places and headings
of two grounds. `steps` is a pyramid of steps 0.3 m deep whose risers are a cell long, met upward, downward
and aslant; `rough` has another height within +-h at every cell. `flat` is a height field without heights.

A row of --rows is 300 episodes of 20 s at a command of 0.5 m/s forward, from anywhere and any heading on one
flank of a pyramid 60 m wide (`steps`, `slope`), on random heights (`rough`) or on flat ground (`flat`);
`tiles` is the task as trained, at its top level and with its own commands. Each is run with the file and,
beside it, with the flat policy; with --full every link touches the ground, at 5 ms. A finished row is written
at once to `benchmarks/curves/rough.jsonl`, and rows that stand there are not run again.

All as trained otherwise: noise, randomisation and pushes.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from robokit.tasks.go2_walk import Go2Walk, Go2WalkFull, Rough, RoughScan

import robokit
from robokit.controller import Loaded, load
from robokit.env.env import Env
from robokit.evaluation.episodes import Episodes, onnx_actor, run_episodes
from robokit.evaluation.statistics import share
from robokit.seeds import seed
from robokit.task import Command, Task, Terrain, uniform

ROOT = Path(__file__).parents[1]
FLAT = ROOT / "policies/go2_walk.onnx"
HEIGHTS = (0.01, 0.02, 0.03, 0.04, 0.06, 0.08)  # m
CELL = 0.1  # m, of the curve; the rows have the task's
WIDE = 60.0  # m, edge of the ground
FLANK = -15.0  # m, x of the middle of a pyramid's flank
SPEED = 0.5  # m/s
ROWS = (  # kind, size
    ("steps", 0.05),  # m
    ("slope", 10.0),  # degrees
    ("steps", 0.08),
    ("slope", 15.0),
    ("rough", 0.04),  # m
    ("flat", 0.0),
    ("tiles", 0.0),
)
SCENES = {"feet": Go2Walk.model, "full": Go2WalkFull.model}


class OnRough(Rough):
    """Go2Walk's commands from random places and headings of one ground."""

    commands = Go2Walk.commands

    def _place(self, sim: Any, rng: Any) -> Any:
        return uniform(sim, rng, 2, 8.0)


class OnFlank(Rough):
    """Forward at one speed, from anywhere on one flank of a pyramid, facing anywhere."""

    commands = {"velocity": Command((SPEED, 0.0, 0.0), (SPEED, 0.0, 0.0))}

    def _place(self, sim: Any, rng: Any) -> Any:
        return uniform(sim, rng, 2, 3.0) + sim.constant(FLANK, 0.0)


def one_ground(kind: str, size: float, cell: float) -> Terrain:
    return Terrain((kind,), levels=1, tile=WIDE, cell=cell, hardest={kind: size})


def episodes_of(policy: Loaded, task: Task, episodes: int) -> Episodes:
    return run_episodes(Env(task, episodes, seed=seed("evaluation")), onnx_actor(policy))


def facts(ran: Episodes) -> dict[str, Any]:
    """Falls with their interval, error (m/s), broken simulations."""
    found = asdict(share(ran.failed))
    kept = {k: found[k] for k in ("count", "episodes", "value", "low", "high")}
    error = float(np.nanmean(ran.metrics["velocity_error"]["mean"]))
    return {**kept, "velocity_error": error, "bad": ran.bad}


def falls(policy: Path, kind: str | None, height: float, episodes: int, cell: float) -> dict[str, Any]:
    """One point of the curve; kind None: the plane."""
    task = OnRough() if kind else Go2Walk()
    if kind:
        task.ground = one_ground(kind, height, cell)
    ran = episodes_of(load(policy), task, episodes)
    return {"kind": kind or "plane", "height": height, **facts(ran)}


def curve(arguments: argparse.Namespace) -> None:
    rough = [(kind, height) for kind in ("steps", "rough") for height in HEIGHTS]
    points = []
    for kind, height in [(None, 0.0), ("flat", 0.0), *rough]:
        points.append(falls(arguments.policy, kind, height, arguments.episodes or 100, arguments.cell))
        print(json.dumps(points[-1]), flush=True)
    about = {"date": time.strftime("%Y-%m-%d"), "versions": {"robokit": robokit.__version__}}
    file = {"policy": arguments.policy.name, "sha256": load(arguments.policy).sha256, "cell": arguments.cell}
    path = ROOT / f"benchmarks/curves/rough_{arguments.name}.json"
    path.write_text(json.dumps(about | file | {"curve": points}, indent=1) + "\n")


# -- rows ----------------------------------------------------------------------------------------------------


def row_task(policy: Loaded, kind: str, size: float, scene: str) -> Task:
    """The task of a row; a file that observes a height scan gets one."""
    sees = any(term["name"] == "scan" for term in policy.contract["inputs"])
    base = type("Tiles", (RoughScan if sees else Rough,), {"scene": SCENES[scene]})
    if kind == "tiles":
        return base()
    largest = math.tan(math.radians(size)) if kind == "slope" else size
    ground = one_ground(kind, largest, Rough.ground.cell)
    own = {name: getattr(OnFlank, name) for name in ("commands", "_place")}
    return type("Flank", (base,), {**own, "ground": ground})()


def keys(policies: list[Path], scenes: list[str], episodes: int) -> Iterator[tuple[Path, dict[str, Any]]]:
    """What tells rows apart, in the order in which they are run."""
    for scene in scenes:
        for kind, size in ROWS:
            for path in policies:
                file = {"policy": path.stem, "sha256": load(path).sha256}
                yield path, {**file, "kind": kind, "size": size, "scene": scene, "episodes": episodes}


def finished(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def run_row(path: Path, key: dict[str, Any]) -> dict[str, Any]:
    began, policy = time.perf_counter(), load(path)
    ran = episodes_of(policy, row_task(policy, key["kind"], key["size"], key["scene"]), key["episodes"])
    success = float(ran.metrics["success"]["held"].mean())
    about = {"date": time.strftime("%Y-%m-%d"), "robokit": robokit.__version__}
    seconds = round(time.perf_counter() - began, 1)
    return {**key, **facts(ran), "success": success, "seconds": seconds, **about}


def rows(arguments: argparse.Namespace) -> None:
    policies = list(dict.fromkeys((arguments.policy.resolve(), FLAT)))
    scenes = ["feet", "full"] if arguments.full else ["feet"]
    done = finished(arguments.record)

    def missing() -> list[tuple[Path, dict[str, Any]]]:
        every = keys(policies, scenes, arguments.episodes or 300)
        return [(path, key) for path, key in every if not any(key.items() <= row.items() for row in done)]

    if not arguments.missing:
        for path, key in missing():
            done.append(run_row(path, key))
            with arguments.record.open("a") as file:
                file.write(json.dumps(done[-1]) + "\n")
            print(json.dumps(done[-1]), flush=True)
    left = [f"{k['policy']}: {k['kind']} {k['size']:g}, {k['scene']}" for _, k in missing()]
    print("\n".join(["missing:", *left]) if left else "missing: none")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--policy", type=Path, default=FLAT)
    parser.add_argument("--name", default="go2_walk")
    parser.add_argument("--episodes", type=int, help="default: 100 a point, 300 a row")
    parser.add_argument("--cell", type=float, default=CELL, help="edge of a cell of the curve's ground, m")
    parser.add_argument("--rows", action="store_true", help="rows at 0.5 m/s in place of the curve")
    parser.add_argument("--full", action="store_true", help="rows where every link touches the ground too")
    parser.add_argument("--missing", action="store_true", help="only print which rows are not run")
    parser.add_argument("--record", type=Path, default=ROOT / "benchmarks/curves/rough.jsonl")
    arguments = parser.parse_args()
    (rows if arguments.rows else curve)(arguments)


if __name__ == "__main__":
    main()
