# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Stain variation as a pointwise map of colours, so that thumbnail and patches of a picture change alike.

By Beer-Lambert, optical density is linear in the amounts of stain. A pixel's density is split into hematoxylin, eosin
and residual (Ruifrok and Johnston 2001, as in scikit-image), each amount is scaled and shifted, and the sum is put
together again. Because the map knows one pixel at a time, it may be applied to any crop or thumbnail, in any order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from skimage.color import hed_from_rgb, rgb_from_hed

__all__ = ["StainMap"]


@dataclass(frozen=True)
class StainMap:
    """Scales and shifts the amounts of hematoxylin, eosin and residual.

    Args:
        scale: factors of the three amounts; 1 changes nothing.
        shift: summands of the three amounts, in optical density; 0 changes nothing.
    """

    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Map ``uint8`` pixels of shape ``(..., 3)`` to pixels of the same shape and type."""
        density = -np.log((np.arange(256, dtype=np.float32) + 1) / 256)
        matrix = (hed_from_rgb * np.asarray(self.scale)) @ rgb_from_hed
        bias = np.asarray(self.shift) @ rgb_from_hed
        mapped = density[pixels] @ matrix.astype(np.float32) + bias.astype(np.float32)
        light = np.exp(-np.maximum(mapped, 0))  # no stain lets more light through than there is
        return np.maximum(np.rint(256 * light - 1), 0).astype(np.uint8)
