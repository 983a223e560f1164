# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The splits of a datalist (training, validation, test): what must lie in one of them only, and how they are made.

Items that belong together, such as the images of a patient, lie in one split only (paper, Section 4.1: split by slide),
so that no result rests on having seen the patient before. The group of an item is its ``group``, else its ``patient``,
else its ``image``, so that the regions of one slide stay together. Nor do two splits share a patient or an image,
whatever the groups say. Names that are likely the same in two spellings are a question to the user, see
:mod:`monai_jsma.datalists.spelling`.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monai_jsma._io import join_few
from monai_jsma.datalists.spelling import (
    Double,
    check_spellings,
    find_doubles,
    find_same_files,
    read_names_as_written,
)

__all__ = [
    "SPLITS",
    "check_copies",
    "check_groups",
    "find_shared",
    "find_spelling_doubles",
    "divide_items",
    "find_splits",
    "group_of",
    "hold_out",
    "list_identities",
    "make_fold_datalists",
    "make_splits",
    "shuffle_labels",
    "split_by_group",
]

Item = dict[str, Any]
Identity = tuple[str, str]  # kind and value, such as ("patient", "P1")

SPLITS = ("training", "validation", "test")

_logger = logging.getLogger(__name__)


def find_splits(content: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The splits of a datalist by name: the usual three, and every other list with an item that has an ``image``."""
    splits = {}
    for name, items in content.items():
        if not isinstance(items, list):
            continue
        have_images = any(isinstance(item, dict) and "image" in item for item in items)
        if name in SPLITS or have_images:
            splits[name] = items
    return splits


# ----------------------------------------------------------------------------------------------------------- identities


def group_of(item: Mapping[str, Any]) -> str:
    """What must lie in one split only: the item's ``group``, else its ``patient``, else its ``image``."""
    for key in ("group", "patient"):
        value = item.get(key)
        if _is_stated(value):
            return str(value)
    return str(item["image"])


def _has_group(item: Mapping[str, Any]) -> bool:
    return _is_stated(item.get("group")) or _is_stated(item.get("patient"))


def _is_stated(value: Any) -> bool:
    return value is not None and value != ""


def list_identities(item: Mapping[str, Any]) -> set[Identity]:
    """All that must lie in one split only: the item's group, patient and image."""
    group = group_of(item)
    image = os.path.normpath(item["image"])
    identities = {("group", group), ("image", image)}
    patient = item.get("patient")
    if _is_stated(patient):
        identities.add(("patient", str(patient)))
    return identities


def find_shared(pairs: Iterable[tuple[str, Identity]]) -> dict[Identity, list[str]]:
    """The identities that lie in more than one split, each with the names of its splits.

    Args:
        pairs: name of a split, and an identity of one of its items.
    """
    splits_of = defaultdict(set)
    for split, identity in pairs:
        splits_of[identity].add(split)

    shared = {}
    for identity, splits in splits_of.items():
        if len(splits) > 1:
            shared[identity] = sorted(splits)
    return shared


def find_spelling_doubles(items: Sequence[Mapping[str, Any]], *, base: Path | None = None) -> list[Double]:
    """The groups, patients and images of items that are likely, or as paths of one file surely, the same.

    Args:
        items: items with ``image``.
        base: folder that relative image paths start at; None if unknown.
    """
    names = set()
    for item in items:
        if not _has_group(item):
            continue  # its group is the image
        for kind, name in list_identities(item):
            if kind != "image":
                names.add((kind, name))
    doubles = find_doubles(names, items, base=base)
    if base is not None:
        same_files = find_same_files([item["image"] for item in items], base)
        doubles += [Double("image", paths) for paths in same_files.values()]
    return sorted(set(doubles))


def check_groups(
    splits: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    base: Path | None = None,
    slide_keys: Mapping[str, str] | None = None,
    names_as_written: bool = False,
) -> None:
    """Check that no group, patient, image or slide lies in two splits, even if the items' groups are smaller.

    Args:
        splits: the items of each split, by its name.
        base: folder that relative image paths start at, to know two paths of one file; None if unknown.
        slide_keys: of images by their path in the items, what all files and copies of their slide have in common.
        names_as_written: whether names that differ in spelling only are different ones, rather than an error.

    Raises:
        ValueError: if one does; it names the first.
    """
    all_items = [item for items in splits.values() for item in items]
    same_files = {} if base is None else find_same_files([item["image"] for item in all_items], base)
    slide_keys = slide_keys or {}
    pairs = []
    for split, items in splits.items():
        for item in items:
            for kind, value in list_identities(item):
                if kind == "image" and value in same_files:
                    value = " = ".join(same_files[value])
                pairs.append((split, (kind, value)))
            if slide_keys.get(item["image"]):
                pairs.append((split, ("slide", slide_keys[item["image"]])))
    shared = find_shared(pairs)
    if shared:
        leaks = set()  # without the kinds: a patient is often the group too
        for (_, value), names in shared.items():
            leaks.add((value, str(names)))
        lines = [f"{value} in {names}" for value, names in sorted(leaks)]
        raise ValueError(f"A group, patient, image or slide must lie in one split only, but found {join_few(lines)}.")

    if not names_as_written:
        doubles = find_spelling_doubles(all_items, base=base)
        check_spellings([double for double in doubles if _is_in_several(double, splits)])


def _is_in_several(double: Double, splits: Mapping[str, Sequence[Mapping[str, Any]]]) -> bool:
    """Whether spellings of a likely double lie in more than one split."""
    num_splits = 0
    for items in splits.values():
        names = {name for item in items for kind, name in list_identities(item) if kind == double.kind}
        if not names.isdisjoint(double.spellings):
            num_splits += 1
    return num_splits > 1


def check_copies(items: Sequence[Item], path: Path) -> None:
    """Check that no image is there under two names, which could come into two splits.

    Args:
        items: items with ``image`` and ``sha256``.
        path: the folder or table that they come from, for the message.

    Raises:
        ValueError: if one is; it names the first.
    """
    names = defaultdict(list)
    for item in items:
        names[item["sha256"]].append(item["image"])

    copies = []
    for same in names.values():
        if len(same) > 1:
            copies.append(" = ".join(same))
    if copies:
        raise ValueError(f"{path}: files of the same image: {join_few(copies)}; keep one of each.")


# ---------------------------------------------------------------------------------------------------------------- folds


def split_by_group(
    items: Sequence[Item],
    folds: int,
    seed: int = 0,
    *,
    min_folds: int = 2,
    base: Path | None = None,
    names_as_written: bool = False,
) -> list[int]:
    """Divide the items into folds of whole groups, with the classes spread as evenly as the groups allow.

    Args:
        items: items with ``image`` and ``label``, of multi-label the list of its classes, and ``group`` or ``patient``
            in all of them or in none.
        folds: number of folds.
        seed: random seed of the division.
        min_folds: smallest number of folds; 3 for :func:`make_splits`.
        base: folder that relative image paths start at, to know two paths of one file; None if unknown.
        names_as_written: whether names that differ in spelling only are different ones, rather than an error.

    Returns:
        the fold of each item, 0 to ``folds - 1``.

    Raises:
        ValueError: if the division cannot be free of leaks: some items have a group and others have none, there are
            fewer groups than folds, a fold is left empty, or names are likely the same in two spellings; also if a
            label is no class, no class has as many items as there are folds, or the seed is negative.
    """
    from sklearn.model_selection import StratifiedGroupKFold  # slow to import, and needed here only

    if not 0 <= seed < 2**32:
        raise ValueError(f"the random seed of a split must be a whole number from 0 below 2**32, but is {seed}.")
    _check_all_or_none_have_a_group(items)
    if not names_as_written:
        check_spellings(find_spelling_doubles(items, base=base))
    groups = [group_of(item) for item in items]
    num_groups = len(set(groups))
    if num_groups < min_folds:
        raise ValueError(f"{num_groups} groups cannot make {min_folds} folds, which are needed: add images of others.")
    if not min_folds <= folds <= num_groups:
        raise ValueError(f"{num_groups} groups cannot make {folds} folds: use {min_folds} to {num_groups}.")

    labels = [_stratum_of(item) for item in items]
    _check_labels(items, folds, min_folds)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    fold_of = [-1] * len(items)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")  # one with fewer items than folds: no leak
        for fold, (_, held_out) in enumerate(splitter.split(labels, labels, groups)):
            for i in held_out:
                fold_of[i] = fold

    for fold in range(folds):
        if fold not in fold_of:
            raise ValueError(f"The {num_groups} groups leave fold {fold} of {folds} empty: use fewer folds.")
    items_of = defaultdict(list)
    for item, fold in zip(items, fold_of, strict=True):
        items_of[str(fold)].append(item)
    check_groups(items_of, base=base, names_as_written=names_as_written)
    return fold_of


def divide_items(
    items: Sequence[Item],
    folds: int,
    seed: int | None = None,
    *,
    min_folds: int = 2,
    base: Path | None = None,
    names_as_written: bool = False,
) -> list[int]:
    """The fold of each item: the one that it states, if they state as many folds as are asked for, else a new one.

    So whoever divides a datalist that was divided already gets folds of the same numbers. Where the stated folds are
    not kept, a warning says why.

    Args:
        items: items with ``image`` and ``label``, with or without ``fold``.
        folds: number of folds.
        seed: random seed of a new division; None keeps the stated folds, or divides by seed 0.
        min_folds: as in :func:`split_by_group`.
        base: as in :func:`split_by_group`.
        names_as_written: as in :func:`split_by_group`.

    Raises:
        ValueError: as :func:`split_by_group`; and if the stated folds share a group, patient or image.
    """
    stated = [item.get("fold") for item in items]
    refusal = _find_fold_refusal(stated, folds, seed)
    if refusal is None:
        fold_of = [int(fold) for fold in stated if fold is not None]
        items_of = defaultdict(list)
        for item, fold in zip(items, fold_of, strict=True):
            items_of[f"fold {fold}"].append(item)
        try:
            check_groups(items_of, base=base, names_as_written=names_as_written)
        except ValueError as error:
            raise ValueError(f"{error} So the items state; give a random seed to divide them anew.") from error
        return fold_of

    if refusal:
        _logger.warning("The folds that the items state are not kept: %s.", refusal)
    return split_by_group(items, folds, seed or 0, min_folds=min_folds, base=base, names_as_written=names_as_written)


def _find_fold_refusal(stated: Sequence[Any], folds: int, seed: int | None) -> str | None:
    """Why the folds that items state are not kept; "" if they state none, None if they are kept."""
    if all(fold is None for fold in stated):
        return ""
    if seed is not None:
        return f"random seed {seed} divides anew"
    num_without = sum(fold is None for fold in stated)
    if num_without:
        return f"{num_without} of {len(stated)} items state none"
    if any(not isinstance(fold, int) or isinstance(fold, bool) for fold in stated):
        return "they are no whole numbers"
    numbers = sorted(set(stated))
    if numbers != list(range(len(numbers))):
        return f"they are {join_few(map(str, numbers))}, not counted from 0"
    if len(numbers) != folds:
        return f"they are {len(numbers)}, but {folds} are asked for"
    return None


def _check_labels(items: Sequence[Item], folds: int, min_folds: int) -> None:
    """Check that the labels are classes, and that the most frequent one can be in every fold."""
    for item in items:
        label = _stratum_of(item)
        if not isinstance(label, (int, str)) or isinstance(label, bool):
            raise ValueError(
                f"{item['image']}: the label {label!r} is no class: folds need whole numbers or names, such as the "
                "labels 0, 1, 2."
            )
    counts = Counter(_stratum_of(item) for item in items)
    most = max(counts.values())
    if most < folds:
        fewer = f"use at most {most} folds, or label more images" if most >= min_folds else "label more images"
        raise ValueError(f"No class has {folds} items for {folds} folds, the most frequent one has {most}: {fewer}.")


def _check_all_or_none_have_a_group(items: Sequence[Item]) -> None:
    without = []
    for item in items:
        if not _has_group(item):
            without.append(item["image"])

    if 0 < len(without) < len(items):
        raise ValueError(
            f"{without[0]} (one of {len(without)} of {len(items)} items) has no group: a patient could lie in two "
            "splits; give a group to all items or to none."
        )


def make_splits(items: Sequence[Item], fold_of: Sequence[int], fold: int) -> dict[str, list[Item]]:
    """Make the three splits of one fold of a cross-validation; every item gets its ``fold``.

    The test split is ``fold``. The validation split is the first fold after it (cyclic) without which every class is
    still left for training. The training split is the rest.

    Args:
        items: all items.
        fold_of: the fold of each item.
        fold: the fold to test on.

    Raises:
        ValueError: if there are fewer than 3 folds, ``fold`` is none of them, or no choice leaves every class.
    """
    folds = max(fold_of) + 1
    if folds < 3 or not 0 <= fold < folds:
        raise ValueError(
            f"fold={fold} of {folds} folds; test, validation and training need at least 3, counted from 0."
        )
    for step in range(1, folds):
        validation = (fold + step) % folds
        splits = _assign(items, fold_of, {validation: "validation", fold: "test"})
        if _classes(splits["training"]) == _classes(items):
            return splits
    raise ValueError(
        f"Testing on fold {fold} of {folds} leaves too few groups to train on every class; use more folds."
    )


def hold_out(items: Sequence[Item], fold_of: Sequence[int], fold: int) -> dict[str, list[Item]]:
    """Take one fold for validation and the others for training; every item gets its ``fold``.

    For data sets that bring a test split of their own.

    Args:
        items: all items.
        fold_of: the fold of each item.
        fold: the fold to validate on.

    Raises:
        ValueError: if ``fold`` is no fold, or the others lack a class.
    """
    folds = max(fold_of) + 1
    if not 0 <= fold < folds:
        raise ValueError(f"fold={fold} of {folds} folds, counted from 0.")
    splits = _assign(items, fold_of, {fold: "validation"})

    lost = _classes(items) - _classes(splits["training"])
    if lost:
        raise ValueError(f"Validating on fold {fold} of {folds} leaves none of class {min(lost)} to train on.")
    return splits


def _assign(items: Sequence[Item], fold_of: Sequence[int], held_out: Mapping[int, str]) -> dict[str, list[Item]]:
    """The items by split: those of a held-out fold in the split that is named for it, the others in training."""
    splits: dict[str, list[Item]] = {"training": []}
    for split in held_out.values():
        splits[split] = []
    for item, fold in zip(items, fold_of, strict=True):
        split = held_out.get(fold, "training")
        splits[split].append({**item, "fold": fold})
    return splits


def _stratum_of(item: Item) -> Any:
    """What the folds are to hold alike: the label; of multi-label all of its classes together, as text."""
    label = item["label"]
    return str(label) if isinstance(label, list) else label


def _classes(items: Iterable[Item]) -> set[Any]:
    """The classes of items; of multi-label all that are present in some."""
    classes: set[Any] = set()
    for item in items:
        label = item["label"]
        classes.update(label if isinstance(label, list) else [label])
    return classes


# ------------------------------------------------------------------------------------------------------ other datalists


def make_fold_datalists(
    content: Mapping[str, Any],
    folds: int,
    seed: int | None = None,
    *,
    validation: bool = True,
    base: Path | None = None,
) -> list[dict[str, Any]]:
    """Make the datalists of a cross-validation: each item is tested once, by a network that never saw its group.

    Args:
        content: a datalist; the labeled items of all its splits are divided into folds, those without a label are left
            out.
        folds: number of folds; at least 3 with a validation split, else 2.
        seed: random seed of the division; None keeps the folds that the items state, if they are as many
            (:func:`divide_items`).
        validation: whether another fold is the validation split, to choose the model by; else all other folds are for
            training.
        base: folder that relative image paths start at, to know two paths of one file; None if unknown.

    Returns:
        one datalist for each fold, which is its test split, with all that ``content`` says of its items, and
        ``settings`` of the division.

    Raises:
        ValueError: if there are no labels, or the groups cannot make the folds; see :func:`split_by_group`.
    """
    splits = find_splits(content)
    items = []
    for of_split in splits.values():
        items += [item for item in of_split if item.get("label") is not None]
    if not items:
        raise ValueError("no item of the datalist has a label: a cross-validation needs them.")

    names_as_written = read_names_as_written(content)
    min_folds = 3 if validation else 2
    fold_of = divide_items(items, folds, seed, min_folds=min_folds, base=base, names_as_written=names_as_written)
    is_kept = seed is None and fold_of == [item.get("fold") for item in items]
    recorded_seed = _find_seed(content) if is_kept else seed or 0
    common = {key: value for key, value in content.items() if key not in splits}
    datalists = []
    for fold in range(folds):
        if validation:
            new_splits = make_splits(items, fold_of, fold)
        else:
            held_out = hold_out(items, fold_of, fold)
            new_splits = {"training": held_out["training"], "test": held_out["validation"]}
        settings = {"folds": folds, "seed": recorded_seed, "fold": fold}
        datalists.append({**common, "settings": settings, **new_splits})
    return datalists


def _find_seed(content: Mapping[str, Any]) -> int:
    """The random seed that a datalist was divided by."""
    settings = content.get("settings")
    seed = settings.get("seed") if isinstance(settings, Mapping) else None
    return seed if isinstance(seed, int) else 0


def shuffle_labels(content: Mapping[str, Any], seed: int = 0) -> dict[str, Any]:
    """Randomly permute the labels within each split: a negative control.

    Each split keeps its images and as many items of each class. A network that learns from such labels is right about
    the true ones as often as chance; one that is better has seen them.

    Args:
        content: a datalist.
        seed: random seed of the permutation.
    """
    splits = find_splits(content)
    usual = [name for name in SPLITS if name in splits]
    others = sorted(splits.keys() - set(SPLITS))
    rng = np.random.default_rng(seed)
    shuffled: dict[str, list[Item]] = {}
    for name in usual + others:  # in an order that does not depend on the file's
        items = splits[name]
        order = rng.permutation(len(items))
        shuffled[name] = []
        for item, source in zip(items, order, strict=True):
            label = items[source].get("label")
            shuffled[name].append({**item, "label": label})
    return {**content, **shuffled}
