"""Evaluation of exported files: episodes, statistics, and a verdict on each limit.

May import: export and below.
"""

from typing import TYPE_CHECKING

from robokit.faces import face

if TYPE_CHECKING:
    from robokit.evaluation.measure import evaluate as evaluate
    from robokit.evaluation.report import Report as Report
    from robokit.evaluation.statistics import (
        Estimate as Estimate,
        Share as Share,
        Summary as Summary,
        estimate as estimate,
        share as share,
        summarize as summarize,
    )
    from robokit.evaluation.verdict import Verdict as Verdict

__getattr__, __dir__ = face(
    __name__,
    {
        "robokit.evaluation.measure": "evaluate",
        "robokit.evaluation.report": "Report",
        "robokit.evaluation.verdict": "Verdict",
        "robokit.evaluation.statistics": "Estimate Share Summary estimate share summarize",
    },
)
