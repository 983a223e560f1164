# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""A datalist of BACH, part A of the ICIAR 2018 challenge, from its unzipped folders (paper, Section 4.1).

``Photos`` holds a folder for each class with images ``n001.tif``, ``b001.tif``, ``is001.tif``, ``iv001.tif`` and so
on, 100 of each, and ``microscopy_ground_truth.csv`` (``file_name,label``, no header). The 100 images of the test
folder, ``test0.tif`` and so on, have no labels. All are 1536 x 2048 pixels (height x width) of 0.42 um.

Names are compared without regard to case. Files that are not named like BACH's images (``Thumbs.db``, ``._b001.tif``)
are left out with a warning.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from monai_jsma._io import file_sha256, is_system_name, join_few, list_data_folders, read_lines, read_table
from monai_jsma.datalists.spelling import check_spellings
from monai_jsma.datalists.splits import (
    check_copies,
    check_groups,
    find_spelling_doubles,
    hold_out,
    split_by_group,
)
from monai_jsma.slides.convert import REDUCTIONS, TILE, tile_image
from monai_jsma.slides.open import inspect_slide

__all__ = ["CLASSES", "MPP", "bach_datalist"]

MPP = 0.42
CLASSES = ("Normal", "Benign", "InSitu", "Invasive")  # in the order of the labels
_PREFIXES = ("n", "b", "is", "iv")  # names of the images of each class begin with these
_NAME = re.compile(r"(n|b|is|iv|test)(\d+)\.tiff?", re.IGNORECASE)
_TABLE = "microscopy_ground_truth.csv"
_NUM_IMAGES = 100  # of each class, and without label
_SIZE = (1536, 2048)
_ABOUT = {
    "name": "BACH, part A (microscopy images) of the ICIAR 2018 grand challenge",
    "reference": "G. Aresta et al. BACH: Grand challenge on breast cancer histology images. Medical Image Analysis 56, "
    "2019. https://zenodo.org/records/3632035",
    "licence": "CC BY-NC-ND 4.0",
    "mpp": MPP,
    "mpp_source": "description of the challenge: pixels of 0.42 um x 0.42 um",
}

_logger = logging.getLogger(__name__)
Item = dict[str, Any]


class _ImageName(NamedTuple):
    """A name such as ``is001.tif`` in its parts, ordered by number and not by spelling."""

    prefix: str
    number: int


def bach_datalist(
    root: str | Path,
    *,
    test: str | Path | None = None,
    patients: str | Path | None = None,
    folds: int = 5,
    fold: int = 0,
    seed: int = 0,
    tiled: str | Path | None = None,
    names_as_written: bool = False,
) -> dict[str, Any]:
    """Make a datalist of the folders of the challenge.

    One fold is the validation split, the others are the training split: with 5 folds, 80 and 320 images as in the
    paper. The unlabeled images are the test split. Unexpected but harmless findings are logged as warnings.

    Args:
        root: the unzipped folder, one above it, or ``Photos`` itself.
        test: folder of the unlabeled test images; searched in and beside ``root`` by default.
        patients: CSV with columns ``image`` and ``patient``; no patient is then in two splits.
        folds: number of stratified folds.
        fold: index of the fold to validate on.
        seed: random seed of the split.
        tiled: folder to write a tiled pyramid of every image to; the datalist then names these, relative to it.
        names_as_written: whether patients whose names differ in spelling only (001, 1) are different ones, rather than
            an error.

    Returns:
        the content for :func:`~monai_jsma.datalists.save_datalist`; paths are relative to ``tiled``, else ``root``.

    Raises:
        FileNotFoundError: when a folder or table is missing.
        ValueError: when folders, names and table disagree on a label, a class has no images, two files are the same
            image, a patient is unknown or would be in two splits, or patients are
            likely the same in two spellings.
        SlideError: when an image cannot be read.
    """
    root = Path(os.path.abspath(root))
    tiled_folder = None if tiled is None else Path(os.path.abspath(tiled))
    if tiled_folder == root:
        raise ValueError(f"{root}: the tiled pyramids need a folder of their own.")

    photos = _find_photos(root)
    label_of = _find_labeled_images(photos)
    unlabeled = _find_test_images(photos, root, None if test is None else Path(os.path.abspath(test)))
    _report_numbers(label_of.values(), len(unlabeled))
    _report_sizes([*label_of, *unlabeled])

    items = [_make_item(path, root, label) for path, label in label_of.items()]
    items += [_make_item(path, root, None) for path in unlabeled]
    check_copies(items, root)
    if patients is not None:
        _add_patients(items, Path(patients))
        if not names_as_written:
            check_spellings(find_spelling_doubles(items), str(patients))
    splits = _split(items, folds=folds, fold=fold, seed=seed, names_as_written=names_as_written)
    if tiled_folder is not None:
        for name in splits:
            splits[name] = [_tile(item, root, tiled_folder) for item in splits[name]]

    settings = {
        "command": "prepare bach",
        "folds": folds,
        "fold": fold,
        "seed": seed,
        "patients": None if patients is None else {"sha256": file_sha256(patients)},
        "tiled": None if tiled is None else {"compression": "none", "tile": TILE, "reductions": list(REDUCTIONS)},
    }
    content = {
        **_ABOUT,
        "labels": {str(i): name for i, name in enumerate(CLASSES)},
        "settings": settings,
        **splits,
    }
    if names_as_written:
        content["names_as_written"] = True
    return content


