# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Predictions as CSV: one row for each region, for each slide, for each group, and for each failure.

Rows, columns, heights and widths are level-0 pixels.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

from monai_jsma._io import Fault, format_csv
from monai_jsma.predictions.records import PredictionRecord
from monai_jsma.tasks import Label, name_label, pick_label

__all__ = ["failure_table", "patient_table", "prediction_table", "slide_table"]

_PLACE = ("file", "row", "col", "height", "width", "mpp", "group")
_SLIDE = ("file", "regions", "failed", "status")
_PATIENT = ("group", "files", "regions", "status")
_CLASSES = ("label", "prediction")


def prediction_table(records: Sequence[PredictionRecord]) -> str:
    """One row for each region: its place, label and prediction by name, and its numbers.

    The numbers are the probability of each class, the attention's share of each magnification, the number of patches
    read and the predictive entropy; with repeated draws their number, the mutual information and the spread; with
    certified stopping whether the prediction is certified, and the intervals or the confidence.

    Args:
        records: records of one run.
    """
    rows = []
    for record in records:
        row = [
            record.file,
            *record.location,
            *record.size,
            record.mpp,
            record.group,
            name_label(record.label, record.classes),
            name_label(record.prediction, record.classes),
            *_mean_numbers([record]),
        ]
        rows.append(row)
    columns = _number_columns(records)
    return format_csv((*_PLACE, *_CLASSES, *columns), rows)


def slide_table(
    records: Sequence[PredictionRecord],
    failures: Iterable[Fault],
    labels: Mapping[str, Label | None],
    *,
    no_tissue: Container[str] = (),
) -> str:
    """One row for each slide or image: the status of its regions, and the means of their numbers.

    Args:
        records: records of one run.
        failures: regions that could not be predicted; with one of them the status of a file is "failed".
        labels: label of each file, in the order of the rows; None where there is none.
        no_tissue: files of which there was no region to predict.
    """
    records_of: dict[str, list[PredictionRecord]] = defaultdict(list)
    for record in records:
        records_of[record.file].append(record)
    num_failures = Counter(failure.where for failure in failures)
    classes = records[0].classes if records else ()
    columns = _number_columns(records)

    rows = []
    for file, label in labels.items():
        regions = records_of[file]
        status = "ok"
        if num_failures[file]:
            status = "failed"
        elif file in no_tissue:
            status = "no tissue"
        prediction: Label | None = None
        means: Sequence[Any] = [""] * len(columns)
        if regions:
            means = _mean_numbers(regions)
            prediction = pick_label(means[: len(classes)], regions[0].thresholds)
        row = [
            file,
            len(regions),
            num_failures[file],
            status,
            name_label(label, classes),
            name_label(prediction, classes),
            *means,
        ]
        rows.append(row)
    return format_csv((*_SLIDE, *_CLASSES, *columns), rows)


def patient_table(
    records: Sequence[PredictionRecord],
    failures: Iterable[Fault],
    groups: Mapping[str, Mapping[str, Label | None]],
) -> str:
    """One row for each group of the datalist, such as a patient: the means of the numbers of its files.

    A file of many regions counts as much as one of few.

    Args:
        records: records of one run.
        failures: regions that could not be predicted; with one of them in its files the status of a group is "failed".
        groups: for each group, in the order of the rows, the label of each of its files; None where there is none.
    """
    records_of: dict[tuple[str, str], list[PredictionRecord]] = defaultdict(list)
    for record in records:
        records_of[record.group, record.file].append(record)
    failed = {failure.where for failure in failures}
    classes = records[0].classes if records else ()
    columns = _number_columns(records)

    rows = []
    for group, labels in groups.items():
        predicted = [records_of[group, file] for file in labels if (group, file) in records_of]
        status = "ok" if predicted else "no tissue"
        if not failed.isdisjoint(labels):
            status = "failed"
        prediction: Label | None = None
        means: Sequence[Any] = [""] * len(columns)
        if predicted:
            means = _average([_mean_numbers(regions) for regions in predicted])
            prediction = pick_label(means[: len(classes)], predicted[0][0].thresholds)
        different = set(labels.values())
        label = different.pop() if len(different) == 1 else None
        row = [
            group,
            len(labels),
            sum(len(regions) for regions in predicted),
            status,
            name_label(label, classes),
            name_label(prediction, classes),
            *means,
        ]
        rows.append(row)
    return format_csv((*_PATIENT, *_CLASSES, *columns), rows)


def failure_table(failures: Iterable[Fault]) -> str:
    """One row for each failure: file, row, column and reason."""
    rows = []
    for failure in failures:
        row, col = failure.location
        rows.append((failure.where, row, col, failure.line))
    return format_csv(("file", "row", "col", "reason"), rows)


def _number_columns(records: Sequence[PredictionRecord]) -> list[str]:
    """Names of the numbers of a run's records."""
    if not records:
        return []
    first = records[0]
    columns = [f"probability_{name}" for name in first.classes]
    columns += [f"share_{name}" for name in first.shares]
    columns += ["patches_read", "predictive_entropy"]
    if first.draws:
        columns += ["draws", "mutual_information"]
        columns += [f"spread_{name}" for name in first.classes]
    if first.intervals is not None:
        columns.append("certified")
        for name in first.classes:
            columns += [f"low_{name}", f"high_{name}"]
    if first.confidence is not None:
        columns += ["certified", "confidence"]
    return columns


def _numbers(record: PredictionRecord) -> list[float]:
    """The numbers of one record, in the order of :func:`_number_columns`."""
    numbers: list[float] = []
    numbers += record.probabilities
    numbers += record.shares.values()
    numbers.append(record.patches_read)
    numbers.append(record.predictive_entropy)
    information = record.mutual_information
    if information is not None:
        numbers += [record.draws, information]
        numbers += record.spread or ()
    if record.intervals is not None:
        numbers.append(bool(record.certified))
        for interval in record.intervals:
            numbers += interval
    if record.confidence is not None:
        numbers += [bool(record.certified), record.confidence]
    return [float(number) for number in numbers]


def _mean_numbers(records: Sequence[PredictionRecord]) -> list[float]:
    """Means of the numbers of some records; those of the intervals' bounds bound the mean probability."""
    return _average([_numbers(record) for record in records])


def _average(rows: Sequence[Sequence[float]]) -> list[float]:
    """Mean of each column."""
    means = []
    for column in zip(*rows):
        mean = math.fsum(column) / len(rows)
        means.append(float(f"{mean:.9g}"))
    return means
