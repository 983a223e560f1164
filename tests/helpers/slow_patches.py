# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The patches of an image by loops over its pixels: slow, and easy to believe."""

from __future__ import annotations

import math

import numpy as np


def share(start, end, pixel):
    """How much of ``pixel`` lies in ``[start, end)``."""
    return max(0.0, min(end, pixel + 1) - max(start, pixel))


def slow_resample(picture, size):
    """Area average of ``(channels, height, width)``: every output pixel the mean of the rectangle that it covers."""
    _, height, width = picture.shape
    down, right = height / size[0], width / size[1]
    result = np.zeros((len(picture), *size))
    for r in range(size[0]):
        for c in range(size[1]):
            for y in range(math.floor(r * down), min(math.ceil((r + 1) * down), height)):
                for x in range(math.floor(c * right), min(math.ceil((c + 1) * right), width)):
                    weight = share(r * down, (r + 1) * down, y) * share(c * right, (c + 1) * right, x)
                    result[:, r, c] += weight / (down * right) * picture[:, y, x]
    return result


def slow_patches(picture, geometry):
    """All patches, cut from the whole picture at every magnification; white beyond its edge."""
    patches, p = [], geometry.patch_size
    for level, size in enumerate(geometry.level_sizes):
        padded = np.ones((3, size[0] + p, size[1] + p))
        padded[:, : size[0], : size[1]] = slow_resample(picture, size)
        for index in range(*geometry.offsets[level : level + 2]):
            row, col = (int(v) for v in geometry.level_box(index)[:2])
            patches.append(padded[:, row : row + p, col : col + p])
    return np.stack(patches)
