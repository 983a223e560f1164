# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The datalists of a cross-validation: each labelled picture is tested once, by a network that never saw its group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monai_jsma.datalists.schema import sides_of
from monai_jsma.datalists.splits import fold_sides, hold_out, split_by_group

__all__ = ["cross_validation"]


def cross_validation(
    content: Mapping[str, Any], folds: int, seed: int = 0, *, validation: bool = True
) -> list[dict[str, Any]]:
    """One datalist for each fold, with the fold as its test side.

    Args:
        content: a datalist; the labelled items of all its sides are dealt anew. Items without a label are left out.
        folds: number of folds; at least 3 with a validation side, else 2.
        seed: of the split.
        validation: take another fold for validation, to choose the model by; without, all other folds are for training.

    Returns:
        the datalists, with all that the datalist says of its items, and ``settings`` of the split.

    Raises:
        ValueError: when there are no labels, or the groups cannot make the folds; see
            :func:`~monai_jsma.datalists.splits.split_by_group`.
    """
    items = [item for side in sides_of(content).values() for item in side if item.get("label") is not None]
    if not items:
        raise ValueError("no item of the datalist has a label: a cross-validation needs them.")
    fold_of = split_by_group(items, folds, seed)
    common = {key: value for key, value in content.items() if key not in sides_of(content)}
    made = []
    for fold in range(folds):
        if validation:
            sides = fold_sides(items, fold_of, fold)
        else:
            held_out = hold_out(items, fold_of, fold)
            sides = {"training": held_out["training"], "test": held_out["validation"]}
        made.append({**common, "settings": {"folds": folds, "seed": seed, "fold": fold}, **sides})
    return made
