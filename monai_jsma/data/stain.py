# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Stain variation as a map of single pixels, so that thumbnail and patches of an image change alike.

By Beer-Lambert, optical density is linear in the amounts of stain. The density of a pixel is split into hematoxylin,
eosin and residual (Ruifrok and Johnston 2001, as in scikit-image), each amount is scaled and shifted, and the density
is put together again. Since each pixel is mapped by itself, the map may be applied to any crop or thumbnail.
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
        values = np.arange(256, dtype=np.float32)
        density_of_value = -np.log((values + 1) / 256)

        # stain amounts = density @ hed_from_rgb; scaled, shifted, and back to density: one affine map
        matrix = (hed_from_rgb * np.asarray(self.scale)) @ rgb_from_hed
        bias = np.asarray(self.shift) @ rgb_from_hed
        density = density_of_value[pixels] @ matrix.astype(np.float32)
        density = density + bias.astype(np.float32)

        density = np.maximum(density, 0)  # no stain lets more light through than there is
        light = np.rint(256 * np.exp(-density) - 1)
        return np.maximum(light, 0).astype(np.uint8)
