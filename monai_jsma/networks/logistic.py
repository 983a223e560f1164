# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Logistic regression on bags of features, as a linear classifier: the simplest rival of all that learns."""

from __future__ import annotations

import numpy as np

__all__ = ["fit_logistic"]


def fit_logistic(
    features: np.ndarray, labels: np.ndarray, *, num_classes: int, balanced: bool = True, strength: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Fit a logistic regression on standardized features, and give it as a linear layer on plain ones.

    Args:
        features: one vector for each image ``(n, features)``.
        labels: index of the class of each image ``(n,)``.
        num_classes: number of classes.
        balanced: let every class count the same, however many images it has.
        strength: inverse of the strength of the L2 penalty, scikit-learn's ``C``.

    Returns:
        weight ``(classes, features)`` and bias ``(classes,)``: the softmax of ``features @ weight.T + bias`` has the
        probabilities of scikit-learn's model.

    Raises:
        ValueError: if a class has no image.
    """
    from sklearn.linear_model import LogisticRegression  # slow to import, and needed here only
    from sklearn.preprocessing import StandardScaler

    all_classes = set(range(num_classes))
    missing = sorted(all_classes - set(labels.tolist()))
    if missing:
        raise ValueError(f"no training image has the label {missing[0]}: logistic regression needs every class.")
    scaler = StandardScaler().fit(features)
    class_weight = "balanced" if balanced else None
    model = LogisticRegression(C=strength, class_weight=class_weight, max_iter=10_000, tol=1e-6)
    standardized = scaler.transform(features)
    model.fit(standardized, labels)

    weight = model.coef_ / scaler.scale_
    bias = model.intercept_ - weight @ scaler.mean_
    if num_classes == 2:  # one row, whose sigmoid is the probability of class 1
        half = weight / 2
        half_bias = bias / 2
        weight = np.concatenate((-half, half))
        bias = np.concatenate((-half_bias, half_bias))
    return weight, bias
