# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Datalists: JSON files that name the images, labels and groups of each split.

The top level holds the splits (``training``, ``validation``, ``test``), each a list of items, and what is common to
all: ``labels`` (the name of each class), ``mpp`` (um per pixel of level 0), ``mpp_source``, ``names_as_written``
(whether names that differ in spelling only are different ones) and ``task`` (:mod:`monai_jsma.tasks`). An item holds
``image`` (a path relative to a base folder), ``label`` (the number of a class; of multi-label the list of the numbers
of all classes that are present, rising, ``[]`` for none) and, as needed, ``group`` or ``patient``, ``location`` (row,
column) with ``size`` (height, width) in level-0 pixels, ``mpp``, ``mask`` (a path, and ``mask_frame``, see
:mod:`monai_jsma.datalists.given_tissue`) and ``sha256``; other keys are kept.

No group, patient or image lies in two splits, see :mod:`monai_jsma.datalists.splits`.

The checks are written by hand, without a validation library: every message names file, split, item and way out, and
reading a datalist to print ``--help`` or a table needs no further package.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_jsma._io import join_few, read_text, write_whole
from monai_jsma.datalists.spelling import read_names_as_written
from monai_jsma.datalists.splits import SPLITS, Item, check_groups, find_splits
from monai_jsma.geometry import check_region
from monai_jsma.slides.base import SlideInfo
from monai_jsma.slides.early_ends import log_early_ends
from monai_jsma.slides.errors import SlideError
from monai_jsma.slides.frame import check_frame
from monai_jsma.slides.identity import find_slide_key, list_slide_files, may_be_several_files
from monai_jsma.tasks import MULTICLASS, MULTILABEL, check_task

__all__ = [
    "Datalist",
    "check_is_list",
    "check_items",
    "check_mpp",
    "class_names",
    "find_class_fault",
    "find_item_faults",
    "find_labels_fault",
    "find_location_and_size",
    "find_monai_fault",
    "find_region",
    "find_task",
    "load_datalist",
    "make_items",
    "read_datalist",
    "resolve_item",
    "save_datalist",
]

Pair = Sequence[int]  # (row, column) or (height, width)
_MONAI_KEYS = ("level", "patch_level", "patch_size", "center_location")  # of items of PatchWSIDataset


# ----------------------------------------------------------------------------------------------------- reading, writing


class Datalist(list[Item]):
    """The items of one split of a datalist.

    Args:
        items: the items.
        path: path of the JSON file that they are from.
    """

    def __init__(self, items: Iterable[Item], path: str) -> None:
        super().__init__(items)
        self.path = path

    def __reduce__(self) -> tuple[type[Datalist], tuple[list[Item], str]]:
        return type(self), (list(self), self.path)


def read_datalist(path: str | Path) -> dict[str, Any]:
    """Read the content of a datalist, unchecked.

    Args:
        path: path of the JSON file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no JSON object in UTF-8, or has a name twice.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path}: this is a folder; name the datalist in it, such as {path / 'datalist.json'}.")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such datalist.")
    text = read_text(path, "a JSON file")
    try:
        content = json.loads(text, object_pairs_hook=_make_object)
    except ValueError as error:
        raise ValueError(f"{path}: not a JSON file: {error}.") from error
    except RecursionError as error:
        raise ValueError(f"{path}: not a datalist: its lists lie too deep in each other.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a datalist is a JSON object with lists such as 'training', but this holds none.")
    return content


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of a JSON file; Python's own reader would keep the last of equal names."""
    counts = Counter(name for name, _ in pairs)
    repeated = [name for name, count in counts.items() if count > 1]
    if repeated:
        raise ValueError(f"an object has the name '{repeated[0]}' more than once")
    return dict(pairs)


def save_datalist(content: Mapping[str, Any], path: str | Path) -> Path:
    """Write a datalist, whole or not at all; equal content gives equal bytes. Returns the path.

    Raises:
        ValueError: if a group lies in two splits, or likely does under two spellings, or a number is not finite.
    """
    _check_leaks(content)
    try:
        text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"{path}: not written, as the datalist cannot be JSON: {error}.") from error
    return write_whole(path, f"{text}\n")


