# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""A small BACH challenge in its folders, with its table of labels."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import tifffile

__all__ = ["CLASSES", "TEST", "images", "make_bach", "truth", "write_truth"]

CLASSES = {"Normal": "n", "Benign": "b", "InSitu": "is", "Invasive": "iv"}
TEST = "ICIAR2018_BACH_Challenge_TestDataset"


def write_picture(path: Path, *key: int, size: tuple[int, int] = (12, 16)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(key).integers(0, 256, (*size, 3), np.uint8)
    tifffile.imwrite(path, pixels, photometric="rgb", resolution=(72, 72), resolutionunit="INCH")


def make_bach(folder: Path, number: int = 10, size: tuple[int, int] = (12, 16)) -> Path:
    """The unzipped challenge with ``number`` pictures of each class and as many without label; its root."""
    root = folder / "ICIAR2018_BACH_Challenge"
    lines = []
    for label, (name, prefix) in enumerate(CLASSES.items()):
        for i in range(1, number + 1):
            write_picture(root / "Photos" / name / f"{prefix}{i:03d}.tif", label, i, size=size)
            lines.append([f"{prefix}{i:03d}.tif", name])
    write_truth(root, lines)
    for i in range(number):
        write_picture(folder / TEST / "Photos" / f"test{i}.tif", 9, i, size=size)
    return root


def write_truth(root: Path, lines: list[list[str]]) -> None:
    with open(root / "Photos" / "microscopy_ground_truth.csv", "w", newline="") as file:
        csv.writer(file).writerows(lines)


def truth(root: Path) -> list[list[str]]:
    with open(root / "Photos" / "microscopy_ground_truth.csv", newline="") as file:
        return list(csv.reader(file))


def images(content: dict, side: str) -> set[str]:
    return {item["image"] for item in content[side]}
