# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Which of many regions are worth a picture: the wrong ones, the most certain and the most uncertain ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from monai_jsma.predictions.records import PredictionRecord
from monai_jsma.tasks import find_truth_probability

__all__ = ["choose_records"]


def choose_records(records: Sequence[PredictionRecord], number: int | None) -> list[tuple[PredictionRecord, str]]:
    """Choose the records that tell most; wrong, most certain and most uncertain ones take turns.

    Wrong ones are ordered by the probability of the true class, the lowest first; the others by their predictive
    entropy. Of equal ones the first by file and place is taken.

    Args:
        records: records of one run.
        number: how many to choose at most; None: all, in the order of choice.

    Returns:
        Records, each with the reason: ``"wrong"``, ``"most certain"`` or ``"most uncertain"``.
    """
    wrong = [record for record in records if record.is_wrong]
    orders = {
        "wrong": _sort(wrong, _find_true_probability),
        "most certain": _sort(records, lambda record: record.predictive_entropy),
        "most uncertain": _sort(records, lambda record: -record.predictive_entropy),
    }
    limit = len(records) if number is None else min(number, len(records))
    chosen: dict[tuple, tuple[PredictionRecord, str]] = {}
    while len(chosen) < limit:
        for reason, order in orders.items():
            while order and order[-1].key in chosen:
                order.pop()
            if order and len(chosen) < limit:
                record = order.pop()
                chosen[record.key] = (record, reason)
    return list(chosen.values())


def _sort(records: Sequence[PredictionRecord], measure: Callable[[PredictionRecord], float]) -> list[PredictionRecord]:
    """Records by falling measure, so that the least is taken from the end."""
    return sorted(records, key=lambda record: (measure(record), record.key), reverse=True)


def _find_true_probability(record: PredictionRecord) -> float:
    assert record.label is not None
    return find_truth_probability(record.probabilities, record.label)