def _check_leaks(content: Mapping[str, Any], base: Path | None = None) -> None:
    """Check the usual three splits; other lists may hold their items once more.

    Args:
        content: the datalist.
        base: folder that relative image paths start at, to know two paths of one file; None if unknown.
    """
    splits = find_splits(content)
    usual = {}
    for name in SPLITS:
        if name in splits:
            usual[name] = splits[name]
    keys = _find_slide_keys(usual, base) if base is not None and len(usual) > 1 else {}
    check_groups(usual, base=base, slide_keys=keys, names_as_written=read_names_as_written(content))


def _find_slide_keys(splits: Mapping[str, Sequence[Item]], base: Path) -> dict[str, str]:
    """What copies of a slide have in common, of each image that may be a slide of several files."""
    keys = {}
    images = {item["image"] for items in splits.values() for item in items}
    for image in images:
        path = base / image
        if not may_be_several_files(path):
            continue
        try:
            keys[image] = find_slide_key(str(path))
        except (SlideError, OSError):
            continue  # opening it will tell; it may be of another split, and not here
    return keys


def load_datalist(
    path: str | Path,
    key: str,
    base_dir: str | Path | None = None,
    *,
    mpp: float | None = None,
    num_classes: int | None = None,
    min_classes: int = 1,
    task: str | None = None,
) -> Datalist:
    """Load and check one split of a datalist.

    Args:
        path: path of the JSON file.
        key: name of the split, such as ``"training"``.
        base_dir: folder that relative image paths start at; by default the folder of the datalist.
        mpp: um per pixel of every image, in place of what the datalist says; None keeps that.
        num_classes: number of classes: each item must have a label below it, and ``labels`` as many names, if there
            are any; None allows items without a label.
        min_classes: smallest number of different labels; 2 to learn from.
        task: what is asked of an image, see :mod:`monai_jsma.tasks`: labels of ``"multilabel"`` are lists, all others
            numbers; None: what :func:`find_task` says.

    Returns:
        the items, with ``base_dir`` joined to the ``image`` paths, and with ``mpp`` and ``mpp_source`` where ``mpp``,
        the item or the top level of the datalist gives a spacing.

    Raises:
        FileNotFoundError: if the datalist or an image is missing.
        ValueError: for broken JSON, an unknown or empty split, an item without ``image``, a wrong label or mpp, another
            number of classes, a folder that is no DICOM slide, or a group, patient, image or slide that lies in two
            splits of the datalist, or likely does under two spellings.
    """
    path = Path(path)
    content = read_datalist(path)
    check_items(content, path)
    items = content.get(key)
    if not isinstance(items, list) or not items:
        names = [name for name in SPLITS if content.get(name)]
        raise ValueError(f"{path}: no items under '{key}'; it has {names}.")

    _check_classes(content.get("labels"), num_classes, path)
    task = task or find_task(content)
    for i, item in enumerate(items):
        faults = find_item_faults(item, num_classes, f"{path}: {key}[{i}]", task=task)
        for fault in faults.values():
            raise ValueError(fault)
    class_fault = find_class_fault(items, min_classes, f"{path}: {key}")
    if class_fault:
        raise ValueError(class_fault)

    base = Path(base_dir) if base_dir else path.parent
    loaded = []
    missing = []
    folders = []
    for item in items:
        resolved = resolve_item(item, content, base=base, mpp=mpp, path=path)
        loaded.append(resolved)
        if resolved.get("mask") is not None and not os.path.isfile(resolved["mask"]):
            missing.append(resolved["mask"])
        if not os.path.exists(resolved["image"]):
            missing.append(resolved["image"])
        elif os.path.isdir(resolved["image"]):
            folders.append(resolved["image"])
    if missing:
        raise FileNotFoundError(
            f"{path}: {len(missing)} of {len(loaded)} images under '{key}' are missing: {join_few(missing)}. "
            f"Relative paths start at {base}; give the folder of the images (base_dir)."
        )
    for folder in dict.fromkeys(folders):
        try:
            list_slide_files(folder)  # a DICOM slide may be
        except SlideError as error:
            raise ValueError(f"{path}: {error}") from error
    try:
        _check_leaks(content, base)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    log_early_ends(loaded[0]["image"])
    return Datalist(loaded, str(path))


def check_is_list(entries: object) -> None:
    """Check that items come as a list, not as one of them.

    Raises:
        ValueError: if they do not.
    """
    if isinstance(entries, str | os.PathLike | Mapping) or not isinstance(entries, Iterable):
        raise ValueError(f"a list of items such as [{{'image': 'slide.svs'}}] is needed, but got {entries!r}.")


