# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The datalists of a cross-validation, and of the control with permuted labels."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from monai_jsma.datalists.splits import make_fold_datalists, make_splits, shuffle_labels, split_by_group

SPLITS = ("training", "validation", "test")


def datalist(patients: int = 6, each: int = 3, **more):
    items = [
        {"image": f"{p}_{i}.png", "label": i % 3, "patient": f"P{p}", "sha256": f"{p}{i}"}
        for p in range(patients)
        for i in range(each)
    ]
    return {"labels": {"0": "a", "1": "b", "2": "c"}, "mpp": 0.5, "training": items[:9], "test": items[9:], **more}


def test_each_picture_is_tested_once_and_its_patient_never_seen():
    content = datalist()
    folds = make_fold_datalists(content, 3)
    assert len(folds) == 3
    tested = [item["image"] for fold in folds for item in fold["test"]]
    assert sorted(tested) == sorted(item["image"] for item in content["training"] + content["test"])
    for number, fold in enumerate(folds):
        patients = [{item["patient"] for item in fold[split]} for split in SPLITS]
        assert sum(map(len, patients)) == len(set.union(*patients)) == 6
        assert sum(len(fold[split]) for split in SPLITS) == 18
        assert (fold["labels"], fold["mpp"]) == (content["labels"], 0.5)
        assert fold["settings"] == {"folds": 3, "seed": 0, "fold": number}
        assert all(item["sha256"] for item in fold["test"])


def test_the_seed_deals_and_deals_the_same_twice():
    dealt = [json.dumps(make_fold_datalists(datalist(12), 4, seed)) for seed in (0, 0, 1)]
    assert dealt[0] == dealt[1] != dealt[2]


def stating(folds, **more):
    """A datalist whose items state folds, of patients in an order that no seed gives."""
    content = datalist(6, **more)
    for item in content["training"] + content["test"]:
        item["fold"] = int(item["patient"][1:]) % folds
    return content


def test_stated_folds_are_kept_with_their_numbers(caplog):
    content = stating(3, settings={"seed": 7})
    divided = make_fold_datalists(content, 3)
    for number, fold in enumerate(divided):
        assert {item["patient"] for item in fold["test"]} == {f"P{number}", f"P{number + 3}"}
        assert fold["settings"] == {"folds": 3, "seed": 7, "fold": number}
    assert make_fold_datalists(content, 3, 7) != divided
    assert [record.message for record in caplog.records] == [
        "The folds that the items state are not kept: random seed 7 divides anew."
    ]


@pytest.mark.parametrize(
    ("change", "folds", "reason"),
    [
        ({}, 4, "they are 3, but 4 are asked for"),
        ({0: None}, 3, "1 of 18 items state none"),
        ({0: "1"}, 3, "they are no whole numbers"),
        ({0: 5}, 3, "they are 0, 1, 2, ... (4 in all), not counted from 0"),
    ],
)
def test_why_stated_folds_are_not_kept_is_told(caplog, change, folds, reason):
    content = stating(3, settings={"seed": 7})
    for index, fold in change.items():
        content["training"][index]["fold"] = fold
    divided = make_fold_datalists(content, folds)
    assert [record.message for record in caplog.records] == [f"The folds that the items state are not kept: {reason}."]
    plain = datalist(6, settings={"seed": 7})
    assert divided == make_fold_datalists(plain, folds)


def test_stated_folds_that_leak_are_an_error():
    content = stating(3)
    content["training"][0]["fold"] = 1  # another one of P0 is in fold 0
    with pytest.raises(
        ValueError, match=r"found P0 in \['fold 0', 'fold 1'\].* give a random seed to divide them anew"
    ):
        make_fold_datalists(content, 3)


def test_folds_of_a_prepared_folder_and_of_no_folds_are_the_same():
    """What ``prepare folder`` divided with seed 0 is what ``crossval`` gives, whoever numbers the folds."""
    plain = datalist(12)
    items = plain["training"] + plain["test"]
    fold_of = split_by_group(items, 4)
    prepared = {**plain, **make_splits(items, fold_of, 1), "settings": {"seed": 0}}
    kept = make_fold_datalists(prepared, 4)
    for number, fold in enumerate(make_fold_datalists(plain, 4)):
        tested = [sorted(item["image"] for item in of["test"]) for of in (fold, kept[number])]
        assert tested[0] == tested[1]


def test_what_has_no_label_is_left_out():
    unlabelled = [{"image": "x.png", "patient": "P9"}]
    folds = make_fold_datalists(datalist(unknown=unlabelled), 3)
    assert "unknown" not in folds[0]
    assert "x.png" not in json.dumps(folds)
    with pytest.raises(ValueError, match="no item of the datalist has a label"):
        make_fold_datalists({"test": unlabelled}, 3)


def test_a_patient_in_two_groups_is_an_error():
    content = datalist()
    for i, item in enumerate(content["training"] + content["test"]):
        item["group"] = f"slide {i}"
    with pytest.raises(ValueError, match=r"must lie in one split only, but found P0"):
        make_fold_datalists(content, 3)


def test_too_few_groups_are_an_error():
    with pytest.raises(ValueError, match="6 groups cannot make 7 folds"):
        make_fold_datalists(datalist(), 7)
    with pytest.raises(ValueError, match="6 groups cannot make 2 folds: use 3 to 6"):
        make_fold_datalists(datalist(), 2)


def test_without_validation_all_other_folds_are_for_training():
    for number, fold in enumerate(make_fold_datalists(datalist(4), 2, validation=False)):
        assert set(fold) >= {"training", "test"}
        assert "validation" not in fold
        assert len(fold["training"]) + len(fold["test"]) == 12
        assert fold["settings"]["fold"] == number


def test_labels_are_dealt_among_the_pictures_of_a_side():
    splits = ("training", "validation", "more")
    content = {"labels": {}, **{s: [{"image": f"{s}{i}", "label": i % 4} for i in range(40)] for s in splits}}
    found = shuffle_labels(content, seed=0)
    assert found.keys() == content.keys()
    for split in splits:
        labels = [item["label"] for item in found[split]]
        assert [item["image"] for item in found[split]] == [item["image"] for item in content[split]]
        assert Counter(labels) == {0: 10, 1: 10, 2: 10, 3: 10}
        assert sum(a == i % 4 for i, a in enumerate(labels)) < 20  # 10 by chance
    assert len({tuple(item["label"] for item in found[split]) for split in splits}) == 3
    assert shuffle_labels(dict(reversed(content.items())), seed=0) == found  # a saved datalist sorts its keys
    assert shuffle_labels(content, seed=1) != found
