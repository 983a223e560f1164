# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Which images of an evaluation are shown: the same ones every epoch, of all classes, right and wrong ones."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from pathlib import PurePath
from typing import NamedTuple

from monai_jsma.predictions.evidence import Evidence

__all__ = ["Candidate", "PictureKey", "choose_pictures", "make_candidate", "name_pictures"]


class PictureKey(NamedTuple):
    """An image or region of an evaluation: file, top-left corner and size in level-0 pixels."""

    file: str
    location: tuple[int, int]
    size: tuple[int, int]


class Candidate(NamedTuple):
    """An image that may be shown.

    Args:
        key: which image it is.
        label: index of the true class; -1 if it is unknown. Of multi-label the classes as digits of a binary number.
        is_wrong: whether another class is predicted.
        priority: random text by which images of one class are ordered.
    """

    key: PictureKey
    label: int
    is_wrong: bool
    priority: str


def make_candidate(evidence: Evidence, key: PictureKey, *, seed: int = 0) -> Candidate:
    """An image as a candidate.

    Its priority depends on the seed and on the image alone: neither on the order of the images nor on the number of
    processes.

    Args:
        evidence: evidence of the image.
        key: which image it is.
        seed: random seed.
    """
    label = -1
    if isinstance(evidence.label, tuple):
        label = sum(1 << index for index in evidence.label)
    elif evidence.label is not None:
        label = evidence.label
    is_wrong = evidence.label is not None and evidence.prediction not in (None, evidence.label)
    named = (seed, PurePath(key.file).name, key.location, key.size)
    priority = hashlib.blake2b(repr(named).encode(), digest_size=8).hexdigest()
    return Candidate(key, label, is_wrong, priority)


def choose_pictures(candidates: Iterable[Candidate], number: int | None) -> list[Candidate]:
    """Choose images of all classes in turn; within a class, wrong and right ones take turns.

    Classes of even index begin with a wrong one, the others with a right one, so that few images show both. What is not
    chosen of some of the images would not be chosen of all either: so the images may come one after the other, or from
    several processes, and only those that are chosen so far need to be kept.

    Args:
        candidates: the images, in any order.
        number: number of images to choose; None: all, in the order of choice.
    """
    classes: dict[int, list[Candidate]] = {}
    for candidate in sorted(candidates, key=lambda one: (one.priority, one.key)):
        classes.setdefault(candidate.label, []).append(candidate)

    turns = []
    for label in sorted(classes):
        for turn, candidate in enumerate(_take_turns(classes[label], wrong_first=label % 2 == 0)):
            turns.append((turn, label, candidate))
    turns.sort(key=lambda entry: entry[:2])
    return [candidate for _, _, candidate in turns[:number]]


def _take_turns(of_class: Sequence[Candidate], *, wrong_first: bool) -> list[Candidate]:
    """Wrong and right images of a class alternately, as long as there are both."""
    first = [candidate for candidate in of_class if candidate.is_wrong == wrong_first]
    second = [candidate for candidate in of_class if candidate.is_wrong != wrong_first]
    mixed = []
    for pair in zip_longest(first, second):
        mixed += [candidate for candidate in pair if candidate is not None]
    return mixed


def name_pictures(keys: Iterable[PictureKey]) -> dict[PictureKey, str]:
    """Names for the tags of images: the file's name, with so many of its folders that all names differ.

    Args:
        keys: the images.
    """
    keys = list(dict.fromkeys(keys))
    longest = max((len(PurePath(key.file).parts) for key in keys), default=0)
    names: dict[PictureKey, str] = {}
    for num_parts in range(1, longest + 1):
        names = {key: _make_name(key, num_parts) for key in keys}
        if len(set(names.values())) == len(keys):
            return names
    for number, key in enumerate(keys):  # they differ only in letters that a tag cannot have, or in their sizes
        names[key] += f"_{number}"
    return names


def _make_name(key: PictureKey, num_parts: int) -> str:
    """The last parts of the path, and where a region begins, in letters that TensorBoard's tags can have."""
    parts = PurePath(key.file).parts[-num_parts:]
    name = "/".join(part for part in parts if part != "/")
    if any(key.location):
        row, col = key.location
        name += f"_r{row}_c{col}"
    return re.sub(r"[^-/\w.]", "_", name)