def make_items(entries: Iterable[Item | str | os.PathLike[str]]) -> list[Item]:
    """The items of entries that may be paths of images: what a user gives in place of a datalist.

    Raises:
        ValueError: if there is no entry, or one is neither a path nor an item.
    """
    check_is_list(entries)
    items: list[Item] = []
    for number, entry in enumerate(entries):
        if isinstance(entry, str | os.PathLike):
            items.append({"image": os.fspath(entry)})
        elif isinstance(entry, Mapping) and isinstance(entry.get("image"), str | os.PathLike):
            items.append({**entry, "image": os.fspath(entry["image"])})
        else:
            raise ValueError(f"item {number} is {entry!r}: give a path, or a mapping such as {{'image': 'slide.svs'}}.")
    if not items:
        raise ValueError("the list of items is empty: give at least one image, such as [{'image': 'slide.svs'}].")
    return items


def _check_classes(labels: Any, num_classes: int | None, path: Path) -> None:
    fault = find_labels_fault(labels)
    if fault:
        raise ValueError(f"{path}: {fault}")
    if num_classes is None or not labels:
        return
    if len(labels) != num_classes:
        raise ValueError(
            f"{path}: it names {len(labels)} classes in 'labels', but num_classes is {num_classes}; make them agree, "
            f"such as by num_classes={len(labels)}."
        )


def resolve_item(item: Item, content: Mapping[str, Any], *, base: Path, mpp: float | None, path: Path) -> Item:
    """Complete an item with what the datalist says of all.

    Args:
        item: an item of the datalist.
        content: the datalist.
        base: folder that relative image paths start at.
        mpp: um per pixel of all images; None: the item's own, else the datalist's.
        path: file of the datalist, for messages.

    Returns:
        the item with ``base`` joined to its path, and with ``mpp`` and ``mpp_source`` where a spacing is stated.

    Raises:
        ValueError: if the spacing is not a positive number.
    """
    resolved = {**item, "image": str(base / item["image"])}
    if item.get("mask") is not None:
        resolved["mask"] = str(base / item["mask"])
    if mpp is not None:
        source = "given"
    elif item.get("mpp") is not None:
        mpp = item["mpp"]
        source = item.get("mpp_source", "datalist")
    else:
        mpp = content.get("mpp")
        source = content.get("mpp_source", "datalist")

    if mpp is not None:
        check_mpp(mpp, str(path))
        resolved["mpp"] = mpp
        resolved["mpp_source"] = source
    return resolved


def class_names(path: str | Path) -> list[str] | None:
    """Read the names of the classes from a datalist's ``labels``, in the order of their numbers.

    Args:
        path: path of the JSON file.

    Returns:
        the names; None if the datalist has none, or there is no such file, as images may be predicted without one.

    Raises:
        ValueError: if the classes are not numbered 0, 1, ..., or a name is no text or there twice.
    """
    if not Path(path).is_file():
        return None
    labels = read_datalist(path).get("labels")
    fault = find_labels_fault(labels)
    if fault:
        raise ValueError(f"{path}: {fault}")
    if not labels:
        return None
    return [labels[str(i)] for i in range(len(labels))]


# --------------------------------------------------------------------------------------------------------------- faults


def check_items(content: Mapping[str, Any], path: str | Path) -> None:
    """Check that the items of all splits of a datalist are objects with an ``image``.

    Raises:
        ValueError: if one is not; it names the first.
    """
    for split, items in find_splits(content).items():
        for i, item in enumerate(items):
            fault = _find_image_fault(item, f"{path}: {split}[{i}]")
            if fault:
                raise ValueError(fault)


def check_mpp(mpp: Any, where: str) -> None:
    """Check that a spacing is a positive number.

    Args:
        mpp: um per pixel.
        where: beginning of the message, such as the path of a file.

    Raises:
        ValueError: if it is not.
    """
    is_number = isinstance(mpp, (int, float)) and not isinstance(mpp, bool)
    is_spacing = is_number and math.isfinite(mpp) and mpp > 0
    if not is_spacing:
        way_out = "; write the number without quotation marks, with a decimal point" if isinstance(mpp, str) else ""
        raise ValueError(f"{where}: mpp must be a positive number of um per pixel, but is {mpp!r}{way_out}.")