def _find_photos(root: Path) -> Path:
    """Find the folder with a folder for each class: ``root``, or ``Photos`` in it or up to two folders below."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: there is no such folder.")
    candidates = [root, root / "Photos", *root.glob("*/Photos"), *root.glob("*/*/Photos")]
    matches = []
    for folder in sorted(candidates):
        below = folder.relative_to(root).parts
        if not any(map(is_system_name, below)) and _has_classes(folder):  # macOS adds __MACOSX to archives
            matches.append(folder)
    if not matches:
        raise FileNotFoundError(f"{root}: holds no folder Photos with the folders {', '.join(CLASSES)}.")
    if len(matches) > 1:
        raise ValueError(f"{root}: holds several sets of classes: {join_few(matches)}; name one of them.")
    return matches[0]


def _has_classes(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    return any(_find_label(entry.name) is not None for entry in list_data_folders(folder))


def _find_label(word: str) -> int | None:
    """The label of a class as folders or tables write it ("InSitu", "in situ"), or None."""
    plain = re.sub(r"[\s_-]", "", word).casefold()
    for label, name in enumerate(CLASSES):
        if plain == name.casefold():
            return label
    return None


def _find_labeled_images(photos: Path) -> dict[Path, int]:
    """Find the images of each class with their labels, in the order of both, and compare them with the table."""
    label_of: dict[Path, int] = {}
    others: list[Path] = []
    for entry in sorted(photos.iterdir()):
        label = _find_label(entry.name) if entry.is_dir() else None
        if label is not None:
            paths, others_in_class = _list_images(entry)
            others += others_in_class
            for path in paths:
                _check_prefix(path, label)
                label_of[path] = label
        elif not _is_expected(entry):
            others.append(entry)
    _report_others(others, photos)

    empty = [name for label, name in enumerate(CLASSES) if label not in label_of.values()]
    if empty:
        raise ValueError(f"{photos}: no images of {join_few(empty)}; unzip the challenge's archive again.")
    _compare_with_table(label_of, photos)
    order = sorted(label_of, key=lambda path: (label_of[path], _parse_name(path), path))
    return {path: label_of[path] for path in order}


def _is_expected(entry: Path) -> bool:
    """Whether an entry of ``Photos`` that is no class is the table of labels or a test folder."""
    name = entry.name.casefold()
    return name == _TABLE or (entry.is_dir() and "test" in name)


def _list_images(folder: Path) -> tuple[list[Path], list[Path]]:
    """The files in a folder that are named like BACH's images, and all other entries but the folder ``Photos``."""
    images = []
    others = []
    for entry in sorted(folder.iterdir()):
        if _NAME.fullmatch(entry.name) and entry.is_file():
            images.append(entry)
        elif entry.name != "Photos":
            others.append(entry)
    return images, others


