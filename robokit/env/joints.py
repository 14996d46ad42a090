"""Which columns of an observation are the positions of the controls' joints: where a Delta starts."""

import torch

from robokit.env.sensing import Sensors
from robokit.sim.base import Sim
from robokit.sim.facts.readings import actuators
from robokit.task.guarded import call
from robokit.task.task import Task

TRIES, SHIFT = 4, 0.1  # resets, and how far they move each joint from the task's start, rad or m
UNITS = ("rad", "m")  # of ctrl: without a gear, so that a target is a position of the joint


def joint_columns(task: Task, sim: Sim, sensors: Sensors) -> list[int | None]:
    """Of each control: the first column of obs that equals the position of its named joint; None: none does.

    Tried at random positions, to which `sim` is reset. None too for a control whose ctrl is no position in
    rad or m.
    """
    model, rng = sim.model, torch.Generator().manual_seed(0)
    facts = {i: fact for i, fact in enumerate(actuators(sim)) if fact["unit"] in UNITS and fact["joint"]}
    known = {i: int(model.joint(fact["joint"]).qposadr[0]) for i, fact in facts.items()}
    start, equal = sim.qpos.clone(), torch.tensor(True)
    for _ in range(TRIES):
        shift = torch.zeros(start.shape)
        shift[:, [*known.values()]] = SHIFT * (2 * torch.rand(len(start), len(known), generator=rng) - 1)
        sim.reset(None, {"qpos": start + shift.to(start)})
        obs = sensors.visible(torch.cat([*call(task, "observe", sim).values()], -1).float())
        joints = sim.qpos[:, [*known.values()]].float()
        equal = equal & (obs[:, None] == joints[..., None]).all(0).cpu()
    found = {i: row.nonzero()[:, 0].tolist() for i, row in zip(known, equal, strict=True)}
    return [found[i][0] if found.get(i) else None for i in range(int(model.nu))]