def find_task(content: Mapping[str, Any]) -> str:
    """What a datalist's images are asked: its ``task``; without one ``"multilabel"`` if all labels are lists.

    Raises:
        ValueError: if the task is none that is offered.
    """
    task = content.get("task")
    if task is not None:
        return check_task(task)
    items = [item for of_split in find_splits(content).values() for item in of_split if isinstance(item, dict)]
    labels = [item["label"] for item in items if item.get("label") is not None]
    are_lists = [isinstance(label, list) for label in labels]
    return MULTILABEL if are_lists and all(are_lists) else MULTICLASS


def find_item_faults(item: Any, num_classes: int | None, where: str, *, task: str | None = None) -> dict[str, str]:
    """Find all that is wrong with an item itself, without a look at its file.

    Args:
        item: an item of a datalist.
        num_classes: number of classes that the label must be below; None allows an item without a label.
        where: beginning of the messages, such as "datalist.json: training[3]".
        task: what is asked of an image, see :func:`load_datalist`; None allows a number and a list.

    Returns:
        the message of each fault, under its stage: "item", "label", "mask", "mpp" or "box".
    """
    image_fault = _find_image_fault(item, where)
    if image_fault:
        return {"item": image_fault}

    faults = {}
    label_fault = _find_label_fault(item.get("label"), num_classes, task)
    if label_fault:
        faults["label"] = f"{where}: {label_fault}"
    mask_fault = _find_mask_fault(item)
    if mask_fault:
        faults["mask"] = f"{where}: {mask_fault}"
    if item.get("mpp") is not None:
        try:
            check_mpp(item["mpp"], where)
        except ValueError as error:
            faults["mpp"] = str(error)
    try:
        find_location_and_size(item, f"{where}: {item['image']}")
    except ValueError as error:
        faults["box"] = str(error)
    return faults


def _find_mask_fault(item: Mapping[str, Any]) -> str | None:
    """Find whether the mask of an item is no path, or counts from no corner that is known."""
    mask = item.get("mask")
    if mask is not None and (not isinstance(mask, str) or not mask):
        return f"'mask' is the path of a file that says where the tissue is, but is {mask!r}."
    frame = item.get("mask_frame")
    if frame is None:
        return None
    if mask is None:
        return f"'mask_frame' {frame!r} is without 'mask'."
    try:
        check_frame(frame)
    except ValueError as error:
        return f"'mask_frame': {error}"
    return None


def _find_image_fault(item: Any, where: str) -> str | None:
    image = item.get("image") if isinstance(item, dict) else None
    if isinstance(image, str) and image:
        return None
    return f"{where}: an item is an object with the path of its 'image', but got {item!r}."


def _find_label_fault(label: Any, num_classes: int | None, task: str | None) -> str | None:
    if label is None and num_classes is None:
        return None
    limit = "" if num_classes is None else f" below num_classes={num_classes}"
    if task == MULTILABEL or (task is None and isinstance(label, list)):
        if _are_labels(label, num_classes):
            return None
        return (
            f"the label of multi-label must list the numbers of the classes that are present, whole numbers from "
            f"0{limit}, rising ([] for none), but is {label!r}."
        )
    if _is_label(label, num_classes):
        return None
    way_out = " For images of several classes set the task 'multilabel'." if isinstance(label, list) else ""
    return f"the label must be a whole number from 0{limit}, but is {label!r}.{way_out}"


def _are_labels(label: Any, num_classes: int | None) -> bool:
    """Whether a label lists different classes in rising order: 1 and 0 for each class would not."""
    if not isinstance(label, list) or not all(_is_label(index, num_classes) for index in label):
        return False
    return label == sorted(set(label))


def _is_label(label: Any, num_classes: int | None) -> bool:
    if not isinstance(label, int) or isinstance(label, bool):
        return False
    return label >= 0 and (num_classes is None or label < num_classes)


def find_labels_fault(labels: Any) -> str | None:
    """Find what is wrong with the names of the classes of a datalist; None if nothing is, or there are none."""
    if labels is None:
        return None
    numbers = {str(i) for i in range(len(labels))} if isinstance(labels, dict) else set()
    if not isinstance(labels, dict) or set(labels) != numbers:
        return f"'labels' must name the classes '0', '1', ... without a gap, but is {labels!r}."

    number_of: dict[str, str] = {}
    for number, name in labels.items():
        if not isinstance(name, str) or not name.strip():
            text = json.dumps(name)
            return f"'labels' must name each class by a text, but class {number} is {text}; write a name in quotes."
        if name in number_of:
            return f"'labels' names the classes {number_of[name]} and {number} both '{name}'; give each its own name."
        number_of[name] = number
    return None