def _parse_name(path: Path) -> _ImageName:
    prefix = path.stem.rstrip("0123456789")
    number = path.stem[len(prefix) :]
    return _ImageName(prefix.casefold(), int(number))


def _check_prefix(path: Path, label: int) -> None:
    prefix = _parse_name(path).prefix
    expected = _PREFIXES[label]
    if prefix != expected:
        raise ValueError(
            f"{path}: begins with '{prefix}', but the images of {path.parent.name} with '{expected}'; move it to the "
            "folder of its class."
        )


def _compare_with_table(label_of: Mapping[Path, int], photos: Path) -> None:
    """Compare the labels of the folders with those of the table, which is in ``Photos`` or above it."""
    candidates = (photos / _TABLE, photos.parent / _TABLE)
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        _logger.warning("%s: has no %s, so the labels are those of the folders alone.", photos, _TABLE)
        return

    in_table = _read_labels(path)
    in_folders = {path.stem.casefold(): label for path, label in label_of.items()}
    differences = []
    for stem, label in in_folders.items():
        stated = in_table.get(stem, label)
        if stated != label:
            differences.append(f"{stem} (folder {CLASSES[label]}, table {CLASSES[stated]})")
    if differences:
        raise ValueError(f"{path}: folder and table disagree on {join_few(differences)}; correct the wrong one.")
    _report_names(path, "not in the table", in_folders.keys() - in_table.keys())
    _report_names(path, "in the table only", in_table.keys() - in_folders.keys())


def _read_labels(path: Path) -> dict[str, int]:
    """Read the table of labels: the label of each name without suffix, in lower case."""
    labels: dict[str, int] = {}
    for number, line in enumerate(read_lines(path), 1):
        label = _find_label(line[1]) if len(line) == 2 else None
        if label is None:
            raise ValueError(
                f"{path}: row {number}: a row needs the name of a file and one of {list(CLASSES)}, but is {line}."
            )
        stem = Path(line[0]).stem.casefold()
        if labels.get(stem, label) != label:
            raise ValueError(f"{path}: row {number}: {line[0]} has two labels.")
        labels[stem] = label
    return labels


def _find_test_images(photos: Path, root: Path, folder: Path | None) -> list[Path]:
    """Find the unlabeled images, in the order of their numbers.

    Args:
        photos: folder of the labeled images.
        root: folder in and beside which a test folder is searched.
        folder: the test folder, if it is known.

    Raises:
        FileNotFoundError: when ``folder`` is given and has no images.
        ValueError: when several folders have images.
    """
    candidates = _list_test_folders({photos, photos.parent, root}) if folder is None else [folder]
    images_of: dict[Path, list[Path]] = {}
    for candidate in candidates:
        for place in (candidate, candidate / "Photos"):
            images = _list_test_images(place)
            if images:
                images_of[place] = images
    if len(images_of) > 1:
        raise ValueError(f"Several folders have test images: {join_few(images_of)}; choose one with --test.")
    if not images_of and folder is not None:
        raise FileNotFoundError(f"{folder}: holds no test0.tif, test1.tif, ... and has no folder Photos that does.")
    if not images_of:
        _logger.warning("No unlabeled test images in or beside %s; name their folder with --test.", root)
        return []

    [(place, paths)] = images_of.items()
    _, others = _list_images(place)
    _report_others(others, place)
    return sorted(paths, key=_parse_name)


def _list_test_folders(places: set[Path]) -> list[Path]:
    """Folders with "test" in their names in some places, and with "bach" and "test" beside these."""
    matches = set()
    for place in places:
        for folder in (place, *place.glob("*")):
            if "test" in folder.name.casefold():
                matches.add(folder)
        for folder in place.parent.glob("*"):
            name = folder.name.casefold()
            if "bach" in name and "test" in name:
                matches.add(folder)
    return sorted(matches)


def _list_test_images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    images, _ = _list_images(folder)
    return [path for path in images if _parse_name(path).prefix == "test"]


