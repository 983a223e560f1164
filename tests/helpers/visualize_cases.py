# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Thumbnails and attention of known places, to be found again in what is drawn."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np

from monai_jsma.geometry import PatchGeometry
from monai_jsma.predictions.evidence import Evidence

GREY = 100
GEOMETRIES = [PatchGeometry(size, 0.5, (1.0, 0.5), 40) for size in ((120, 200), (210, 130))]


def grey_thumbnail(geometry):
    return np.full((3, geometry.size[0] // 4, geometry.size[1] // 4), GREY, np.uint8)


def make_evidence(geometry, cells=(), weights=(), *, patches=None, **more):
    """Evidence of a grey image with equal attention; ``patches`` are the pixels of ``cells``, by default black ones."""
    if patches is None:
        patches = np.zeros((len(cells), 3, geometry.patch_size, geometry.patch_size), np.uint8)
    pixels = dict(zip(np.array(cells).tolist(), patches, strict=True))
    evidence = Evidence(
        file="a.png",
        location=(0, 0),
        geometry=geometry,
        attention=np.full(geometry.num_cells, 1 / geometry.num_cells),
        cells=np.array(cells, np.int64),
        weights=np.array(weights, np.float64),
        thumbnail=grey_thumbnail(geometry),
        pyramid=SimpleNamespace(read=lambda chosen: np.array([pixels[cell] for cell in np.array(chosen).tolist()])),
    )
    return replace(evidence, **more)


def extent(mask):
    """First and last + 1 row, then column, of the true pixels."""
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return rows[0], rows[-1] + 1, cols[0], cols[-1] + 1
