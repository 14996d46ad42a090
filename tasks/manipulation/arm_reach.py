"""An arm brings the tip of its hand to a commanded point and holds it there."""

import torch
from robokit.tasks._arm import Arm, Exact
from robokit.tasks._robots import PANDA, SO101

from robokit.task import Ball, Command, Goal, Hold


class ArmReach(Arm):
    """Bring the tip to a commanded point and hold it there, with a real set-up's errors and limits."""

    cubes = ()
    time_limit = 3.0  # s
    commands = {"goal": Command(region=Ball((0.5, 0.0, 0.32), 0.2), unit="m", frame="world")}
    goal = Goal(command="goal", achieved="tip", within=0.01, hold=0.5, marker="sphere")  # m, s
    action = {"gripper": Hold("home"), "[!g]*": PANDA.steps}
    sensing = {name: Arm.sensing[name] for name in ("joint_pos", "joint_vel")}
    limits = {name: Arm.limits[name] for name in ("joint_speed", "torque", "table_force")}
    randomize = {name: Arm.randomize[name] for name in ("gain", "joint_offset", "table")}
    weights = {"reach": 1.0, "close": 1.0, "there": 1.0, "rate": -0.005, "table": -0.5, "posture": -1.0}
    planner = {**Arm.planner, "horizon": 0.4, "iterations": 2, "sigma": 0.3}
    recipes = {"ppo": {**Arm.recipes["ppo"], "steps": 2_000_000, "gamma": 0.95}}

    def privileged(self, sim):
        off = sim.memory["goal"] - sim.sensor("tip")
        axes = sim.site("gripper").xmat.view(-1, 3, 3)
        return {**super().privileged(sim), "off": (off[:, None] @ axes)[:, 0]}  # m, in the hand's frame

    def reached(self, achieved, goal):
        off = (achieved - goal).norm(dim=-1)
        return {
            "reach": 1 - torch.tanh(5 * off),
            "close": torch.exp(-((off / 0.03) ** 2)),
            "there": torch.exp(-((off / 0.008) ** 2)),
        }

    def metrics(self, sim):
        off = sim.memory["goal"] - sim.sensor("tip")
        return {**super().metrics(sim), "distance": off.norm(dim=-1)}  # m


class Clean(Exact, ArmReach):
    """ArmReach without errors and limits."""

    recipes = {"ppo": {**ArmReach.recipes["ppo"], "steps": 1_200_000, "hidden": (128, 128)}}


class So101(ArmReach):
    """ArmReach on an SO-101: within 2 cm, as an error of .02 rad in a zero moves its tip by 5 mm."""

    robot = SO101
    commands = {"goal": Command(region=Ball((0.25, 0.0, 0.15), 0.1), unit="m", frame="world")}
    goal = Goal(command="goal", achieved="tip", within=0.02, hold=0.5, marker="sphere")  # m, s
    action = {"gripper": Hold("home"), "[!g]*": SO101.steps}
    sensing = {"joint_pos": Arm.sensing["joint_pos"]}
    randomize = {**ArmReach.randomize, **SO101.errors}
