"""An arm grasps a cube, brings it to a commanded point above the table, and holds it there."""

import torch
from robokit.tasks._arm import Arm, Exact
from robokit.tasks._hand import centred, gap, grasped, turned
from robokit.tasks._robots import SO101

from robokit.task import Command, Ctrl, Goal, States

HIGH = 0.06  # m above the table, where the reward of lifting ends


class ArmLift(Arm):
    """Lift a cube to a commanded point and hold it there, with a real set-up's errors and limits."""

    commands = {"goal": Command((0.45, -0.1, 0.07), (0.58, 0.1, 0.25), unit="m", frame="world")}
    goal = Goal(command="goal", achieved="cube", within=0.02, hold=0.5, marker="sphere")  # m, s
    starts = ("above", "around", "held", "lifted")
    above = States("states/lift_above.npz", 0.36, "states_above")
    around = States("states/lift_around.npz", 0.25, "states_around")
    held = States("states/lift_held.npz", 0.175, "states_held")
    lifted = States("states/lift_lifted.npz", 0.15, "states_lifted")
    weights = {
        "reach": 0.5,
        "turn": 0.5,
        "grasp": 0.5,
        "centred": 0.5,
        "lift": 1.0,
        "place": 2.0,
        "there": 2.0,
        "rate": -0.01,
        "table": -0.5,
        "posture": -1.0,
    }
    recipes = {"ppo": {**Arm.recipes["ppo"], "steps": 8_000_000}}

    def privileged(self, sim):
        return {**super().privileged(sim), "off": sim.memory["goal"] - sim.sensor("cube_pos")}

    def rewards(self, sim, action):
        cube, near, edge = sim.sensor("cube_pos"), gap(sim), self.robot.edge
        off, up = (cube - sim.memory["goal"]).norm(dim=-1), cube[:, 2] > edge / 2 + 0.015
        return {
            **super().rewards(sim, action),
            "reach": 1 - torch.tanh(5 * near),
            "turn": turned(sim),
            "grasp": grasped(sim, edge=edge).to(near.dtype),
            "centred": centred(sim, edge=edge),
            "lift": ((cube[:, 2] - edge / 2) / HIGH).clamp(0, 1) * (near < edge),
            "place": (1 - torch.tanh(5 * off)) * up * (near < 0.05),
            "there": torch.exp(-((off / 0.02) ** 2)) * up,
        }

    def metrics(self, sim):
        cube = sim.sensor("cube_pos")
        return {
            **super().metrics(sim),
            "grasped": grasped(sim, edge=self.robot.edge),
            "lifted": cube[:, 2] > HIGH,
            "distance": (cube - sim.memory["goal"]).norm(dim=-1),  # m
        }


class Clean(Exact, ArmLift):
    """ArmLift without errors and limits."""

    recipes = {"ppo": {**Arm.recipes["ppo"], "steps": 2_500_000, "hidden": (128, 128)}}


class So101(ArmLift):
    """ArmLift on an SO-101: five joints with play, no speeds on its bus, a cube of 25 mm."""

    robot = SO101
    # Higher, or further out, its hand cannot point down to within the tilt that is allowed.
    commands = {"goal": Command((0.18, -0.08, 0.0625), (0.27, 0.08, 0.115), unit="m", frame="world")}
    action = {"gripper": Ctrl(SO101.closed, 0.6), "[!g]*": SO101.steps}
    sensing = {name: sense for name, sense in ArmLift.sensing.items() if name != "joint_vel"}
    randomize = {**ArmLift.randomize, **SO101.errors}
    recipes = {"ppo": {**Arm.recipes["ppo"], "steps": 3_000_000, "entropy_coef": (0.002, 0.0)}}
    above = States("states/so101_above.npz", 0.36, "states_above")
    around = States("states/so101_around.npz", 0.25, "states_around")
    held = States("states/so101_held.npz", 0.175, "states_held")
    lifted = States("states/so101_lifted.npz", 0.15, "states_lifted")
