# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""A datalist from a folder of images or slides with a table of labels, or with a folder for each class.

The table is CSV with a header: ``image`` (path relative to the folder) and ``label`` (name of the class), and
optionally ``group`` or ``patient`` (which must be in one split only), ``mpp`` (um per pixel of level 0) and ``sha256``.
Other columns are not used. Images of several classes (multi-label) have their names in ``label``, with a semicolon
between them and nothing for none, or a column of 1 and 0 for each class. The spacing of an image is the row's, else the
one given for all images, else the file's.
A slide of several files (DICOM, MIRAX, Hamamatsu VMS) is one image.
"""

from __future__ import annotations

import logging
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_jsma._io import (
    IMAGE_SUFFIXES,
    is_data_file,
    is_system_name,
    join_few,
    list_data_folders,
    read_table,
    report_system_files,
)
from monai_jsma.datalists.schema import check_mpp
from monai_jsma.datalists.spelling import check_spellings, find_doubles
from monai_jsma.datalists.splits import check_copies, find_spelling_doubles, make_splits, split_by_group
from monai_jsma.slides.dicom import find_dicom_parts
from monai_jsma.slides.errors import SlideError
from monai_jsma.slides.identity import find_slide_key, group_slide_files, slide_sha256
from monai_jsma.slides.open import inspect_slide
from monai_jsma.slides.spacing import parse_decimal
from monai_jsma.tasks import MULTILABEL

__all__ = ["folder_datalist"]

_COLUMNS = ("image", "label")
_KEPT_COLUMNS = ("group", "patient")
_SEPARATOR = ";"  # between the classes of an image
_MISSING_LABELS = ("None", "NULL", "null", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaT")  # and "nan" in any case

_logger = logging.getLogger(__name__)
Item = dict[str, Any]
Row = dict[str, str]


def folder_datalist(
    root: str | Path,
    labels: str | Path | None = None,
    *,
    mpp: float | None = None,
    folds: int = 5,
    fold: int = 0,
    seed: int = 0,
    class_order: Sequence[str] | None = None,
    names_as_written: bool = False,
    multi_label: bool = False,
    label_columns: Sequence[str] = (),
) -> dict[str, Any]:
    """Make a datalist of a folder, split by group into training, validation and test.

    Args:
        root: the folder, or a table in it; image paths are relative to the folder.
        labels: the table of labels; by default ``labels.csv`` in the folder, and if that is missing, every folder in
            ``root`` is a class.
        mpp: um per pixel of all images whose row does not give it; by default what each file says.
        folds: number of folds of the cross-validation.
        fold: index of the fold to test on.
        seed: random seed of the split.
        class_order: names of the classes in the order of their labels; sorted by default, numbers in them by value.
        names_as_written: whether classes, groups, patients and images whose names differ in spelling only ("001" and
            "1") are different ones, rather than an error.
        multi_label: whether an image may have several classes, or none, in its ``label``: ``"tumor;necrosis"``.
        label_columns: instead of ``label``, columns of the table with 1 or 0, each a class in this order (multi-label).

    Returns:
        the content for :func:`monai_jsma.datalists.schema.save_datalist`.

    Raises:
        FileNotFoundError: when the table or an image is missing.
        ValueError: when the table is wrong, an image does not have the table's ``sha256``, two rows name the same
            image, the groups cannot be split, or names are likely the same in two spellings.
        SlideError: when a file cannot be read as an image or slide.
    """
    root = Path(root)
    if root.is_file() and labels is None:
        labels = root
        root = root.parent
    table = Path(labels) if labels else root / "labels.csv"
    if mpp is not None:
        check_mpp(mpp, "mpp")

    needed: tuple[str, ...] = ("image",) if multi_label else _COLUMNS
    if label_columns:
        needed = ("image", *label_columns)
        class_order = label_columns
        multi_label = True
    rows = _list_rows(root, table, needed)
    rows.sort(key=lambda row: row["image"])
    _check_files(rows, root, table)
    classes = [_read_classes(row, table, multi_label=multi_label, label_columns=label_columns) for row in rows]
    named = [(name, row["image"]) for row, names in zip(rows, classes, strict=True) for name in names]
    if not names_as_written:
        check_spellings(find_doubles([("class", name) for name, _ in named]), str(table))
    label_of = _number_classes(named, class_order, table)

    rejections: dict[str, str] = {}
    items = []
    for row, names in zip(rows, classes, strict=True):
        numbers = sorted(label_of[name] for name in names)
        label = numbers if multi_label else numbers[0]
        items.append(_make_item(row, label, root=root, table=table, mpp=mpp, rejections=rejections))
    check_copies(items, table)
    _check_slides(items, root, table)
    if mpp is None:
        _report_unknown_spacing(items, rejections)
    elif rejections:
        texts = [f"{image} ({rejection})" for image, rejection in rejections.items()]
        _logger.warning("%s: mpp=%.5g takes the place of what files state: %s.", root, mpp, join_few(texts))

    if not names_as_written:
        check_spellings(find_spelling_doubles(items, base=root), str(table))
    fold_of = split_by_group(items, folds, seed, min_folds=3, base=root, names_as_written=names_as_written)
    content: dict[str, Any] = {
        "name": root.resolve().name,
        "labels": {str(label): name for name, label in label_of.items()},
        "settings": {"folds": folds, "fold": fold, "seed": seed},
        **make_splits(items, fold_of, fold),
    }
    if mpp is not None:
        content["mpp"] = mpp
        content["mpp_source"] = "given"
    if names_as_written:
        content["names_as_written"] = True
    if multi_label:
        content["task"] = MULTILABEL
    return content


def _read_classes(row: Row, table: Path, *, multi_label: bool, label_columns: Sequence[str]) -> list[str]:
    """Names of the classes of a row: one, or of multi-label any number."""
    if label_columns:
        return [name for name in label_columns if _is_one(row, name, table)]
    if not multi_label:
        return [row["label"]]
    if "label" not in row:
        raise ValueError(f"{table}: there is no column 'label'; name the columns of the classes with --label-columns.")
    names = [name.strip() for name in row["label"].split(_SEPARATOR)]
    if names == [""]:
        return []
    if "" in names or len(set(names)) < len(names):
        raise ValueError(
            f"{table}: {row['image']}: label '{row['label']}' has a class without a name or twice; write each class "
            f"once, with one '{_SEPARATOR}' between two."
        )
    return names


def _is_one(row: Row, column: str, table: Path) -> bool:
    """Whether a class is present by its column."""
    value = row[column].strip()
    if value not in ("0", "1"):
        raise ValueError(
            f"{table}: {row['image']}: '{column}' is '{value}', but must be 1 (present) or 0 (absent); an image for "
            "which a class is unknown cannot be used."
        )
    return value == "1"


def _list_rows(root: Path, table: Path, needed: Sequence[str]) -> list[Row]:
    """The rows of the table; if there is no ``labels.csv``, a row for each image in the folders of the classes.

    Args:
        root: folder of the images.
        table: path of the table.
        needed: columns that need a value in each row.
    """
    if table.is_file() or table != root / "labels.csv":
        return read_table(table, needed)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: there is no such folder of images.")
    if tuple(needed) != _COLUMNS:
        raise FileNotFoundError(f"{table}: there is no such table; images of several classes need one.")

    rows = []
    others = [entry.name for entry in sorted(root.iterdir()) if is_data_file(entry, IMAGE_SUFFIXES)]  # of no class
    empty = []
    system = [entry.name for entry in root.iterdir() if entry.is_dir() and is_system_name(entry.name)]
    num_files = 0
    for folder in list_data_folders(root):
        images = []
        for entry in sorted(folder.iterdir()):
            name = f"{folder.name}/{entry.name}"
            if is_system_name(entry.name):
                system.append(name)
            elif is_data_file(entry, IMAGE_SUFFIXES) or _is_slide_folder(entry):
                images.append(entry)
            else:
                others.append(name)
        num_files += len(images)
        if not images:
            empty.append(folder.name)
        for image in sorted(set(group_slide_files(images).values())):
            rows.append({"image": image.relative_to(root).as_posix(), "label": folder.name})
    if not rows:
        raise FileNotFoundError(
            f"{table}: there is no such table of labels; write one with the columns image and label, or put the images "
            "into a folder for each class."
        )

    if num_files > len(rows):
        _logger.warning("%s: %d files are %d images or slides, some of several files.", root, num_files, len(rows))
    report_system_files(root, system)
    if others:
        _logger.warning("%s: left out, in no class or not named like images or slides: %s.", root, join_few(others))
    if empty:
        _logger.warning("%s: folders without images are no classes: %s.", root, join_few(empty))
    return rows


def _is_slide_folder(path: Path) -> bool:
    """Whether a path is a folder that holds one DICOM series."""
    if not path.is_dir():
        return False
    try:
        return bool(find_dicom_parts(str(path)))
    except SlideError:
        return False


def _check_slides(items: Sequence[Item], root: Path, table: Path) -> None:
    """Check that no slide is there twice under files that differ, such as a copy that lacks a level."""
    names = defaultdict(list)
    patients = defaultdict(list)
    for item in items:
        path = str(root / item["image"])
        key = find_slide_key(path)
        if key:
            names[key].append(item["image"])
        for part in find_dicom_parts(path)[:1]:
            if part.patient and not _is_grouped(item):
                patients[part.patient].append(item["image"])

    for key, copies in names.items():
        if len(copies) > 1:
            raise ValueError(f"{table}: one slide ({key}) under {len(copies)} names: {join_few(copies)}; keep one.")
    for patient, slides in patients.items():
        if len(slides) > 1:
            _logger.warning(
                "%s: %d DICOM slides state the patient '%s', but have no group and may come into two splits: %s; name "
                "the patients in a table, unless this is a name for all.",
                *(root, len(slides), patient, join_few(slides)),
            )


def _is_grouped(item: Item) -> bool:
    return any(item.get(column) for column in _KEPT_COLUMNS)


def _check_files(rows: Sequence[Row], root: Path, table: Path) -> None:
    missing = []
    for row in rows:
        path = root / row["image"]
        if not path.exists():  # a folder may be a DICOM slide
            missing.append(row["image"])
    if missing:
        raise FileNotFoundError(
            f"{table}: {len(missing)} of {len(rows)} images are not in {root}: {join_few(missing)}."
        )


def _number_classes(named: Sequence[tuple[str, str]], order: Sequence[str] | None, table: Path) -> dict[str, int]:
    """The label of each class: its position in ``order``, or among the sorted names.

    Args:
        named: name of a class and the image that has it.
        order: names of the classes in the order of their labels.
        table: path of the table, for messages.
    """
    classes = _sort_classes({name for name, _ in named})
    if not order:
        _check_class_names(classes, named, table)
        return {name: label for label, name in enumerate(classes)}

    names = list(order)
    for name, image in named:
        if name not in names:
            raise ValueError(f"{table}: {image}: label '{name}' is none of the classes {names}.")
    if _sort_classes(names) != classes:
        raise ValueError(f"{table}: the classes must be {classes}, each once and in any order, but got {names}.")
    return {name: label for label, name in enumerate(names)}


def _sort_classes(names: Iterable[str]) -> list[str]:
    """Sort names as a reader would: numbers by value, and "grade 2" before "grade 10"."""
    names = sorted(names)
    numbers = [_parse_number(name) for name in names]
    if None not in numbers:
        return sorted(names, key=float)
    return sorted(names, key=_split_digits)


def _parse_number(name: str) -> float | None:
    """The value of a name that is a number; None if it is none."""
    try:
        number = float(name)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _split_digits(name: str) -> list[tuple[int, str]]:
    """The parts of a name between which digits begin or end, each with its value if it is a number."""
    parts = re.split(r"([0-9]+)", name)
    return [(int(part), "") if part.isdecimal() else (0, part) for part in parts]


def _check_class_names(classes: Sequence[str], named: Sequence[tuple[str, str]], table: Path) -> None:
    """Check that no class is what programs write for a missing label.

    Raises:
        ValueError: if one is; an explicit order of the classes says that it is meant so.
    """
    for name in classes:
        if name not in _MISSING_LABELS and name.lower() != "nan":
            continue
        images = [image for class_name, image in named if class_name == name]
        raise ValueError(
            f"{table}: '{name}' is how programs write a missing label, but {len(images)} images have it: "
            f"{join_few(images)}; correct the labels, or name all classes with --class-order if it is meant so."
        )


def _make_item(
    row: Row, label: int | list[int], *, root: Path, table: Path, mpp: float | None, rejections: dict[str, str]
) -> Item:
    """Make the item of one row.

    Args:
        row: the row of the table.
        label: number of its class, of multi-label the list of them.
        root: folder of the images.
        table: path of the table, for messages.
        mpp: um per pixel of all images; if None, an item without a spacing in its row gets what the file says.
        rejections: gets what the file says of the spacing and why it is not believed, where the row has no spacing.
    """
    path = root / row["image"]
    checksum = slide_sha256(path)
    _check_checksum(row, path, checksum=checksum, table=table)
    item: Item = {"image": row["image"], "label": label, "sha256": checksum}
    for column in _KEPT_COLUMNS:
        if row.get(column):
            item[column] = row[column]
    if row.get("mpp"):
        item["mpp"] = _parse_mpp(row, table)
        item["mpp_source"] = table.name

    info = inspect_slide(path, mpp=item.get("mpp", mpp))  # so that an unreadable file is found now
    if "mpp" not in item and mpp is None and info.mpp is not None:
        item["mpp"] = info.mpp
        item["mpp_source"] = info.mpp_source
    rejected = [spacing.rejection for spacing in info.spacings if spacing.refusal]
    if "mpp" not in item and rejected:
        rejections[row["image"]] = "; ".join(rejected)
    return item


def _check_checksum(row: Row, path: Path, *, checksum: str, table: Path) -> None:
    stated = row.get("sha256", "")
    if stated and stated.lower() != checksum:
        raise ValueError(
            f"{path}: the file has changed: its sha256 is {checksum}, but {table.name} says {stated}; copy the image "
            "again, or correct the table."
        )


def _parse_mpp(row: Row, table: Path) -> float:
    where = f"{table}: {row['image']}"
    try:
        mpp = parse_decimal(row["mpp"])
    except ValueError as error:
        raise ValueError(f"{where}: mpp {error}") from error
    check_mpp(mpp, where)
    return mpp


def _report_unknown_spacing(items: Iterable[Item], rejections: Mapping[str, str]) -> None:
    unknown = []
    for item in items:
        image = item["image"]
        if "mpp" not in item:
            unknown.append(f"{image} ({rejections[image]})" if image in rejections else image)
    if unknown:
        _logger.warning("No credible spacing is stated for %s; give it with --mpp or a column mpp.", join_few(unknown))
