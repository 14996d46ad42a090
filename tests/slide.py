"""A user's own task, with its model beside it."""

from pathlib import Path

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


def write(folder: Path, text: str = OWN) -> Path:
    """slide.py and slide.xml in `folder`; the task's path."""
    folder.mkdir(exist_ok=True)
    (folder / "slide.xml").write_text(MODEL)
    (folder / "slide.py").write_text(text)
    return folder / "slide.py"
