# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""How many patches a training really used: a small table with one row for each epoch."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from monai_jsma._io import format_csv, write_whole

__all__ = ["EpochPatches", "read_patch_counts", "write_patch_counts"]


class EpochPatches(NamedTuple):
    """What one epoch of a training used.

    Args:
        epoch: number of the epoch, from 1.
        images: number of images, each as often as it was used.
        patches: number of patches, summed over the images; a patch that was drawn twice for one image counts once.
    """

    epoch: int
    images: int
    patches: int


def write_patch_counts(file: str | Path, counts: Iterable[EpochPatches]) -> None:
    """Write the patches of each epoch to a CSV file."""
    write_whole(file, format_csv(EpochPatches._fields, counts))


def read_patch_counts(file: str | Path) -> list[EpochPatches]:
    """Read the patches of each epoch from a CSV file.

    Raises:
        ValueError: if a row does not hold three whole numbers.
    """
    counts = []
    with open(file, newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            try:
                numbers = [int(row[name]) for name in EpochPatches._fields]
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{file}: expected the columns epoch, images, patches, but got {row}.") from error
            counts.append(EpochPatches(*numbers))
    return counts
