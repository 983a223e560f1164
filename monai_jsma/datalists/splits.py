# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Cross-validation by group: stratified folds, and the sides that one fold gives (paper, Section 4.1: split by slide).

A group (patient, else picture) lies in one fold only, so that no result rests on having seen the patient before.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai_jsma._io import few
from monai_jsma.datalists.groups import check_groups, group_of
from monai_jsma.datalists.schema import SIDES

__all__ = ["check_copies", "fold_sides", "hold_out", "split_by_group"]

Item = dict[str, Any]


def check_copies(items: Sequence[Item], path: Path) -> None:
    """Check that no picture is there under two names, which could lie on two sides of a split.

    Args:
        items: with ``image`` and ``sha256``.
        path: the folder or table they come from, for the message.

    Raises:
        ValueError: naming the pictures that are.
    """
    names: dict[str, list[str]] = defaultdict(list)
    for item in items:
        names[item["sha256"]].append(item["image"])
    copies = [" = ".join(same) for same in names.values() if len(same) > 1]
    if copies:
        raise ValueError(f"{path}: files of the same picture: {few(copies)}; keep one of each.")


def split_by_group(items: Sequence[Item], folds: int, seed: int = 0) -> list[int]:
    """Deal the items into folds of whole groups, with the classes spread as evenly as the groups allow.

    Args:
        items: with ``image`` and ``label``, and ``group`` or ``patient`` in all of them or in none.
        folds: their number, at least 2.
        seed: of the order in which groups that are alike are dealt.

    Returns:
        the fold of each item, 0 to ``folds - 1``.

    Raises:
        ValueError: when a split cannot be free of leaks: groups known for a part of the items only, fewer groups than
            folds, or a fold left empty.
    """
    from sklearn.model_selection import StratifiedGroupKFold  # slow to import, and needed here only

    known = [item.get("group", item.get("patient")) not in (None, "") for item in items]
    if any(known) and not all(known):
        raise ValueError(
            f"{items[known.index(False)]['image']} (one of {known.count(False)} of {len(items)} items) has no group: a "
            "patient could lie on two sides; give a group to all items or to none."
        )
    groups = [group_of(item) for item in items]
    if not 2 <= folds <= len(set(groups)):
        raise ValueError(f"{len(set(groups))} groups cannot make {folds} folds: use 2 to {len(set(groups))}.")
    labels = [item["label"] for item in items]
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    fold_of = [-1] * len(items)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")  # one with fewer items than folds: no leak
        for fold, (_, held_out) in enumerate(splitter.split(labels, labels, groups)):
            for i in held_out:
                fold_of[i] = fold
    empty = sorted(set(range(folds)) - set(fold_of))
    if empty:
        raise ValueError(f"The {len(set(groups))} groups leave fold {empty[0]} of {folds} empty: use fewer folds.")
    check_groups({str(f): [x for x, of in zip(items, fold_of) if of == f] for f in range(folds)})
    return fold_of


def fold_sides(items: Sequence[Item], fold_of: Sequence[int], fold: int) -> dict[str, list[Item]]:
    """The sides for one fold of a cross-validation; every item is told its ``fold``.

    The test side is ``fold``. The validation side is the first fold after it (cyclic) without which every class is
    still left for training. The training side is the rest.

    Args:
        items: all items.
        fold_of: the fold of each item.
        fold: the one to test on.

    Raises:
        ValueError: when there are fewer than 3 folds, ``fold`` is none of them, or no choice leaves every class.
    """
    folds = max(fold_of) + 1
    if folds < 3 or not 0 <= fold < folds:
        raise ValueError(
            f"fold={fold} of {folds} folds; test, validation and training need at least 3, counted from 0."
        )
    classes = {item["label"] for item in items}
    for step in range(1, folds):
        held_out = {fold: "test", (fold + step) % folds: "validation"}
        sides: dict[str, list[Item]] = {side: [] for side in SIDES}
        for item, of in zip(items, fold_of):
            sides[held_out.get(of, "training")].append({**item, "fold": of})
        if {item["label"] for item in sides["training"]} == classes:
            return sides
    raise ValueError(
        f"Testing on fold {fold} of {folds} leaves too few groups to train on every class; use more folds."
    )


def hold_out(items: Sequence[Item], fold_of: Sequence[int], fold: int) -> dict[str, list[Item]]:
    """One fold for validation, the others for training; every item is told its ``fold``.

    For data sets that bring a test side of their own.

    Args:
        items: all items.
        fold_of: the fold of each item.
        fold: the one to validate on.

    Raises:
        ValueError: when ``fold`` is no fold, or the others lack a class.
    """
    folds = max(fold_of) + 1
    if not 0 <= fold < folds:
        raise ValueError(f"fold={fold} of {folds} folds, counted from 0.")
    sides: dict[str, list[Item]] = {"training": [], "validation": []}
    for item, of in zip(items, fold_of):
        sides["validation" if of == fold else "training"].append({**item, "fold": of})
    lost = {item["label"] for item in items} - {item["label"] for item in sides["training"]}
    if lost:
        raise ValueError(f"Validating on fold {fold} of {folds} leaves none of class {min(lost)} to train on.")
    return sides
