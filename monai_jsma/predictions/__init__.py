# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What a network made of each image: evidence, records on disk, tables, and numbers that follow from them."""

from __future__ import annotations

from monai_jsma import _moved

from .evidence import Evidence, InnerPatch, SeenRegion
from .from_engine import collect_evidence
from .log import RecordLog, describe_run
from .measures import (
    Pointing,
    covered_shares,
    magnification_shares,
    mutual_information,
    pointing_scores,
    predictive_entropy,
    prior_shares,
)
from .records import PatchRecord, PredictionRecord, make_record, read_records
from .tables import failure_table, patient_table, prediction_table, slide_table

__all__ = [
    "Evidence",
    "InnerPatch",
    "PatchRecord",
    "Pointing",
    "PredictionRecord",
    "RecordLog",
    "SeenRegion",
    "collect_evidence",
    "covered_shares",
    "describe_run",
    "failure_table",
    "magnification_shares",
    "make_record",
    "mutual_information",
    "patient_table",
    "pointing_scores",
    "prediction_table",
    "predictive_entropy",
    "prior_shares",
    "read_records",
    "slide_table",
]

_MOVED = {
    "PictureResult": "monai_jsma.predictions.evidence:Evidence",
    "PredictionSaver": "monai_jsma.handlers.prediction_saver",
    "picture_results": "monai_jsma.predictions.from_engine:collect_evidence",
}
__getattr__ = _moved.lookup(__name__, _MOVED)
