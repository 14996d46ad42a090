"""Draws the pictures of README.md and docs from the shipped policy and the recorded curves.

pip install matplotlib imageio[ffmpeg] && python docs/pictures/draw.py
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import imageio.v3 as imageio
import matplotlib.pyplot as plt
import mujoco
import numpy as np
import torch
from PIL import Image

import robokit
from robokit.controller import load
from robokit.evaluation.episodes import onnx_actor
from robokit.show.film import control_steps, one_controller, write_film
from robokit.sim.render import Camera

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
POLICY = ROOT / "policies/go2_walk.onnx"
COMMAND = (0.8, 0.0, 0.0)  # m/s, m/s, rad/s
FEET = ("FR", "FL", "RR", "RL")


def stride() -> None:
    """One stride as an endless film, for README.md: 25 control steps, and the floor moves by one tile."""
    env = robokit.make("go2_walk", nominal=True)
    env.hold({"velocity": (1.0, 0.0, 0.0)})
    frames: list[Image.Image] = []
    with Camera(env.sim, 640, 480) as camera:
        for n, _ in zip(range(225), control_steps(one_controller(POLICY, env), env), strict=False):
            if n >= 200 and n % 2 == 0:
                frames.append(Image.fromarray(camera.frame()[90:410]).resize((320, 160)))
    strip = Image.fromarray(np.concatenate([np.asarray(frame) for frame in frames]))
    palette = strip.quantize(20, dither=Image.Dither.NONE)
    first, *others = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    first.save(HERE / "go2.gif", save_all=True, append_images=others, duration=40, loop=0)  # ms


def walk() -> None:
    """Six moments of one stride."""
    env = robokit.make("go2_walk", nominal=True)
    env.hold({"velocity": COMMAND})
    with TemporaryDirectory() as folder:
        path = Path(folder) / "walk.mp4"
        write_film(POLICY, env, path, seconds=3.0, width=320, height=240)
        frames = imageio.imread(path)[-13::2]
    rows = [np.concatenate(list(frames[i : i + 3, 40:]), 1) for i in (0, 3)]
    imageio.imwrite(HERE / "walk.png", np.concatenate(rows))


def gait() -> None:
    """Height of each foot, and torques, targets and speed of the base, over 1.5 s."""
    env = robokit.make("go2_walk", 2, nominal=True)
    env.hold({"velocity": COMMAND})
    env.reset()
    act, first = onnx_actor(load(POLICY)), torch.ones(2, dtype=torch.bool)
    sim, rows = env.sim, []
    for _ in range(225):
        action = act(env, first)
        first = env.step(action).done
        feet = [float(sim.site(foot).xpos[0, 2]) for foot in FEET]
        live = sim.field("actuator_force")[0, :3], action[0, :3], sim.sensor("velocity")[0]
        rows.append([*feet, *torch.cat(live).tolist()])
    table, time = np.array(rows)[150:], np.arange(75) * env.task.control_dt
    figure, axes = plt.subplots(4, 1, figsize=(7, 7), sharex=True)
    leg = ("hip", "thigh", "calf")
    for i, foot in enumerate(FEET):
        axes[0].plot(time, 100 * table[:, i] + 12 * i, label=foot)
    for axis, columns, names in (
        (1, (4, 5, 6), leg),
        (2, (7, 8, 9), leg),
        (3, (10, 11, 12), ("x", "y", "z")),
    ):
        for column, name in zip(columns, names, strict=True):
            axes[axis].plot(time, table[:, column], label=name)
    labels = ("feet, cm (+12 each)", "torque FR, N m", "action FR", "velocity, m/s")
    for axis, label in zip(axes, labels, strict=True):
        axis.set_ylabel(label)
        axis.legend(loc="upper right", fontsize=7)
    axes[-1].set_xlabel("s")
    save(figure, "gait.png")


def learning() -> None:
    """Error and falls in nominal episodes against steps."""
    curve = json.loads((ROOT / "benchmarks/curves/walk_recipe.json").read_text())["curve"]
    steps = [point["steps"] / 1e6 for point in curve]
    figure, axis = plt.subplots(figsize=(7, 3))
    axis.plot(steps, [p["velocity_error"] for p in curve], label="velocity error, m/s")
    axis.plot(steps, [p["mean_velocity_error"] for p in curve], label="error of the 0.5 s mean, m/s")
    axis.plot(steps, [p["falls"] for p in curve], label="share of episodes that fall")
    axis.set_ylim(0, 1)
    axis.set_xlabel("million steps")
    axis.legend()
    save(figure, "learning.png")


def rough() -> None:
    """Falls in 20 s against the height of steps and of random ground, for docs/ground-and-robots.md."""
    curve = json.loads((ROOT / "benchmarks/curves/rough_go2_walk.json").read_text())["curve"]
    flat = [point for point in curve if point["kind"] == "flat"]
    figure, axis = plt.subplots(figsize=(7, 3))
    for kind, label in (("steps", "steps of this height"), ("rough", "random heights within +- this")):
        points = flat + [point for point in curve if point["kind"] == kind]
        high, falls = ([point[key] for point in points] for key in ("height", "value"))
        low, up = ([abs(p[key] - p["value"]) for p in points] for key in ("low", "high"))
        axis.errorbar([100 * x for x in high], falls, (low, up), capsize=3, label=label)
    axis.set_xlabel("cm")
    axis.set_ylabel("share of episodes that fall")
    axis.legend()
    save(figure, "rough.png")


def arm() -> None:
    """Three stages of a lift, from the files of reset states: above the cube, around it, in the air."""
    spec, folder = robokit.make("arm_lift").task.model, ROOT / "tasks/manipulation/states"
    sight = {"pos": [1.05, -1.0, 0.56], "xyaxes": [0.808, 0.59, 0, -0.112, 0.154, 0.982], "fovy": 40}
    spec.worldbody.add_camera(name="page", **sight)
    spec.visual.map.shadowclip, spec.visual.quality.shadowsize = 0.6, 4096
    model, frames = spec.compile(), []
    data = mujoco.MjData(model)
    with mujoco.Renderer(model, 360, 320) as renderer:
        for name, number in (("above", 1), ("around", 5), ("lifted", 0)):
            data.qpos[:] = np.load(folder / f"lift_{name}.npz")["qpos"][number]
            mujoco.mj_forward(model, data)
            renderer.update_scene(data, "page")
            frames.append(renderer.render().copy())
    imageio.imwrite(HERE / "arm.png", np.concatenate(frames, 1))


def save(figure: plt.Figure, name: str) -> None:
    figure.tight_layout()
    figure.savefig(HERE / name, dpi=80)


if __name__ == "__main__":
    stride()
    walk()
    gait()
    learning()
    rough()
    arm()
