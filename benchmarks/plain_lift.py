"""An exported lift in a plain mujoco loop, as docs/deploy.md has it: numpy, onnxruntime and mujoco alone.

    python benchmarks/plain_lift.py arm_lift.onnx scene.xml
    python benchmarks/plain_lift.py arm_lift.onnx scene.xml --cone elliptic --impratio 10 --timestep 0.002 \
        --ls-iterations 50

prints one line of JSON. The scene has the bodies, joints and sensors of the task's model, which
`python benchmarks/manipulation.py --row plain` writes. Nothing is randomised, and no sensor errs: the figure
stands beside `robokit evaluate FILE --nominal`. An episode begins as the task's: arm near home, hand open,
the cube anywhere in its square, turned.
"""

import argparse
import json
import math
import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before the import
import mujoco
import numpy as np
import onnxruntime as ort

WITHIN, HOLD, SECONDS = 0.02, 0.5, 4.0  # m, s, s of an episode
NEAR, SPREAD, TURN = 0.05, 0.08, math.pi / 4  # rad of a joint, m along x and y, rad of yaw


def readings(data: mujoco.MjData, goal: np.ndarray) -> dict[str, np.ndarray]:
    """What the file's inputs are called: encoders, and what a tracker and an operator tell."""
    w, x, y, z = data.sensor("cube_quat").data
    yaw = 4 * math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
    return {
        "joint_pos": data.qpos[:8],
        "joint_vel": data.qvel[:7],
        "cube": data.sensor("cube_pos").data,
        "cube_yaw": np.array([math.cos(yaw), math.sin(yaw)]),
        "goal": goal,
    }


def begin(data: mujoco.MjData, rng: np.random.Generator) -> None:
    """Put the arm near home and the cube on the table."""
    mujoco.mj_resetDataKeyframe(data.model, data, data.model.key("home").id)
    data.qpos[:7] += rng.uniform(-NEAR, NEAR, 7)
    at, half = int(data.model.joint("cube").qposadr[0]), rng.uniform(-TURN, TURN) / 2
    data.qpos[at : at + 2] += rng.uniform(-SPREAD, SPREAD, 2)
    data.qpos[at + 3 : at + 7] = math.cos(half), 0, 0, math.sin(half)
    mujoco.mj_forward(data.model, data)


def episode(session: ort.InferenceSession, contract: dict, data: mujoco.MjData, rng) -> np.ndarray:
    """Distances of the cube from its goal after each control step, m."""
    low, high = (np.array([a[edge] for a in contract["actuators"]], np.float32) for edge in ("low", "high"))
    command = contract["commands"]["goal"]
    goal, steps = rng.uniform(command["low"], command["high"]), round(SECONDS / contract["control_dt"])
    carry = np.zeros((1, sum(part["size"] for part in contract["carried"])), np.float32)
    order = [data.model.actuator(a["name"]).id for a in contract["actuators"]]
    found = np.empty(steps)
    begin(data, rng)
    for step in range(steps):
        seen = readings(data, goal)
        feed = {i["name"]: seen[i["name"]].astype(np.float32)[None] for i in contract["inputs"]}
        feed |= {"carry": carry, "reset": np.array([step == 0])}
        ctrl, carry = session.run(["ctrl", "carry_next"], feed)
        data.ctrl[order] = np.fmin(np.fmax(ctrl[0], low), high)
        mujoco.mj_step(data.model, data, nstep=round(contract["control_dt"] / data.model.opt.timestep))
        mujoco.mj_forward(data.model, data)  # the sensors, where the step ended
        found[step] = np.linalg.norm(data.sensor("cube_pos").data - goal)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file")
    parser.add_argument("scene")
    parser.add_argument("--episodes", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cone", choices=("pyramidal", "elliptic"))
    parser.add_argument("--impratio", type=float)
    parser.add_argument("--timestep", type=float, help="s")
    parser.add_argument("--ls-iterations", type=int, help="largest number in a line search of the solver")
    options = parser.parse_args()
    threads = ort.SessionOptions()
    threads.intra_op_num_threads = 1
    session = ort.InferenceSession(options.file, threads, providers=["CPUExecutionProvider"])
    contract = json.loads(session.get_modelmeta().custom_metadata_map["robokit.contract"])
    model = mujoco.MjModel.from_xml_path(options.scene)
    model.opt.timestep = options.timestep or model.opt.timestep
    model.opt.impratio = options.impratio or model.opt.impratio
    model.opt.ls_iterations = options.ls_iterations or model.opt.ls_iterations
    if options.cone:
        model.opt.cone = getattr(mujoco.mjtCone, f"mjCONE_{options.cone.upper()}")
    data, rng = mujoco.MjData(model), np.random.default_rng(options.seed)
    paths = np.stack([episode(session, contract, data, rng) for _ in range(options.episodes)])
    near, last = paths <= WITHIN, round(HOLD / contract["control_dt"])
    held, ever = near[:, -last:].all(1).mean(), near.any(1).mean()
    print(json.dumps({"success": float(held), "ever": float(ever), "episodes": options.episodes}))


if __name__ == "__main__":
    main()