def find_class_fault(items: Iterable[Mapping[str, Any]], min_classes: int, where: str) -> str | None:
    """Find whether a split has labels of too few classes; None if it has enough, or no items.

    Args:
        items: the items of the split.
        min_classes: smallest number of different labels.
        where: beginning of the message.
    """
    labels = [str(item.get("label")) for item in items]
    classes = sorted(set(labels))
    if not classes or len(classes) >= min_classes:
        return None
    names = " or ".join(classes)
    return f"{where}: all {len(labels)} items have the label {names}; give it items of another class too."


# -------------------------------------------------------------------------------------------------------------- regions


def find_location_and_size(item: Mapping[str, Any], path: str) -> tuple[Pair | None, Pair | None]:
    """Find ``location`` (row, column) and ``size`` (height, width) of an item, each None where it has none.

    ``location`` needs a ``size``. An item of MONAI's ``PatchWSIDataset``, which has a level too, is refused: its
    ``location`` is by default the center of a patch, and its size counts pixels of the level.

    Args:
        item: an item of a datalist.
        path: file of its image, for the message.

    Raises:
        ValueError: if one of them is not a pair of whole numbers, ``location`` is without ``size``, or the item is one
            of ``PatchWSIDataset``.
    """
    monai_fault = find_monai_fault(item)
    if monai_fault:
        raise ValueError(f"{path}: {monai_fault}")
    for name in ("location", "size"):
        pair = item.get(name)
        if pair is not None and not _is_pair(pair):
            raise ValueError(f"{path}: '{name}' must be two whole numbers of level-0 pixels, but is {pair!r}.")
    location = item.get("location")
    size = item.get("size")
    if location is not None and size is None:
        raise ValueError(
            f"{path}: 'location' {tuple(location)} is without 'size'; give the height and width of the region, in "
            "level-0 pixels."
        )
    return location, size


def find_monai_fault(item: Mapping[Any, Any], location_key: str = "location") -> str | None:
    """Find whether an item with a ``location`` is one of MONAI's ``PatchWSIDataset``; None if it is not.

    Args:
        item: an item of a datalist.
        location_key: key of its location.
    """
    if item.get("patch_location") is not None:
        return (
            f"'patch_location' {item['patch_location']!r}, as some versions of MONAI have it for the place of a patch, "
            "is not read here: give 'location' (row, column) and 'size' (height, width), in level-0 pixels."
        )
    if item.get(location_key) is None:
        return None
    for key in _MONAI_KEYS:
        value = item.get(key)
        if value is None or isinstance(value, str):  # text: "level" names the magnification of a synthetic image
            continue
        return (
            f"'{location_key}' with '{key}' {value!r} is an item of MONAI's PatchWSIDataset, whose location is by "
            "default the center of a patch and whose size counts pixels of a level. Here they are the top-left corner "
            f"and the (height, width) of the region, in level-0 pixels: convert them, and leave '{key}' out."
        )
    return None


def _is_pair(value: Any) -> bool:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        return False
    return all(type(number) is int for number in value)


def find_region(item: Mapping[str, Any], info: SlideInfo) -> tuple[Pair, Pair]:
    """Find the region of an item; it is the whole image if the item names none.

    Args:
        item: an item of a datalist.
        info: the slide or image of the item.

    Returns:
        location (row, column) and size (height, width), in level-0 pixels.

    Raises:
        ValueError: if ``location`` or ``size`` is not a pair of whole numbers, the region leaves the image,
            ``location`` is without ``size``, or ``size`` without ``location`` is not that of the image.
    """
    location, size = find_location_and_size(item, info.path)
    if size is None:
        return (0, 0), info.size
    if location is None:
        if tuple(size) != info.size:
            raise ValueError(
                f"{info.path}: the datalist says {tuple(size)} (height, width), but the image has {info.size}; correct "
                "'size', or give 'location' if a region is meant."
            )
        location = (0, 0)
    check_region(info.size, location, size, path=info.path)
    return location, size
