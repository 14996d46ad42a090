"""Limits on named costs, their measures, and the Lagrange multipliers that hold a policy to them.

May import: errors, state and compute.
"""

from typing import TYPE_CHECKING

from robokit.faces import face

if TYPE_CHECKING:
    from robokit.limits.charges import Charges as Charges, Maxima as Maxima
    from robokit.limits.limit import Limit as Limit, with_values as with_values
    from robokit.limits.measures import MEASURES as MEASURES, EpisodeCosts as EpisodeCosts, Measure as Measure
    from robokit.limits.meter import Meter as Meter
    from robokit.limits.multipliers import Multipliers as Multipliers, Rule as Rule

__getattr__, __dir__ = face(__name__, __file__)
