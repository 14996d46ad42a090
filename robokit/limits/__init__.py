"""Limits on named costs, their measures, and the Lagrange multipliers that hold a policy to them.

May import: errors, state and compute; knows nothing of tasks.
"""

from typing import TYPE_CHECKING

from robokit.faces import face

if TYPE_CHECKING:
    from robokit.limits.charges import Charges as Charges, charged as charged
    from robokit.limits.limit import Limit as Limit, Measure as Measure, with_values as with_values
    from robokit.limits.meter import Meter as Meter
    from robokit.limits.multipliers import Multipliers as Multipliers, Rule as Rule

__getattr__, __dir__ = face(
    __name__,
    {
        "robokit.limits.limit": "Limit Measure with_values",
        "robokit.limits.charges": "Charges charged",
        "robokit.limits.meter": "Meter",
        "robokit.limits.multipliers": "Multipliers Rule",
    },
)
