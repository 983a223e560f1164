# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""One kind of pixel for everyone: ``uint8`` RGB. Axis order is (row, column, sample).

The rules: grey is repeated, transparency is laid on white, 16 bits become 8 by ``v / 257`` rounded to the nearest (so
65535 is 255, as in libtiff and with it OpenSlide), and a file's colour profile is left alone.
"""

from __future__ import annotations

import numpy as np

__all__ = ["to_rgb"]


def to_rgb(pixels: np.ndarray, *, premultiplied: bool = False) -> np.ndarray:
    """Pixels of 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha) samples as RGB on white.

    Args:
        pixels: ``uint8`` or ``uint16`` of shape ``(height, width, samples)``.
        premultiplied: the colours were already multiplied by alpha.

    Returns:
        ``uint8`` of shape ``(height, width, 3)``; the input itself where it already is that.
    """
    if pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    samples = pixels.shape[2]
    if samples % 2 == 0:
        pixels = _on_white(pixels[..., :-1], pixels[..., -1:], premultiplied)
    return pixels if samples > 2 else np.repeat(pixels, 3, axis=2)


def _on_white(colour: np.ndarray, alpha: np.ndarray, premultiplied: bool) -> np.ndarray:
    if alpha.size == 0 or alpha.min() == 255:
        return np.ascontiguousarray(colour)
    light, cover = colour.astype(np.uint16), alpha.astype(np.uint16)
    if premultiplied:
        return np.minimum(light + (255 - cover), 255).astype(np.uint8)
    return ((light * cover + 255 * (255 - cover) + 127) // 255).astype(np.uint8)
