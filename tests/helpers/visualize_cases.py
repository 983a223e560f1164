# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Thumbnails and attention of known places, to be found again in what is drawn."""

from __future__ import annotations

import numpy as np

from monai_jsma.geometry import PatchGeometry

GREY = 100
GEOMETRIES = [PatchGeometry(size, 0.5, (1.0, 0.5), 40) for size in ((120, 200), (210, 130))]


def grey_thumbnail(geometry):
    return np.full((3, geometry.size[0] // 4, geometry.size[1] // 4), GREY, np.uint8)


def equal_attention(geometry):
    return np.full(geometry.num_cells, 1 / geometry.num_cells)


def extent(mask):
    """First and last + 1 row, then column, of the true pixels."""
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return rows[0], rows[-1] + 1, cols[0], cols[-1] + 1
