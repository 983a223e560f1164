# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What is asked of an image: one class of several, one grade of several, or which of several classes are present.

``"multiclass"``: one class; its label is the index of a class, and the predicted class is the most probable one.
``"ordinal"``: as multiclass, but the classes are grades, from the lowest to the highest. ``"multilabel"``: each class
by itself; the label is the indices of the classes that are present, in rising order, and a class is predicted whose
probability reaches its threshold. Only multi-label predictions have thresholds, so that these tell one from the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

__all__ = [
    "MULTICLASS",
    "MULTILABEL",
    "ORDINAL",
    "TASKS",
    "Label",
    "check_task",
    "find_truth_probability",
    "log_odds",
    "make_class_matrix",
    "make_multi_hot",
    "name_label",
    "pick_label",
    "pick_main_class",
    "read_thresholds",
]

MULTICLASS = "multiclass"
ORDINAL = "ordinal"
MULTILABEL = "multilabel"
TASKS = (MULTICLASS, ORDINAL, MULTILABEL)

Label = int | tuple[int, ...]  # the index of a class; of multi-label images those of all classes that are present

_OFFERED = (
    "'multiclass' (one of several classes), 'ordinal' (one of several grades) or 'multilabel' (any number of classes)"
)
_NOT_OFFERED = {
    "survival": "times to an event, some of them censored, need a loss of their own",
    "regression": "measured values need a loss and scores of their own",
}


def check_task(task: str) -> str:
    """The task, if it is one that is offered.

    Raises:
        ValueError: if it is not; survival and regression are named.
    """
    if task in TASKS:
        return task
    if task in _NOT_OFFERED:
        raise ValueError(
            f"task '{task}' is not offered: {_NOT_OFFERED[task]}. Make classes or grades of the values, or choose "
            f"{_OFFERED}."
        )
    raise ValueError(f"unknown task {task!r}; choose {_OFFERED}.")


def read_thresholds(
    task: str, thresholds: float | Sequence[float] | None, num_classes: int
) -> tuple[float, ...] | None:
    """The probability from which each class is predicted as present; None but for multi-label.

    Args:
        task: one of :data:`TASKS`.
        thresholds: one for each class, or one for all; None: 0.5.
        num_classes: number of classes.

    Raises:
        ValueError: if they do not lie between 0 and 1, are not as many as the classes, or the task has none.
    """
    if task != MULTILABEL:
        if thresholds is not None:
            raise ValueError(
                f"thresholds {thresholds!r} are for the task 'multilabel': of '{task}' the most probable class is "
                "predicted. Leave them out."
            )
        return None
    if thresholds is None:
        thresholds = 0.5
    values = [thresholds] * num_classes if isinstance(thresholds, int | float) else list(thresholds)
    are_between = all(0 < float(value) < 1 for value in values)
    if len(values) != num_classes or not are_between:
        raise ValueError(
            f"thresholds {thresholds!r} are not one for all or one for each of {num_classes} classes, between 0 and 1."
        )
    return tuple(float(value) for value in values)


def pick_label(probabilities: ArrayLike, thresholds: Sequence[float] | None = None) -> Label:
    """The label that probabilities predict: the most probable class, or all classes that reach their thresholds.

    Args:
        probabilities: probability of each class ``(classes,)``; of equal ones the first class is taken.
        thresholds: of multi-label, the probability from which each class is present; None: one class is predicted.
    """
    values = np.asarray(probabilities)
    if thresholds is None:
        return int(values.argmax())
    is_present = values >= np.asarray(thresholds)
    return tuple(np.flatnonzero(is_present).tolist())


def pick_main_class(probabilities: ArrayLike, thresholds: Sequence[float] | None = None) -> int | None:
    """The class that stands for a prediction where there is room for one: the most probable of those predicted.

    Args:
        probabilities: probability of each class ``(classes,)``.
        thresholds: see :func:`pick_label`.

    Returns:
        its index; None if multi-label predicts no class.
    """
    label = pick_label(probabilities, thresholds)
    if isinstance(label, int):
        return label
    values = np.asarray(probabilities)
    return max(label, key=lambda index: values[index], default=None)


def find_truth_probability(probabilities: ArrayLike, label: Label) -> float:
    """The probability of a label; of multi-label the product of those of "present" or "absent" of each class.

    Args:
        probabilities: probability of each class ``(classes,)``.
        label: the label.
    """
    values = np.asarray(probabilities)
    if isinstance(label, int):
        return float(values[label])
    is_present = make_multi_hot(label, len(values)) > 0
    return float(np.where(is_present, values, 1 - values).prod())


def name_label(label: Label | None, classes: Sequence[str]) -> str:
    """A label in words: the name of its class, ``"tumor + necrosis"`` of several, ``"none"`` of no class.

    Args:
        label: the label; None gives "".
        classes: names of the classes; without any "" is given.
    """
    if label is None or len(classes) == 0:
        return ""
    if isinstance(label, int):
        return classes[label]
    return " + ".join(classes[index] for index in label) or "none"


def make_class_matrix(labels: Iterable[Label | None], num_classes: int) -> np.ndarray:
    """Whether each label has each class: bool ``(n, classes)``; of None no class."""
    rows = []
    for label in labels:
        row = np.zeros(num_classes, bool)
        if label is not None:
            row[list(label) if isinstance(label, tuple) else label] = True
        rows.append(row)
    return np.array(rows).reshape(-1, num_classes)


def make_multi_hot(label: Sequence[int], num_classes: int) -> np.ndarray:
    """1 for each class that is present, else 0: float32 ``(classes,)``."""
    values = np.zeros(num_classes, np.float32)
    values[list(label)] = 1
    return values


def log_odds(probability: float) -> float:
    """The logit whose sigmoid is a probability between 0 and 1."""
    return math.log(probability) - math.log1p(-probability)
