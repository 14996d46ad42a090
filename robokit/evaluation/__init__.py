"""Evaluation of exported files: episodes, statistics, and a verdict on each limit.

May import: export and below.
"""

from typing import TYPE_CHECKING

from robokit.faces import face

if TYPE_CHECKING:
    from robokit.evaluation.measure import evaluate as evaluate
    from robokit.evaluation.reports.report import Report as Report
    from robokit.evaluation.reports.verdict import Verdict as Verdict
    from robokit.evaluation.statistics import (
        Estimate as Estimate,
        Share as Share,
        Summary as Summary,
        estimate as estimate,
        share as share,
        summarize as summarize,
    )

__getattr__, __dir__ = face(__name__, __file__)
