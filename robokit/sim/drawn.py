"""Model fields that may not differ between simulations: a promise holds them, or physics never reads them."""

import re

import mujoco

from robokit.errors import ModelError
from robokit.sim.model import nominal

REFUSED = {  # names, as a regular expression -> why not, and what to do
    r"opt\.timestep": "a control step lasts control_dt, also on the robot; vary a delay",
    r"opt\.(integrator|solver|jacobian|cone|(dis|en)able.*)": "all simulations share it; set it in the model",
    r"actuator_ctrl.*": "actions map to one ctrlrange, which the exported file holds; vary the gains",
    r"key_.*": "only sim.keyframe reads it; return the state from reset",
    r"(name|names|text|tuple|numeric|plugin|exclude)_.*|.*_user": "nothing in the physics reads it",
    r".*_(invweight|M|acc|poscom|mat|dir|pos|length|L)0|body_(subtreemass|margin)|geom_rbound|bvh_aabb": (
        "MuJoCo computes it from masses, inertias and lengths; vary those"
    ),
}
INTEGERS = re.compile(  # whole numbers and switches that physics reads in every step; others are structure
    r"opt\..*|geom_(contype|conaffinity|condim|priority)|pair_dim|.*limited|jnt_actgravcomp"
)

NEVER_NEGATIVE = re.compile(
    r"body_(mass|inertia)|geom_(size|friction)|dof_(damping|armature|frictionloss)|opt\.(density|viscosity)"
)


def check_drawn(model: mujoco.MjModel, name: str) -> None:
    """Raise ModelError, with the reason, for a model field that may not differ between simulations.

    Names that are no model field pass.
    """
    for names, reason in REFUSED.items():
        if re.fullmatch(names, name):
            raise ModelError(f"{name!r} cannot be randomized: {reason}")
    owner = model.opt if name.startswith("opt.") else model
    if not hasattr(owner, name.removeprefix("opt.")) or INTEGERS.fullmatch(name):
        return
    if nominal(model, name).dtype.kind in "iub":
        raise ModelError(f"{name!r} cannot be randomized: the structure of the model is the same for all")
