# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What a network made of each image: records on disk, tables, and numbers that follow from them."""

from __future__ import annotations

from monai_jsma import _moved

from .from_engine import PictureResult, make_record, picture_results
from .log import RecordLog, describe_run
from .measures import mutual_information, predictive_entropy
from .pointing import Pointing, covered_shares, pointing_scores
from .records import PatchRecord, PredictionRecord, read_records
from .tables import failure_table, prediction_table, slide_table

__all__ = [
    "PatchRecord",
    "PictureResult",
    "Pointing",
    "PredictionRecord",
    "RecordLog",
    "covered_shares",
    "describe_run",
    "failure_table",
    "make_record",
    "mutual_information",
    "picture_results",
    "pointing_scores",
    "prediction_table",
    "predictive_entropy",
    "read_records",
    "slide_table",
]

_MOVED = {
    "PredictionSaver": "monai_jsma.handlers.prediction_saver",
}
__getattr__ = _moved.lookup(__name__, _MOVED)
