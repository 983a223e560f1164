# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What stands above a picture: file, region, classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from monai_jsma.predictions.evidence import Evidence
from monai_jsma.tasks import Label, find_truth_probability

__all__ = ["describe_answer", "describe_count", "describe_place", "name_class"]

_ROUNDING = 1e-3  # by which the sum of probabilities may differ from 1, in half precision


def describe_place(evidence: Evidence) -> str:
    """The file, and where a region begins: ``"b.svs, at row 20, column 30"``."""
    name = Path(evidence.file).name
    if not any(evidence.location):
        return name
    row, col = evidence.location
    return f"{name}, at row {row}, column {col}"


def describe_answer(evidence: Evidence, names: Sequence[str] | None) -> str:
    """True and predicted class, as far as they are known: ``"wrong: true Benign, predicted InSitu (0.87)"``.

    Args:
        evidence: evidence of the image.
        names: names of the classes; None: their indices stand for them.

    Raises:
        ValueError: if a class has no name.
    """
    parts = []
    label = evidence.label
    prediction = evidence.prediction
    if label is not None:
        parts.append(f"true {_name_label(label, names, file=evidence.file)}")
    if prediction is not None:
        predicted = f"predicted {_name_label(prediction, names, file=evidence.file)}"
        probability = _find_probability(evidence)
        parts.append(predicted if probability is None else f"{predicted} ({probability:.2f})")

    text = ", ".join(parts)
    if label is None or prediction is None:
        return text
    verdict = "right" if label == prediction else "wrong"
    return f"{verdict}: {text}"


def _name_label(label: Label, names: Sequence[str] | None, *, file: str) -> str:
    """The name of a class, of multi-label those of all classes."""
    if isinstance(label, int):
        return name_class(label, names, file=file)
    return " + ".join(name_class(index, names, file=file) for index in label) or "none"


def describe_count(number: int, one: str, many: str = "") -> str:
    """A number of things: ``"1 region"``, ``"12 regions"``.

    Args:
        number: how many there are.
        one: what one of them is called.
        many: what several are called; by default with an s.
    """
    return f"{number} {one if number == 1 else many or one + 's'}"


def name_class(index: int, names: Sequence[str] | None, *, file: str) -> str:
    """Name of a class.

    Args:
        index: its index.
        names: names of all classes; None: there are none.
        file: path of the image, for the message.

    Raises:
        ValueError: if there are names, but not for this class.
    """
    if names is None:
        return f"class {index}"
    if not 0 <= index < len(names):
        raise ValueError(f"{file}: class {index} has no name among {list(names)}.")
    return names[index]


def _find_probability(evidence: Evidence) -> float | None:
    """Probability of the predicted label; None if the scores are no probabilities."""
    scores = evidence.scores
    if evidence.thresholds is not None and evidence.prediction is not None:
        return find_truth_probability(np.asarray(scores), evidence.prediction)
    if scores is None or len(scores) < 2 or scores.min() < 0:
        return None
    if not np.isclose(scores.sum(), 1, atol=_ROUNDING):
        return None
    return float(scores.max())
