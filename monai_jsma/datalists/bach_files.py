# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The pictures of BACH, part A, in its unzipped folders, and whether folders, names and table agree on their labels.

Names are compared without regard to case. Files that are no pictures of BACH (``Thumbs.db``, ``._b001.tif``) are left
out, and named in a warning.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from monai_jsma._io import few, read_lines

__all__ = ["CLASSES", "Picture", "find_labelled", "find_unlabelled"]

CLASSES = {"Normal": "n", "Benign": "b", "InSitu": "is", "Invasive": "iv"}  # in the order of the labels: prefix
_NAME = re.compile(r"(n|b|is|iv|test)(\d+)\.tiff?", re.IGNORECASE)
_TABLE = "microscopy_ground_truth.csv"

_logger = logging.getLogger(__name__)


class Picture(NamedTuple):
    """A picture's file and label; None where it has no label."""

    path: Path
    label: int | None


def _label_of(word: str) -> int | None:
    """The label of a class as folders or tables write it ("InSitu", "in situ"), or None."""
    plain = re.sub(r"[\s_-]", "", word).casefold()
    return next((i for i, name in enumerate(CLASSES) if name.casefold() == plain), None)


def find_labelled(root: Path) -> tuple[list[Picture], Path]:
    """The labelled pictures in the order of labels and names, and the folder ``Photos``.

    Raises:
        FileNotFoundError: when there is no such folder, in ``root`` or up to two folders below.
        ValueError: when there are several, a class has no pictures, or folders, names and table disagree.
    """
    photos = _find_photos(root)
    pictures: list[Picture] = []
    odd: list[Path] = []
    for entry in sorted(photos.iterdir()):
        label = _label_of(entry.name) if entry.is_dir() else None
        if label is not None:
            pictures += [_labelled(path, label) for path in _pictures_in(entry, odd)]
        elif entry.name.casefold() != _TABLE and not (entry.is_dir() and "test" in entry.name.casefold()):
            odd.append(entry)
    _report_odd(odd, photos)
    empty = [name for i, name in enumerate(CLASSES) if i not in {picture.label for picture in pictures}]
    if empty:
        raise ValueError(f"{photos}: no pictures of {few(empty)}; unzip the challenge's archive again.")
    _compare_with_table(pictures, photos)
    return sorted(pictures, key=lambda picture: (picture.label, _parts(picture.path), picture.path)), photos


def _labelled(path: Path, label: int) -> Picture:
    prefix, expected = _parts(path)[0], list(CLASSES.values())[label]
    if prefix != expected:
        raise ValueError(
            f"{path}: begins with '{prefix}', those of {path.parent.name} with '{expected}'; move it to its class."
        )
    return Picture(path, label)


def find_unlabelled(photos: Path, root: Path, given: Path | None) -> list[Picture]:
    """The pictures of the test folder in the order of their numbers; none, with a warning, where none is found.

    Args:
        photos: the folder of the labelled pictures.
        root: in and beside which a test folder is looked for.
        given: the test folder, if it is known.

    Raises:
        FileNotFoundError: when the folder that was given has no pictures.
        ValueError: when several folders have.
    """
    likely = [given] if given is not None else _likely_test_folders({photos, photos.parent, root})
    odd: dict[Path, list[Path]] = {}
    found: dict[Path, list[Path]] = {}
    for folder in (path for each in likely for path in (each, each / "Photos") if path.is_dir()):
        paths = [p for p in _pictures_in(folder, odd.setdefault(folder, [])) if _parts(p)[0] == "test"]
        if paths:
            found[folder] = paths
    if len(found) > 1:
        raise ValueError(f"Several folders have test pictures: {few(found)}; choose one with --test.")
    if given is not None and not found:
        raise FileNotFoundError(f"{given}: holds no test0.tif, test1.tif, ... and has no folder Photos that does.")
    if not found:
        _logger.warning("No unlabelled test pictures in or beside %s; name their folder with --test.", root)
    for folder in found:
        _report_odd(odd[folder], folder)
    return [Picture(path, None) for paths in found.values() for path in sorted(paths, key=_parts)]


def _likely_test_folders(places: set[Path]) -> list[Path]:
    """Folders in some places whose name has "test", and such beside them whose name has "bach" too."""
    inside = {folder for place in places for folder in (place, *place.glob("*")) if "test" in folder.name.casefold()}
    beside = {folder for place in places for folder in place.parent.glob("*")}
    beside = {folder for folder in beside if {"bach", "test"} <= set(re.findall("bach|test", folder.name.casefold()))}
    return sorted(inside | beside)


def _find_photos(root: Path) -> Path:
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: there is no such folder.")
    below = [root, root / "Photos", *root.glob("*/Photos"), *root.glob("*/*/Photos")]
    found = [
        folder
        for folder in sorted(below)
        if folder.is_dir()
        and "__MACOSX" not in folder.parts  # what macOS adds to archives
        and any(_label_of(entry.name) is not None for entry in folder.iterdir() if entry.is_dir())
    ]
    if not found:
        raise FileNotFoundError(f"{root}: holds no folder Photos with the folders {', '.join(CLASSES)}.")
    if len(found) > 1:
        raise ValueError(f"{root}: holds several sets of classes: {few(found)}; name one of them.")
    return found[0]


def _pictures_in(folder: Path, odd: list[Path]) -> list[Path]:
    """The pictures in a folder; everything else in it is added to ``odd``."""
    entries = sorted(folder.iterdir())
    pictures = [entry for entry in entries if _NAME.fullmatch(entry.name) and entry.is_file()]
    odd += [entry for entry in entries if entry not in pictures and entry != folder / "Photos"]
    return pictures


def _parts(path: Path) -> tuple[str, int]:
    """Prefix and number of a picture's name."""
    prefix = path.stem.rstrip("0123456789")
    return prefix.casefold(), int(path.stem[len(prefix) :])


def _report_odd(odd: Iterable[Path], folder: Path) -> None:
    names = [path.relative_to(folder).as_posix() for path in odd]
    if names:
        _logger.warning("%s: left out, not named as BACH's pictures are: %s.", folder, few(names))


def _compare_with_table(pictures: Iterable[Picture], photos: Path) -> None:
    """Compare the labels with those of the table, where there is one; both places of it are known."""
    path = next((folder / _TABLE for folder in (photos, photos.parent) if (folder / _TABLE).is_file()), None)
    if path is None:
        _logger.warning("%s: has no %s, so the labels are those of the folders alone.", photos, _TABLE)
        return
    stated: dict[str, int] = {}
    for number, line in enumerate(read_lines(path), 1):
        label = _label_of(line[1]) if len(line) == 2 else None
        if label is None:
            raise ValueError(f"{path}: row {number}: needed are a file's name and one of {list(CLASSES)}; got {line}.")
        stem = Path(line[0]).stem.casefold()
        if stated.setdefault(stem, label) != label:
            raise ValueError(f"{path}: row {number}: {line[0]} has two labels.")
    found = {path.stem.casefold(): label for path, label in pictures if label is not None}
    names = list(CLASSES)
    wrong = [
        f"{stem} (folder {names[label]}, table {names[stated[stem]]})"
        for stem, label in found.items()
        if stated.get(stem, label) != label
    ]
    if wrong:
        raise ValueError(f"{path}: folder and table disagree on {few(wrong)}; correct whichever is wrong.")
    for what, stems in (("not in the table", found.keys() - stated), ("in the table only", stated.keys() - found)):
        if stems:
            _logger.warning("%s: %s: %s.", path, what, few(sorted(stems)))
