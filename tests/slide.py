"""A user's own task, with its model beside it."""

from pathlib import Path

import torch

from robokit.task.lookup.find import load_task
from robokit.task.states import pack
from robokit.task.task import Task

OWN = """
from pathlib import Path
from robokit.task.task import Task

class Slide(Task):
    \"\"\"Stay in the middle.\"\"\"

    model = Path(__file__).with_suffix(".xml")
    control_dt = 0.02
    time_limit = 0.5
    weights = {"middle": -1.0}
    recipes = {"ppo": {"horizon": 8, "steps": 32}}

    def observe(self, sim):
        return {"slide": sim.qpos}

    def rewards(self, sim, action):
        return {"middle": sim.qpos[:, 0].abs()}
"""
MODEL = """
<mujoco model="slide">
  <worldbody>
    <body><joint name="x" type="slide" axis="1 0 0"/><geom size=".1" mass="1"/></body>
  </worldbody>
  <actuator><motor joint="x" ctrlrange="-1 1"/></actuator>
</mujoco>
"""

PUSHED = """
from pathlib import Path
import torch
from robokit.limits.limit import Limit
from robokit.task.task import Task

class Slide(Task):
    \"\"\"Push to the right, but not hard.\"\"\"

    model = Path(__file__).with_suffix(".xml")
    control_dt = 0.02
    time_limit = 0.2
    weights = {"push": 1.0}
    limits = {"hard": Limit(0.25)}

    def observe(self, sim):
        return {"slide": sim.qpos}

    def rewards(self, sim, action):
        return {"push": action[:, 0]}

    def costs(self, sim, action):
        return {"hard": (action[:, 0] > 0.5).to(sim.qpos.dtype)}
"""


LEVELLED = """
from pathlib import Path
from robokit.task import Level, States, Task, uniform

class Slide(Task):
    \"\"\"Push to the right, from further away at each level.\"\"\"

    model = Path(__file__).with_suffix(".xml")
    control_dt = 0.25
    time_limit = 0.75
    weights = {"right": 1.0}
    headline = "right"
    level = Level(highest=3, rise=1, fall=5)
    lift = States("lift.npz", share=0.4)

    def reset(self, sim, rng):
        own = {"qpos": uniform(sim, rng, 1, 0.1) - sim.memory["level"]}
        return self.lift.draw(sim, rng, own)

    def observe(self, sim):
        return {"slide": sim.qpos}

    def rewards(self, sim, action):
        return {"right": action[:, 0]}

    def metrics(self, sim):
        return {"right": sim.ctrl[:, 0] > 0}
"""


def write(folder: Path, text: str = OWN) -> Path:
    """slide.py and slide.xml in `folder`; the task's path."""
    folder.mkdir(exist_ok=True)
    (folder / "slide.xml").write_text(MODEL)
    (folder / "slide.py").write_text(text)
    return folder / "slide.py"


def levelled(folder: Path, text: str = LEVELLED) -> Task:
    """The task LEVELLED, with its file of states: from 5 to 9 m."""
    task = load_task(write(folder, text))
    (folder / "lift.npz").write_bytes(pack({"qpos": torch.arange(5.0, 10.0)[:, None]}, task, "by hand"))
    return task
