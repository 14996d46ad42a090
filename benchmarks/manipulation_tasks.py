"""The lift without one of its pieces, for benchmarks/manipulation.py."""

from robokit.tasks.arm_lift import ArmLift

from robokit.task import Around, Ctrl, Delta


class Absolute(ArmLift):
    """ArmLift whose actions are joint positions around home in place of steps."""

    action = {"gripper": Ctrl(), "[!g]*": Around("home", 0.6)}  # rad
    memory = {"target": ArmLift.robot.joints + 1}  # which a Delta carries

    def remember(self, sim, action):
        return {"target": sim.ctrl}


class Unleashed(ArmLift):
    """ArmLift whose targets may be anywhere in a joint's range."""

    action = {"gripper": Ctrl(), "[!g]*": Delta(ArmLift.action["[!g]*"].scale, leash=6.3)}  # rad


class NoStates(ArmLift):
    """ArmLift that always begins with the cube on the table, and the hand at home."""

    starts = ()


class NoAbove(ArmLift):
    """ArmLift that never begins with the hand above the cube."""

    starts = tuple(name for name in ArmLift.starts if name != "above")


class NoAround(ArmLift):
    """ArmLift that never begins with the fingers around the cube."""

    starts = tuple(name for name in ArmLift.starts if name != "around")


class NoHeld(ArmLift):
    """ArmLift that never begins with the cube in the hand on the table."""

    starts = tuple(name for name in ArmLift.starts if name != "held")


class NoLifted(ArmLift):
    """ArmLift that never begins with the cube in the hand above the table."""

    starts = tuple(name for name in ArmLift.starts if name != "lifted")
