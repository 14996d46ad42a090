"""An arm pushes a cube over the table, with its hand closed, to a commanded place."""

import math

import mujoco
import torch
from robokit.tasks._arm import HEAVY, Arm, Exact
from robokit.tasks._hand import place_of, share
from robokit.tasks._robots import EDGE, PANDA
from torch import Tensor

from robokit.task import Command, Goal, Hold, States, uniform

NEAREST, FARTHEST = 0.08, 0.2  # m, from the cube's start to its goal
SIDE = PANDA.spread + NEAREST  # m, half the edge of the square of goals: there is one in all directions
BEHIND = 0.03  # m, from the cube to where the tip pushes it
SOFT = 5.0  # N on the table, above which pressing begins to cost reward
X, Y = PANDA.place


class ArmPush(Arm):
    """Push a cube to a commanded place on the table, with a real set-up's errors and limits."""

    commands = {
        "goal": Command(
            (X - SIDE, Y - SIDE, EDGE / 2), (X + SIDE, Y + SIDE, EDGE / 2), unit="m", frame="world"
        )
    }
    goal = Goal(command="goal", achieved="cube", within=0.025, hold=0.5, marker="sphere")  # m, s
    action = {"gripper": Hold("home"), "[!g]*": PANDA.steps}  # the hand stays closed
    limits = {name: Arm.limits[name] for name in ("joint_speed", "torque", "table_force")}
    memory = {"aim": 2}  # from the tip to the cube, of a file's states: their goals lie that way
    starts = ("down",)
    down = States("states/push_down.npz", 0.5, "states_down")
    weights = {
        "behind": 1.0,
        "place": 2.0,
        "there": 2.0,
        "press": -0.5,
        "rate": -0.005,
        "table": -0.5,
        "posture": -1.0,
    }
    recipes = {"ppo": {**Arm.recipes["ppo"], "steps": 5_000_000, "gamma": 0.97, "entropy_coef": (0.002, 0.0)}}

    @property
    def model(self):
        spec, here, there = super().model, self.robot.joints, -7 * len(self.cubes)
        home = spec.key("home")
        qpos = [*home.qpos]
        home.qpos = [*qpos[:here], *[0.0] * len(qpos[here:there]), *qpos[there:]]
        home.ctrl = [*[*home.ctrl][:here], 0.0]
        return spec

    def reset(self, sim, rng):
        start = super().reset(sim, rng)
        at = place_of(sim, "cube")
        aim = start.get("aim", torch.zeros_like(start["qpos"][:, :2]))
        return {**start, "goal": self.goal_from(sim, rng, start["qpos"][:, at : at + 2], aim)}

    def goal_from(self, sim, rng, cube, aim):
        """(n, 3): a place 8 to 20 cm away from cubes at (n, 2), in the square of goals.

        aim: (n, 2), where the way is to lead, but for 1 rad; 0: anywhere.
        """
        widest = torch.where((aim == 0).all(-1), math.pi, 1.0)[:, None]
        angle = torch.atan2(aim[:, 1:], aim[:, :1]) + uniform(sim, rng, 1) * widest
        way = torch.cat((angle.cos(), angle.sin()), -1)
        most = ((SIDE - (cube - sim.constant(X, Y)) * way.sign()) / way.abs()).amin(-1).clamp(max=FARTHEST)
        far = NEAREST + (most - NEAREST) * share(sim, rng)
        place = cube + far[:, None] * way
        return torch.cat((place, torch.full_like(place[:, :1], EDGE / 2)), -1)

    def states_down(self, sim, rng):
        """The closed hand down beside the cube, at any side, 5 to 8 cm from it."""
        start = self.settled(sim, rng, (EDGE / 2, EDGE / 2), 0.08)
        data, at = mujoco.MjData(sim.model), place_of(sim, "cube")
        aims = list[Tensor]()
        for qpos in start["qpos"]:
            data.qpos[:] = qpos
            mujoco.mj_kinematics(sim.model, data)
            aims.append(qpos[at : at + 2] - torch.from_numpy(data.site("gripper").xpos[:2]))
        return {**start, "aim": torch.stack(aims)}

    def beside(self, sim, rng, largest):
        angle, far = uniform(sim, rng, 1, math.pi), 0.05 + (largest - 0.05) * share(sim, rng)[:, None]
        return torch.cat((angle.cos(), angle.sin()), -1) * far

    def privileged(self, sim):
        tip, way = sim.sensor("tip"), sim.memory["goal"] - sim.sensor("cube_pos")
        axes = sim.site("gripper").xmat.view(-1, 3, 3)
        both = torch.stack((way, self.behind(sim) - tip), 1) @ axes  # m, in the hand's frame
        return {**super().privileged(sim), "off": both[:, 0], "behind": both[:, 1]}

    def behind(self, sim):
        """Where the tip pushes the cube to its goal, (N, 3) m; the nearer the goal, the nearer the cube."""
        way = sim.memory["goal"] - sim.sensor("cube_pos")
        return sim.sensor("cube_pos") - BEHIND * way / way.norm(dim=-1, keepdim=True).clamp(min=BEHIND)

    def rewards(self, sim, action):
        off = (sim.sensor("cube_pos") - sim.memory["goal"]).norm(dim=-1)
        far = (self.behind(sim) - sim.sensor("tip")).norm(dim=-1)
        return {
            **super().rewards(sim, action),
            "behind": 1 - torch.tanh(8 * far),
            "place": 1 - torch.tanh(8 * off),
            "press": ((sim.sensor("table_force")[:, 0] - SOFT) / HEAVY).clamp(0, 1),
            "there": torch.exp(-((off / 0.015) ** 2)),
        }

    def metrics(self, sim):
        off = (sim.sensor("cube_pos") - sim.memory["goal"]).norm(dim=-1)
        return {**super().metrics(sim), "distance": off}  # m


class Clean(Exact, ArmPush):
    """ArmPush without errors and limits."""

    recipes = {
        "ppo": {**ArmPush.recipes["ppo"], "steps": 2_500_000, "hidden": (128, 128), "entropy_coef": 0.002}
    }
