# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What pictures with a known answer are drawn with: tissue, a tint that shows a place, and a checker seen at one scale.

A picture is 256x256 pixels of 0.5 um, seen at 50X, 100X and 200X through 32-pixel patches (``GEOMETRY``: 2x2, 4x4 and
8x8 cells). Pictures are ``(height, width, 3)``; positions are (row, column) in level-0 pixels; cells are flat indices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from monai_jsma.geometry import PatchGeometry

__all__ = ["GEOMETRY", "TINTS", "SyntheticPicture", "add_checker", "tinted_tissue"]

GEOMETRY = PatchGeometry((256, 256), mpp=0.5, magnifications=(2.0, 1.0, 0.5), patch_size=32)

PINK, PURPLE = np.array([208.0, 166.0, 190.0]), np.array([186.0, 140.0, 178.0])
TINTS = np.array([[-10.0, -50.0, -50.0], [-50.0, -50.0, -10.0], [-50.0, -10.0, -50.0]])  # one per true magnification
CHECKER = np.array([[1, -1], [-1, 1]])  # in pixels of the cell's magnification


@dataclass(frozen=True)
class SyntheticPicture:
    """A picture and its answer.

    Args:
        image: uint8 ``(256, 256, 3)``.
        label: index of the class.
        level: index of the true magnification in ``GEOMETRY``, 0 is the coarsest.
        cells: flat indices of the cells that tell the class, ascending.
    """

    image: np.ndarray
    label: int
    level: int
    cells: tuple[int, ...]


def tinted_tissue(rng: np.random.Generator, cells: list[int]) -> np.ndarray:
    """Background with tinted cells, int ``(256, 256, 3)``.

    A smooth mixture of pink and purple, the mean of a few long plane waves. A tint has the colour of its magnification;
    it is strongest in the middle of a cell, nothing at its border.
    """
    angle = np.arange(GEOMETRY.size[0]) * (2j * np.pi / GEOMETRY.size[0])
    rows, cols = np.exp(rng.integers(-3, 4, (2, 6, 1)) * angle)
    phase = np.exp(2j * np.pi * rng.random((6, 1)))
    mixture = 0.5 + 0.5 * np.real((rows * phase).T @ cols) / 6
    image = PINK + (PURPLE - PINK) * mixture[..., None]
    for cell in cells:
        part = _part(image, cell)
        wave = np.sin(np.pi * (np.arange(len(part)) + 0.5) / len(part)) ** 2
        part += np.outer(wave, wave)[..., None] * TINTS[GEOMETRY.cell(cell).level]
    return np.rint(image).astype(np.int64)


def add_checker(image: np.ndarray, cell: int, contrast: np.ndarray) -> None:
    """Add a checker to a cell in place.

    With ``s`` the downsample of the cell's magnification, the fields of the checker are ``s x s`` level-0 pixels, and
    its contrast is the same on every ``2s x 2s`` block. So each block's sum is zero: averaging by ``2s``, or a
    multiple, gives exactly the picture without it.

    Args:
        image: int ``(256, 256, 3)``.
        cell: flat index.
        contrast: of every block, integers ``(16, 16, 3)``.
    """
    part = _part(image, cell)
    s = len(part) // GEOMETRY.patch_size
    part += np.kron(contrast, CHECKER[..., None]).repeat(s, axis=0).repeat(s, axis=1)


def _part(image: np.ndarray, cell: int) -> np.ndarray:
    row, col, size, _ = (int(v) for v in GEOMETRY.cell_box(cell))
    return image[row : row + size, col : col + size]
