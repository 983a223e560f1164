# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""One row for each slide or image, and for each patient: what was predicted, how sure, and what was read for it.

A network that zooms says what it looked into at each stage. Rows are in the order of their uncertainty, so that those
which a person should look at come first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from monai_jsma._io import format_csv
from monai_jsma.predictions.measures import predictive_entropy
from monai_jsma.predictions.records import PredictionRecord
from monai_jsma.report.zoomed_slides import measure_stages
from monai_jsma.tasks import name_label, pick_label

__all__ = ["describe_patients", "describe_slides", "format_rows"]


def describe_slides(records: Sequence[PredictionRecord]) -> list[dict[str, Any]]:
    """One row for each file, the least certain first.

    Args:
        records: records of one run; those of one file are its regions, whose probabilities are averaged.

    Returns:
        Rows with ``name``, ``group``, numbers of ``files`` and ``regions``, ``label`` (None if there is none, or
        regions differ), ``prediction``, the highest ``probability``, the ``entropy`` of the mean probabilities, the
        number of patches ``read``; of the regions that stopped by themselves the number ``asked``, of ``certified``
        ones and the least ``confidence``; ``stages`` of a zoom, see
        :func:`~monai_jsma.report.zoomed_slides.measure_stages`, else none.
    """
    regions: dict[str, list[PredictionRecord]] = defaultdict(list)
    for record in records:
        regions[record.file].append(record)
    rows = []
    for file, of_file in regions.items():
        rows.append(_describe(file, [of_file]))
    return _sort_rows(rows)


def describe_patients(records: Sequence[PredictionRecord]) -> list[dict[str, Any]]:
    """One row for each group of files, as :func:`describe_slides`; none if no group has several files.

    A file of many regions counts as much as one of few.
    """
    files: dict[str, dict[str, list[PredictionRecord]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        files[record.group][record.file].append(record)
    most_files = max(map(len, files.values()))
    if most_files == 1:
        return []
    rows = []
    for group, of_group in files.items():
        rows.append(_describe(group, list(of_group.values())))
    return _sort_rows(rows)


def format_rows(rows: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> str:
    """The rows as CSV, for a spreadsheet.

    Args:
        rows: rows of slides or of patients.
        classes: name of each class.
    """
    depth = max(len(row["stages"]) for row in rows)
    header = list(_COLUMNS)
    for stage in range(1, depth + 1):
        header += [f"stage_{stage}_{name}" for name in _STAGE_COLUMNS]

    table = []
    for row in rows:
        named = dict(row)
        named["label"] = name_label(row["label"], classes)
        named["prediction"] = name_label(row["prediction"], classes)
        if not row["asked"]:
            named["certified"] = named["asked"] = None
        line = [named[column] for column in _COLUMNS]
        for stage in row["stages"]:
            line += [stage[name] for name in _STAGE_COLUMNS]
        missing = len(header) - len(line)
        table.append([*line, *[None] * missing])
    return format_csv(header, table)


_COLUMNS = (
    "name", "group", "files", "regions", "label", "prediction", "probability", "entropy", "read", "certified", "asked",
    "confidence",
)  # fmt: skip
_STAGE_COLUMNS = ("regions", "looked_at", "share")


def _describe(name: str, regions_of_files: Sequence[Sequence[PredictionRecord]]) -> dict[str, Any]:
    """The row of some files, whose means count equally."""
    records: list[PredictionRecord] = []
    means = []
    for regions in regions_of_files:
        records += regions
        of_file = [record.probabilities for record in regions]
        means.append(np.mean(of_file, axis=0))

    probabilities = np.mean(means, axis=0)
    labels = {record.label for record in records}
    thresholds = records[0].thresholds
    read = [record.patches_read for record in records]
    return {
        "name": name,
        "group": records[0].group,
        "files": len(regions_of_files),
        "regions": len(records),
        "label": labels.pop() if len(labels) == 1 else None,
        "prediction": pick_label(probabilities, thresholds),
        "probability": float(probabilities.max()),
        "entropy": float(predictive_entropy(probabilities, multi_label=thresholds is not None)),
        "read": sum(read),
        **_describe_certainty(records),
        "stages": measure_stages(records),
    }


def _describe_certainty(records: Sequence[PredictionRecord]) -> dict[str, Any]:
    answers = [record.certified for record in records if record.certified is not None]
    confidences = [record.confidence for record in records if record.confidence is not None]
    return {
        "asked": len(answers),
        "certified": sum(answers),
        "confidence": min(confidences, default=None),
    }


def _sort_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: (-row["entropy"], row["name"]))
