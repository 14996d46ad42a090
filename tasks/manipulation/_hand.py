"""Hand and cubes in numbers: gaps, grasps, turns. Sensors are those of the MJCF and of `Arm.model`."""

import torch
from robokit.tasks._robots import EDGE

from robokit.task import uniform

TOUCHING = 0.3  # N of a finger


def place_of(sim, cube):
    """Where a cube's pose begins in qpos."""
    return int(sim.model.joint(cube).qposadr[0])


def share(sim, rng):
    """Uniform in [0, 1), (n,)."""
    return (uniform(sim, rng, 1)[:, 0] + 1) / 2


def touch(sim):
    """Force on the left and the right finger, (N, 2) newton."""
    return torch.cat((sim.sensor("left_touch"), sim.sensor("right_touch")), -1)


def gap(sim, cube="cube"):
    """Distance between the tip and a cube, (N,) m."""
    return (sim.sensor(f"{cube}_pos") - sim.sensor("tip")).norm(dim=-1)


def grasped(sim, cube="cube", edge=EDGE):
    """Whether both fingers press on something, and the cube is between them, (N,)."""
    return (touch(sim) > TOUCHING).all(-1) & (gap(sim, cube) < 0.75 * edge)


def centred(sim, cube="cube", edge=EDGE):
    """1 for a cube that is grasped at its centre, less towards its edge, where it slips out; else 0, (N,)."""
    return grasped(sim, cube, edge) * (1 - gap(sim, cube) / edge)


def yaw(quat):
    """Cosine and sine of four times the yaw of quaternions (N, 4): the same after a quarter turn, (N, 2)."""
    w, x, y, z = quat.unbind(-1)
    angle = 4 * torch.atan2(2 * (w * z + x * y), 1 - 2 * (y.square() + z.square()))
    return torch.stack((angle.cos(), angle.sin()), -1)


def hand_yaw(sim):
    """The same of the hand."""
    across = sim.site("gripper").xmat
    angle = 4 * torch.atan2(across[:, 3], across[:, 0])
    return torch.stack((angle.cos(), angle.sin()), -1)


def turned(sim, cube="cube"):
    """1 where the fingers are parallel to two sides of a cube, 0 where they are at 45 degrees, (N,)."""
    return ((hand_yaw(sim) * yaw(sim.sensor(f"{cube}_quat"))).sum(-1) + 1) / 2


def downward(yaws):
    """Axes of a hand that points down, turned by yaws (K,), (K, 3, 3)."""
    cosine, sine, none = yaws.cos(), yaws.sin(), torch.zeros_like(yaws)
    columns = (cosine, sine, none), (sine, -cosine, none), (none, none, none - 1)
    return torch.stack([torch.stack(column, -1) for column in columns], -1).numpy()
