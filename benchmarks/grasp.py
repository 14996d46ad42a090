"""What a grasp needs of the solver: which cubes are still held after 1.5 s of a shaken arm, and its cost.

    python benchmarks/grasp.py
    python benchmarks/grasp.py --mass 2 --friction 0.7      # the worst that arm_lift draws

begins from states of tasks/manipulation/states (cube in the hand: on the table, and above it), lets each
joint's target take a random step of up to --step rad every 50 ms, the hand closed, and counts the cubes
that are then within 3 cm of the tip. One line for each setting, with control steps a second of one thread's
processor time.
"""

import argparse
import itertools
import time
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from robokit.task.lookup.find import load_task

STATES = Path(__file__).parents[1] / "tasks/manipulation/states"
SECONDS, CONTROL, LEASH, NEAR = 1.5, 0.05, 0.15, 0.03  # s, s, rad, m


def holds(data: mujoco.MjData, qpos: np.ndarray, steps: np.ndarray) -> bool:
    """Whether the cube of a state stays in the hand while the arm's targets take these steps."""
    mujoco.mj_resetData(data.model, data)
    data.qpos[:] = qpos
    data.ctrl[:7], data.ctrl[7] = qpos[:7], 0.0
    low, high = data.model.actuator_ctrlrange[:7].T
    for step in steps:
        target = np.clip(data.ctrl[:7] + step, data.qpos[:7] - LEASH, data.qpos[:7] + LEASH)
        data.ctrl[:7] = np.clip(target, low, high)
        mujoco.mj_step(data.model, data, nstep=round(CONTROL / data.model.opt.timestep))
    mujoco.mj_forward(data.model, data)
    return bool(np.linalg.norm(data.sensor("cube_pos").data - data.sensor("tip").data) < NEAR)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--number", type=int, default=100, help="states of each file")
    parser.add_argument("--step", type=float, default=0.02, help="rad")
    parser.add_argument("--mass", type=float, default=1.0, help="of the cube, times the model's")
    parser.add_argument("--friction", type=float, default=1.0, help="of all geoms, times the model's")
    options = parser.parse_args()
    number = options.number
    spec: Any = load_task("arm_lift").model
    model = spec.compile()
    model.body("cube").mass *= options.mass
    model.body("cube").inertia *= options.mass
    model.geom_friction *= options.friction
    mujoco.mj_setConst(model, mujoco.MjData(model))
    rng = np.random.default_rng(0)
    states = {name: np.load(STATES / f"lift_{name}.npz")["qpos"][:number] for name in ("held", "lifted")}
    steps = rng.uniform(-options.step, options.step, (number, round(SECONDS / CONTROL), 7))
    cones = ("pyramidal", 1.0), ("elliptic", 10.0)
    own = model.opt.ls_iterations
    settings = [*itertools.product((0.005, 0.01, 0.002), (30, 10), (own, 50), cones, (True,))]
    settings += itertools.product((0.005,), (30, 10, 4), (own,), cones[:1], (True, False))
    for timestep, iterations, searches, (cone, impratio), warm in dict.fromkeys(settings):
        model.opt.timestep, model.opt.iterations, model.opt.impratio = timestep, iterations, impratio
        model.opt.ls_iterations = searches
        model.opt.cone = getattr(mujoco.mjtCone, f"mjCONE_{cone.upper()}")
        model.opt.disableflags = 0 if warm else mujoco.mjtDisableBit.mjDSBL_WARMSTART
        data, began = mujoco.MjData(model), time.process_time()
        held = {n: [holds(data, *x) for x in zip(rows, steps, strict=True)] for n, rows in states.items()}
        speed = 2 * steps[..., 0].size / (time.process_time() - began)
        shares = ", ".join(f"{name} {np.mean(each):.0%}" for name, each in held.items())
        search = f"{iterations} iterations of {searches}{'' if warm else ', no warm start'}"
        print(
            f"{1000 * timestep:.0f} ms, {search}, {cone}, impratio {impratio:.0f}: {shares}; "
            f"{speed:,.0f} control steps/s",
            flush=True,
        )


if __name__ == "__main__":
    main()
