# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Reports: scores with intervals, curves, calibration, attention and the worst errors, from prediction records."""

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

# Names of version 0.1.
Scored = RunScores
make_units = make_cases
over_repeats = average_repeats
scores = compute_scores
