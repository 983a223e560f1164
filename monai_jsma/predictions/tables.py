# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Predictions as CSV: one row a region, one row a slide, one row a failure.

Rows, columns, heights and widths are level-0 pixels.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

from monai_jsma._io import csv_text
from monai_jsma.data.prediction_dataset import FailedRegion
from monai_jsma.predictions.records import PredictionRecord

__all__ = ["failure_table", "prediction_table", "slide_table"]


def prediction_table(records: Sequence[PredictionRecord]) -> str:
    """A row a region: its place, label and prediction by name, the probability of each class, the attention's shares.

    Then the number of patches read and the predictive entropy; with draws their number, the mutual information and the
    spread; if certified stopping was asked for, whether it is certified and the intervals.

    Args:
        records: of one run.
    """
    place = ("file", "row", "col", "height", "width", "mpp", "group")
    rows = [
        (r.file, *r.location, *r.size, r.mpp, r.group, *_names(r.classes, r.label, r.prediction), *_numbers([r]))
        for r in records
    ]
    return csv_text((*place, "label", "prediction", *_columns(records)), rows)


def slide_table(
    records: Sequence[PredictionRecord],
    failures: Iterable[FailedRegion],
    labels: Mapping[str, int | None],
    no_tissue: Container[str] = (),
) -> str:
    """A row a slide or picture: how its regions fared, and the means of their numbers.

    Args:
        records: of one run.
        failures: regions that could not be predicted; with one of them the status of a file is "failed".
        labels: of all files, in the order of the rows; None where there is none.
        no_tissue: files of which there was no region to predict.
    """
    of_file: dict[str, list[PredictionRecord]] = defaultdict(list)
    for record in records:
        of_file[record.file].append(record)
    failed = Counter(failure.file for failure in failures)
    classes = records[0].classes if records else ()
    rows = []
    for file, label in labels.items():
        mine, lost = of_file[file], failed[file]
        status = "failed" if lost else "no tissue" if file in no_tissue else "ok"
        means = _numbers(mine) if mine else [""] * len(_columns(records))
        prediction = means[: len(classes)].index(max(means[: len(classes)])) if mine else None
        rows.append((file, len(mine), lost, status, *_names(classes, label, prediction), *means))
    return csv_text(("file", "regions", "failed", "status", "label", "prediction", *_columns(records)), rows)


def failure_table(failures: Iterable[FailedRegion]) -> str:
    """A row a failure: file, row, column and reason."""
    return csv_text(FailedRegion._fields, [(*failure[:3], " ".join(failure.reason.split())) for failure in failures])


def _columns(records: Sequence[PredictionRecord]) -> list[str]:
    if not records:
        return []
    classes, shares = records[0].classes, records[0].shares
    columns = [f"probability_{name}" for name in classes] + [f"share_{name}" for name in shares]
    columns += ["patches_read", "predictive_entropy"]
    if records[0].draws:
        columns += ["draws", "mutual_information", *(f"spread_{name}" for name in classes)]
    if records[0].intervals is not None:
        columns += ["certified", *(f"{end}_{name}" for name in classes for end in ("low", "high"))]
    return columns


def _numbers(records: Sequence[PredictionRecord]) -> list[Any]:
    """Means of what :func:`_columns` names. Those of the intervals' ends are an interval of the mean probability."""
    values = zip(*(map(float, _values(record)) for record in records))
    return [float(f"{math.fsum(column) / len(records):.9g}") for column in values]


def _values(record: PredictionRecord) -> tuple[float, ...]:
    values = (*record.probabilities, *record.shares.values(), record.patches_read, record.predictive_entropy)
    if record.mutual_information is not None and record.spread is not None:
        values += (record.draws, record.mutual_information, *record.spread)
    if record.intervals is not None:
        values += (bool(record.certified), *(end for interval in record.intervals for end in interval))
    return values


def _names(classes: Sequence[str], label: int | None, prediction: int | None) -> list[str]:
    return ["" if index is None or not classes else classes[index] for index in (label, prediction)]
