# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Where the tissue of a slide lies, and which regions cover it.

Tissue is found by its colour on a small picture of the slide: Otsu's threshold of the saturation, as in MONAI's
``ForegroundMask``. Otsu always splits, so a blank slide would be half tissue and a field full of tissue half glass; the
threshold is therefore bounded on both sides. Saturation is that of the HSV model times its brightness, the difference
between the strongest and the weakest of red, green and blue: black borders, dust and shadows have none. A coloured pen
mark counts as tissue; a grey picture has none.

Coordinates are (row, column), sizes (height, width).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.ndimage import uniform_filter
from skimage.filters import threshold_otsu

from monai_jsma.geometry import grid_size, patch_start

__all__ = ["TissueRegion", "tissue_mask", "tissue_regions"]

_GLASS = 205  # empty glass is at least this bright in every colour, whatever its tint
_BOUNDS = 15, 25  # of the threshold, in 256 steps: above the noise of empty glass, below pale tissue
_SPECK = 7  # pixels: a majority of 7x7 decides, which takes off specks and fills small holes


def tissue_mask(pixels: np.ndarray) -> np.ndarray:
    """Find the tissue of a picture.

    The brightest percent of each colour is made white where it is bright enough to be glass; so a tint of the whole
    slide does not count.

    Args:
        pixels: ``uint8`` of shape ``(height, width, 3)``, best of about 8 um per pixel.

    Returns:
        bool ``(height, width)``.
    """
    glass = np.percentile(pixels, 99, axis=(0, 1))
    if glass.min() >= _GLASS:
        pixels = np.minimum(pixels * np.float32(255 / glass), 255)
    saturation = np.ptp(pixels, axis=-1).astype(np.uint8)
    threshold = np.clip(threshold_otsu(saturation), *_BOUNDS)
    return uniform_filter((saturation > threshold).astype(np.float32), _SPECK) > 0.5


class TissueRegion(NamedTuple):
    """A region in level-0 pixels, and the share of it that is tissue."""

    row: int
    col: int
    height: int
    width: int
    tissue: float


def tissue_regions(
    mask: np.ndarray, size: tuple[int, int], region: tuple[int, int], min_tissue: float = 0.1
) -> list[TissueRegion]:
    """The regions of a slide that hold tissue.

    A grid of regions covers the rectangle around all tissue, as patches cover a picture: as few as reach, each centred
    on its cell, so that neighbours overlap evenly. They lie inside the slide; one that is shorter than a region is
    taken whole.

    Args:
        mask: the tissue, bool, of any resolution.
        size: height and width of the slide in level-0 pixels.
        region: height and width of a region in level-0 pixels.
        min_tissue: the smallest share of a region that is tissue.

    Returns:
        the regions, row by row.
    """
    if not mask.any():
        return []
    height, width = side = min(region[0], size[0]), min(region[1], size[1])
    rows, cols = (_starts(mask.any(axis=1 - axis), size[axis], side[axis]) for axis in (0, 1))
    shares = [(row, col, _share(mask, size, (row, col), side)) for row in rows for col in cols]
    return [TissueRegion(row, col, height, width, share) for row, col, share in shares if share >= min_tissue]


def _starts(tissue: Any, length: int, side: int) -> list[int]:
    """First pixels of the regions along an axis of ``length`` pixels; ``tissue`` tells which lines of it hold any."""
    lines = np.flatnonzero(tissue).tolist()
    first, end = lines[0] * length // len(tissue), -(-(lines[-1] + 1) * length // len(tissue))
    covered = max(side, end - first)
    first = min(max(first - (covered - (end - first)) // 2, 0), length - covered)
    cells = grid_size(covered, side)
    return [first + patch_start(cell, num_cells=cells, length=covered, patch_size=side) for cell in range(cells)]


def _share(mask: np.ndarray, size: tuple[int, int], start: tuple[int, int], side: tuple[int, int]) -> float:
    """Share of tissue among the pixels of the mask that a region touches."""
    rows, cols = (
        slice(start[i] * mask.shape[i] // size[i], -(-(start[i] + side[i]) * mask.shape[i] // size[i])) for i in (0, 1)
    )
    return float(mask[rows, cols].mean())
