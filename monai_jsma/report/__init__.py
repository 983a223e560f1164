# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Reports: scores with intervals, curves, calibration, attention and the worst errors, from prediction records."""

from monai_jsma import _moved
from monai_jsma.report.cases import Cases, Run, make_cases, read_runs
from monai_jsma.report.comparison import RunScores, Settings, average_repeats
from monai_jsma.report.evaluate import evaluate
from monai_jsma.report.scores import compute_scores
from monai_jsma.report.write import write_report

__all__ = [
    "Cases",
    "Run",
    "RunScores",
    "Settings",
    "average_repeats",
    "compute_scores",
    "evaluate",
    "make_cases",
    "read_runs",
    "write_report",
]

scores = compute_scores  # name of version 0.1; here, because a module has it too
_MOVED = {
    "Scored": "monai_jsma.report.comparison:RunScores",
    "make_units": "monai_jsma.report.cases:make_cases",
    "over_repeats": "monai_jsma.report.comparison:average_repeats",
}
__getattr__ = _moved.lookup(__name__, _MOVED)
