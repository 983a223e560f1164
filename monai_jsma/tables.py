# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Predictions as CSV: one row a region, one row a slide, one row a failure.

Rows, columns, heights and widths are level-0 pixels.
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

from monai_jsma.data.failures import FailedRegion
from monai_jsma.records import PredictionRecord

__all__ = ["failure_table", "prediction_table", "slide_table"]


def prediction_table(records: Sequence[PredictionRecord]) -> str:
    """A row a region: its place, label and prediction by name, the probability of each class, the attention's shares.

    Args:
        records: of one run.
    """
    place = ("file", "row", "col", "height", "width", "mpp", "group")
    rows = [
        (r.file, *r.location, *r.size, r.mpp, r.group, *_names(r.classes, r.label, r.prediction), *_numbers([r]))
        for r in records
    ]
    return _csv((*place, "label", "prediction", *_columns(records)), rows)


def slide_table(
    records: Sequence[PredictionRecord],
    failures: Iterable[FailedRegion],
    labels: Mapping[str, int | None],
    no_tissue: Container[str] = (),
) -> str:
    """A row a slide or picture: how its regions fared, and the means of their probabilities and shares.

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
    return _csv(("file", "regions", "failed", "status", "label", "prediction", *_columns(records)), rows)


def failure_table(failures: Iterable[FailedRegion]) -> str:
    """A row a failure: file, row, column and reason."""
    return _csv(FailedRegion._fields, [(*failure[:3], " ".join(failure.reason.split())) for failure in failures])


def _columns(records: Sequence[PredictionRecord]) -> list[str]:
    if not records:
        return []
    return [f"probability_{name}" for name in records[0].classes] + [f"share_{name}" for name in records[0].shares]


def _numbers(records: Sequence[PredictionRecord]) -> list[Any]:
    """Means of the probabilities and of the shares."""
    values = zip(*((*r.probabilities, *r.shares.values()) for r in records))
    return [float(f"{math.fsum(column) / len(records):.9g}") for column in values]


def _names(classes: Sequence[str], label: int | None, prediction: int | None) -> list[str]:
    return ["" if index is None or not classes else classes[index] for index in (label, prediction)]


def _csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(header)
    table.writerows(rows)
    return text.getvalue().encode("utf-8", "backslashreplace").decode()  # a path may hold what is no UTF-8
