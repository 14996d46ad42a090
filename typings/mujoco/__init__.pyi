# MuJoCo's classes, enums and functions are compiled and ship no types: to the checker they are Any.
# Its Python modules (mujoco.batch, mujoco.viewer) are found in the installed package, annotations included.
from typing import Any

def __getattr__(name: str) -> Any: ...
