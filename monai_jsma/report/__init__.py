# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Reports: scores with intervals, curves, calibration, attention and the worst errors, from prediction records."""

from monai_jsma.report.evaluate import evaluate
from monai_jsma.report.repeats import over_repeats
from monai_jsma.report.runs import Run, read_runs
from monai_jsma.report.scored import Scored, Settings
from monai_jsma.report.scores import scores
from monai_jsma.report.units import make_units
from monai_jsma.report.write import write_report

__all__ = ["Run", "Scored", "Settings", "evaluate", "make_units", "over_repeats", "read_runs", "scores", "write_report"]