def _report_others(others: Iterable[Path], folder: Path) -> None:
    names = [path.relative_to(folder).as_posix() for path in others]
    if names:
        _logger.warning("%s: left out, not named like BACH's images: %s.", folder, join_few(names))


def _report_names(path: Path, finding: str, names: Iterable[str]) -> None:
    names = sorted(names)
    if names:
        _logger.warning("%s: %s: %s.", path, finding, join_few(names))


def _report_numbers(labels: Iterable[int], num_unlabeled: int) -> None:
    """Warn of another number of images than BACH has; a missing test folder has its own warning."""
    numbers = Counter(CLASSES[label] for label in labels)
    numbers["unlabeled test"] = num_unlabeled
    for name, number in numbers.items():
        if number not in (0, _NUM_IMAGES):
            _logger.warning("%d %s images, but BACH has %d.", number, name, _NUM_IMAGES)


def _report_sizes(paths: Iterable[Path]) -> None:
    others = []
    for path in paths:
        height, width = inspect_slide(path).size
        if (height, width) != _SIZE:
            others.append(f"{path.name} ({height} x {width})")
    if others:
        _logger.warning("Not %d x %d pixels: %s.", *_SIZE, join_few(others))


def _make_item(path: Path, root: Path, label: int | None) -> Item:
    item: Item = {"image": _relative_name(path, root)}
    if label is not None:
        item["label"] = label
    item["sha256"] = file_sha256(path)
    return item


def _relative_name(path: Path, base: Path) -> str:
    relative = os.path.relpath(path, base)  # unlike Path.relative_to, also for what is beside the base
    return Path(relative).as_posix()


def _add_patients(items: Sequence[Item], path: Path) -> None:
    """Add its patient to every item; test images may have none."""
    patient_of = _read_patients(path)
    unknown = patient_of.keys() - {_stem(item["image"]) for item in items}
    if unknown:
        raise ValueError(f"{path}: names that are not images: {join_few(sorted(unknown))}.")
    missing = [item["image"] for item in items if "label" in item and _stem(item["image"]) not in patient_of]
    if missing:
        raise ValueError(
            f"{path}: images without a patient could leak between splits: {join_few(missing)}; add them, or leave out "
            "the table."
        )
    for item in items:
        patient = patient_of.get(_stem(item["image"]))
        if patient is not None:
            item["patient"] = patient


def _read_patients(path: Path) -> dict[str, str]:
    """Read the patient of each image, by its name without folder, suffix and case."""
    patient_of: dict[str, str] = {}
    for row in read_table(path, ("image", "patient")):
        stem = _stem(row["image"])
        if stem in patient_of:
            raise ValueError(f"{path}: named more than once: {stem}.")
        patient_of[stem] = row["patient"]
    return patient_of


def _stem(name: str) -> str:
    file = re.split(r"[\\/]", name)[-1]
    return file.rsplit(".", 1)[0].casefold()


def _split(items: Sequence[Item], *, folds: int, fold: int, seed: int, names_as_written: bool) -> dict[str, list[Item]]:
    labeled = [item for item in items if "label" in item]
    unlabeled = [item for item in items if "label" not in item]
    without_folder = [{**item, "image": _stem(item["image"])} for item in labeled]  # the same split in any folder
    fold_of = split_by_group(without_folder, folds, seed, names_as_written=names_as_written)
    splits = hold_out(labeled, fold_of, fold)
    splits["test"] = unlabeled
    check_groups(splits, names_as_written=names_as_written)
    return splits


def _tile(item: Item, root: Path, base: Path) -> Item:
    """Write the tiled pyramid of an image, unless it exists; its item keeps the name and checksum of the source."""
    source = root / item["image"]
    folder = CLASSES[item["label"]] if "label" in item else "test"
    path = base / folder / f"{source.stem}.tif"
    is_new = tile_image(source, path, MPP)
    _logger.info("%s: %s", path, "written" if is_new else "exists already")
    return {
        **item,
        "image": _relative_name(path, base),
        "sha256": file_sha256(path),
        "source": item["image"],
        "source_sha256": item["sha256"],
    }
