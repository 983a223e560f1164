# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Magnifications chosen by rule: halving until one patch covers the picture (the paper's future work, Section 5).

Sizes are (height, width) in pixels, spacings micrometres per pixel (mpp).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real

from monai_jsma.data.geometry import PatchGeometry
from monai_jsma.data.magnification import Magnification, to_mpp

__all__ = ["automatic_magnifications"]


def automatic_magnifications(
    size: Sequence[int],
    mpp: float | str | Magnification,
    patch_size: int,
    finest: float | str | Magnification | None = None,
) -> tuple[float, ...]:
    """The magnifications of pictures of a size: each shows half as much detail as the next, the first fits one patch.

    A network has weights of its own for each magnification, so they are chosen once, for the pictures of its training.
    Others are looked at with the same: in a smaller picture several of them have one cell, in a larger one none has.

    Args:
        size: height and width of the pictures, in pixels of ``mpp``.
        mpp: their spacing in um per pixel, or a name ("100X").
        patch_size: height and width of a patch, in pixels of its magnification.
        finest: the finest magnification; ``mpp`` by default.

    Returns:
        spacings in um per pixel, coarse to fine. All but the coarsest have more than one cell. If one patch covers the
        pictures at the finest, that is all.

    Raises:
        ValueError: when a size or spacing is missing or not positive.

    Example::

        >>> automatic_magnifications((1536, 2048), 0.42, 299)
        (3.36, 1.68, 0.84, 0.42)
    """
    if (
        not isinstance(size, Sequence)
        or len(size) != 2
        or not all(isinstance(n, Real) and 1 <= n < math.inf for n in size)
    ):
        raise ValueError(f"size must be the height and width of the pictures, in pixels, but got {size!r}.")
    height, width = size
    spacings = [to_mpp(mpp if finest is None else finest)]
    while PatchGeometry((height, width), to_mpp(mpp), spacings[-1:], patch_size).num_cells > 1:
        spacings.append(2 * spacings[-1])
    return tuple(reversed(spacings))
