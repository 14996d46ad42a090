"""How often a policy falls on rough ground, by the height of its steps.

    python benchmarks/rough.py                                # of policies/go2_walk.onnx, which knows a plane
    python benchmarks/rough.py --policy FILE.onnx --name mine # of another file of go2_walk

writes `benchmarks/curves/rough_<name>.json`. Two grounds: `steps`, a pyramid of steps 0.3 m deep whose
risers are a cell long, met upward, downward and aslant; `rough`, at every cell another height within +-h.
`flat` is the height field without any height: each triangle under a foot is a contact of its own, so small
cells alone make it fall. As trained otherwise: 20 s, commands redrawn every 3 to 8 s, noise, randomisation
and pushes; only feet touch the ground.
"""

import argparse
import json
import math
import time
from dataclasses import asdict
from pathlib import Path

import mujoco
import numpy as np
import torch
from robokit.tasks.go2_walk import Go2Walk

import robokit
from robokit.controller import load
from robokit.env.env import Env
from robokit.evaluation.episodes import onnx_actor, run_episodes
from robokit.evaluation.statistics import share
from robokit.seeds import seed
from robokit.task import Terrain, uniform

ROOT = Path(__file__).parents[1]
HEIGHTS = (0.01, 0.02, 0.03, 0.04, 0.06, 0.08)  # m
CELL = 0.1  # m
UNDER = (
    (0.25, 0.2),
    (0.25, -0.2),
    (-0.25, 0.2),
    (-0.25, -0.2),
    (0.0, 0.0),
)  # m, feet from base


class OnRough(Go2Walk):
    """Go2Walk from random places and headings of rough ground."""

    @property
    def model(self):
        return self.ground.added(mujoco.MjSpec.from_file(str(Go2Walk.model)), floor="floor")

    def reset(self, sim, rng):
        start = super().reset(sim, rng)
        xy, yaw = uniform(sim, rng, 2, 8.0), uniform(sim, rng, 1, math.pi)[:, 0]
        below = self.ground.scan(sim, xy, yaw, sim.constant(*np.ravel(UNDER).tolist()).view(-1, 2))
        free = torch.cat((xy, below.amax(-1, keepdim=True) + start["qpos"][:, 2:3]), -1)
        turn = torch.stack(((yaw / 2).cos(), 0 * yaw, 0 * yaw, (yaw / 2).sin()), -1)
        return start | {"qpos": torch.cat((free, turn, start["qpos"][:, 7:]), -1)}


def falls(policy: Path, kind: str | None, height: float, episodes: int, cell: float) -> dict[str, float]:
    """Falls of one ground, with their interval, and errors (m/s); kind None: the plane."""
    task = OnRough() if kind else Go2Walk()
    if kind:
        task.ground = Terrain((kind,), levels=1, tile=60.0, cell=cell, hardest={kind: height})
    env = Env(task, episodes, seed=seed("evaluation"))
    ran = run_episodes(env, onnx_actor(load(policy)))
    found = asdict(share(ran.failed))
    error = float(np.nanmean(ran.metrics["velocity_error"]["mean"]))
    kept = {k: found[k] for k in ("count", "episodes", "value", "low", "high")}
    return {"kind": kind or "plane", "height": height, **kept, "velocity_error": error, "bad": ran.bad}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--policy", type=Path, default=ROOT / "policies/go2_walk.onnx")
    parser.add_argument("--name", default="go2_walk")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--cell", type=float, default=CELL, help="edge of a cell of the height field, m")
    arguments = parser.parse_args()
    rough = [(kind, height) for kind in ("steps", "rough") for height in HEIGHTS]
    curve = []
    for kind, height in [(None, 0.0), ("flat", 0.0), *rough]:
        curve.append(falls(arguments.policy, kind, height, arguments.episodes, arguments.cell))
        print(json.dumps(curve[-1]), flush=True)
    about = {"date": time.strftime("%Y-%m-%d"), "versions": {"robokit": robokit.__version__}}
    file = {"policy": arguments.policy.name, "sha256": load(arguments.policy).sha256, "cell": arguments.cell}
    path = ROOT / f"benchmarks/curves/rough_{arguments.name}.json"
    path.write_text(json.dumps(about | file | {"curve": curve}, indent=1) + "\n")
