# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The eight orientations move cells exactly as they move pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest

from monai_jsma.geometry import ORIENTATIONS, GridCell, PatchGeometry, orient, oriented_size, stored_cell

GEOMETRY = PatchGeometry((24, 40), 1.0, (1.0, 2.0), 8)  # 2 x 3 cells of 2 um, 3 x 5 of 1 um


def marked(level):
    """One pixel in every cell, off its centre, holds the cell's flat index; -1 elsewhere: ``(24, 40, 1)``."""
    pixels = np.full((*GEOMETRY.size, 1), -1)
    for index in range(*GEOMETRY.offsets[level : level + 2]):
        box = GEOMETRY.cell_box(index)
        pixels[int(box.row + 0.3 * box.height), int(box.col + 0.7 * box.width)] = index
    return pixels


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("level", [0, 1])
def test_cells_move_as_their_pixels(orientation, level):
    turned = PatchGeometry(oriented_size(GEOMETRY.size, orientation), 1.0, (1.0, 2.0), 8)
    pixels = orient(marked(level), orientation)
    assert pixels.shape[:2] == turned.size
    assert turned.grids == tuple(oriented_size(grid, orientation) for grid in GEOMETRY.grids)
    for index in range(*turned.offsets[level : level + 2]):
        box, cell = turned.cell_box(index), turned.cell(index)
        rows = slice(math.ceil(box.row), math.ceil(box.row + box.height))
        cols = slice(math.ceil(box.col), math.ceil(box.col + box.width))
        inside = pixels[rows, cols]
        there = stored_cell(cell, turned.grids[level], orientation)
        assert inside[inside >= 0].tolist() == [GEOMETRY.index(there)]


def test_what_each_orientation_does():
    """By hand: transpose (4), then rows reversed (2), then columns reversed (1)."""
    picture = np.array([[1, 2, 3], [4, 5, 6]])[..., None]
    expected = {
        0: [[1, 2, 3], [4, 5, 6]],
        1: [[3, 2, 1], [6, 5, 4]],
        2: [[4, 5, 6], [1, 2, 3]],
        3: [[6, 5, 4], [3, 2, 1]],
        4: [[1, 4], [2, 5], [3, 6]],
        5: [[4, 1], [5, 2], [6, 3]],
        6: [[3, 6], [2, 5], [1, 4]],
        7: [[6, 3], [5, 2], [4, 1]],
    }
    assert tuple(expected) == ORIENTATIONS
    for orientation, reference in expected.items():
        assert orient(picture, orientation)[..., 0].tolist() == reference


def test_level_of_a_cell_stays():
    assert stored_cell(GridCell(1, 0, 2), (5, 3), 6) == GridCell(1, 2, 4)
