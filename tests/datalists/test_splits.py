# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Folds never divide a group, and the splits of a fold leave every class for training."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_jsma.datalists.splits import (
    check_copies,
    check_groups,
    group_of,
    hold_out,
    make_splits,
    split_by_group,
)


def cohort(patients: int, tiles: int, classes: int) -> list[dict]:
    """Every patient has ``tiles`` pictures of one class."""
    return [
        {"image": f"{p}_{t}.png", "label": p % classes, "group": f"P{p}"} for p in range(patients) for t in range(tiles)
    ]


def test_folds_are_whole_groups_with_every_class():
    items = cohort(20, 3, 4)
    fold_of = split_by_group(items, 5)
    for fold in range(5):
        held_out = [item for item, of in zip(items, fold_of) if of == fold]
        assert Counter(item["label"] for item in held_out) == dict.fromkeys(range(4), 3)
    assert len({(item["group"], of) for item, of in zip(items, fold_of)}) == 20


def test_the_seed_decides():
    items = cohort(20, 1, 2)
    assert split_by_group(items, 4, seed=1) == split_by_group(items, 4, seed=1)
    assert len({tuple(split_by_group(items, 4, seed=s)) for s in range(4)}) > 1


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 2)), min_size=4, max_size=40), st.integers(2, 5))
@settings(max_examples=50, deadline=None)
def test_no_split_leaks(rows, folds):
    items = [{"image": str(i), "label": label, "patient": f"P{patient}"} for i, (patient, label) in enumerate(rows)]
    try:
        fold_of = split_by_group(items, folds)
    except ValueError:
        return  # refused: too few groups, or too few pictures of every class
    check_groups({str(f): [item for item, of in zip(items, fold_of) if of == f] for f in range(folds)})
    assert set(fold_of) == set(range(folds))


def test_without_groups_the_regions_of_one_slide_stay_together():
    items = [{"image": f"{i // 3}.svs", "label": i % 2, "location": [i, 0]} for i in range(18)]
    fold_of = split_by_group(items, 3)
    assert all(len(set(fold_of[i : i + 3])) == 1 for i in range(0, 18, 3))


def test_a_group_for_a_part_of_the_items_is_refused():
    items = cohort(6, 2, 2)
    del items[3]["group"]
    with pytest.raises(ValueError, match=r"1_1\.png \(one of 1 of 12 items\) has no group"):
        split_by_group(items, 3)


@pytest.mark.parametrize("folds", [1, 7])
def test_wrong_number_of_folds(folds):
    with pytest.raises(ValueError, match=rf"6 groups cannot make {folds} folds: use 2 to 6"):
        split_by_group(cohort(6, 2, 2), folds)


def test_splits_of_a_fold():
    items = cohort(12, 2, 2)
    fold_of = split_by_group(items, 3)
    for fold in range(3):
        splits = make_splits(items, fold_of, fold)
        check_groups(splits)
        assert sorted(item["image"] for split in splits.values() for item in split) == sorted(i["image"] for i in items)
        assert {item["fold"] for item in splits["test"]} == {fold}
        assert {item["fold"] for item in splits["validation"]} == {(fold + 1) % 3}
    assert all("fold" not in item for item in items)  # the caller's items are left alone


def test_validation_skips_a_fold_that_training_needs():
    items = [{"image": str(i), "label": label} for i, label in enumerate((0, 1, 0, 1, 0))]
    fold_of = [0, 1, 2, 1, 3]  # only fold 1 has class 1
    splits = make_splits(items, fold_of, 0)
    assert {item["fold"] for item in splits["validation"]} == {2}
    with pytest.raises(ValueError, match="Testing on fold 1 of 4 leaves too few groups to train on every class"):
        make_splits(items, fold_of, 1)


@pytest.mark.parametrize(("fold_of", "fold"), [([0, 1], 0), ([0, 1, 2], 3), ([0, 1, 2], -1)])
def test_no_such_fold(fold_of, fold):
    items = [{"image": str(i), "label": 0} for i in range(len(fold_of))]
    with pytest.raises(ValueError, match=rf"fold={fold} of {max(fold_of) + 1} folds"):
        make_splits(items, fold_of, fold)


def test_group_of_is_what_is_kept_together():
    items = [{"image": f"{i}.png", "label": i % 2, "patient": f"P{i // 2}"} for i in range(12)]
    fold_of = split_by_group(items, 3)
    assert len({(group_of(item), of) for item, of in zip(items, fold_of)}) == 6


def test_hold_out_one_fold_for_validation():
    items = cohort(12, 2, 2)
    fold_of = split_by_group(items, 3)
    for fold in range(3):
        splits = hold_out(items, fold_of, fold)
        check_groups(splits)
        assert {item["fold"] for item in splits["validation"]} == {fold}
        assert {item["fold"] for item in splits["training"]} == {0, 1, 2} - {fold}
        assert sum(map(len, splits.values())) == len(items)
    assert all("fold" not in item for item in items)
    with pytest.raises(ValueError, match="fold=3 of 3 folds"):
        hold_out(items, fold_of, 3)


def test_hold_out_leaves_every_class_for_training():
    items = [{"image": str(i), "label": label} for i, label in enumerate((0, 1, 0))]
    with pytest.raises(ValueError, match="Validating on fold 1 of 2 leaves none of class 1 to train on"):
        hold_out(items, [0, 1, 0], 1)


def test_copies_are_named():
    items = [{"image": name, "sha256": sha} for name, sha in (("a", "1"), ("b", "2"), ("c", "1"))]
    check_copies(items[:2], Path("table.csv"))
    with pytest.raises(ValueError, match=r"table\.csv: files of the same image: a = c; keep one of each"):
        check_copies(items, Path("table.csv"))


@pytest.mark.parametrize(
    ("labels", "folds", "message"),
    [
        ([0, 1, 2, 3], 3, "No class has 3 items for 3 folds, the most frequent one has 1: label more images"),
        ([0, 0, 1, 1], 4, "No class has 4 items for 4 folds, the most frequent one has 2: use at most 2 folds"),
        ([0.5, 1.5, 0.5, 1.5], 2, "0.png: the label 0.5 is no class: folds need whole numbers or names"),
        ([True, False, True, False], 2, "0.png: the label True is no class"),
    ],
)
def test_labels_that_make_no_folds_are_named(labels, folds, message):
    items = [{"image": f"{i}.png", "label": label} for i, label in enumerate(labels)]
    with pytest.raises(ValueError, match=re.escape(message)):
        split_by_group(items, folds)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_is_named(seed):
    items = [{"image": f"{i}.png", "label": i % 2} for i in range(4)]
    with pytest.raises(ValueError, match=rf"from 0 below 2\*\*32, but is {seed}"):
        split_by_group(items, 2, seed)
