# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Stain variation and normalization as maps of single pixels, so that thumbnail and patches of an image change alike.

By Beer-Lambert, optical density is linear in the amounts of stain. The density of a pixel is split into hematoxylin,
eosin and residual (Ruifrok and Johnston 2001, as in scikit-image), each amount is scaled and shifted, and the density
is put together again. Since each pixel is mapped by itself, the map may be applied to any crop or thumbnail.

A normalization takes the colors of the two stains of an image, and how dense they are, to those of a reference
(Macenko et al. 2009). MONAI's ``ExtractHEStains`` finds the colors, and the reference is that of ``NormalizeHEStains``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from skimage.color import hed_from_rgb, rgb_from_hed

__all__ = ["MACENKO", "StainMap", "StainNormalization"]

MACENKO = "macenko"

_LEAST_ANGLE = 0.01  # radians, about, between the colors of two stains


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


@dataclass(frozen=True)
class StainNormalization:
    """Takes hematoxylin and eosin of one image to those of a reference.

    Args:
        matrix: 3 x 3 numbers, row by row, that take the absorbance of a pixel (red, green, blue) to the one it gets.
        light: intensity of a pixel through which all light comes.
    """

    matrix: tuple[float, ...]
    light: float = 240.0
    method = MACENKO

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Map ``uint8`` pixels of shape ``(..., 3)`` to pixels of the same shape and type."""
        values = np.arange(256, dtype=np.float32)
        absorbance_of_value = _find_absorbance(values, self.light)
        matrix = np.asarray(self.matrix, np.float32).reshape(3, 3)
        absorbance = absorbance_of_value[pixels] @ matrix.T
        light = self.light * np.exp(-absorbance)
        return np.clip(light, 0, 255).astype(np.uint8)

    @classmethod
    def fit(cls, pixels: np.ndarray) -> StainNormalization:
        """The normalization of an image, by the colors of its stains and how dense they are.

        Args:
            pixels: ``uint8`` ``(height, width, 3)``, the image or its thumbnail.

        Raises:
            ValueError: if two stains cannot be told apart in it.
        """
        from monai.apps.pathology.transforms.stain.array import NormalizeHEStains  # takes a second to import

        usual = NormalizeHEStains()
        stains = usual.stain_extractor(pixels).astype(np.float64)  # absorbance (red, green, blue) of two stains
        stains = stains[:, np.argsort(-stains[0])]  # hematoxylin first, which absorbs more red: MONAI 1.6 has it second
        amounts_of = np.linalg.pinv(stains)
        absorbance = _find_absorbance(pixels.reshape(-1, 3).astype(np.float64), usual.tli)
        densest = np.percentile(absorbance @ amounts_of.T, 99, axis=0)
        both, second = np.linalg.svd(stains, compute_uv=False)
        if not second > _LEAST_ANGLE * both or not (densest > 0).all():
            raise ValueError("hematoxylin and eosin cannot be told apart in it.")
        matrix = usual.target_he @ np.diag(usual.max_cref / densest) @ amounts_of
        return cls(tuple(matrix.ravel().tolist()), float(usual.tli))


def _find_absorbance(values: np.ndarray, light: float) -> np.ndarray:
    """Absorbance of each value of a pixel; of one that is lighter than ``light`` none."""
    return -np.log(np.minimum(values + 1, light) / light)
